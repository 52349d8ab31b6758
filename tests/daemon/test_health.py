"""When the daemon is live and ready: every way from one state to another."""

from math import inf

import pytest

from cni.daemon.health import (
    EC2_PERMISSION,
    FIRST_REFILL,
    LEDGER,
    PARTS,
    Health,
    HealthBook,
    Part,
)

DISK = Part("disk", patience_s=10.0)
ROLE = Part("role", patience_s=inf)
BEAT = Part("beat", patience_s=5.0, silence_s=30.0)


def a_book(*parts: Part) -> HealthBook:
    """Return a book that was opened at 100 s."""
    return HealthBook(parts, 100.0)


def test_a_part_that_was_not_heard_of_keeps_the_daemon_from_being_ready() -> None:
    """A daemon that starts is live, so that nobody kills it, and takes no pods."""
    assert a_book(DISK).health(5000.0) == Health(
        live=True, ready=False, reasons=("disk: not up yet",)
    )


def test_a_daemon_whose_parts_work_is_ready() -> None:
    """Once all parts were heard of there is nothing to say."""
    book = a_book(DISK, ROLE)

    book.ok(DISK, 101.0)
    half = book.health(101.0)
    book.ok(ROLE, 102.0)

    assert (half.ready, half.reasons) == (False, ("role: not up yet",))
    assert book.health(5000.0) == Health(live=True, ready=True, reasons=())


def test_a_failing_part_makes_the_daemon_unready_at_once_and_dead_after_its_patience() -> None:
    """A restart is the last resort; until then the reason tells for how long it fails."""
    book = a_book(DISK)
    book.ok(DISK, 100.0)

    book.failing(DISK, "no space left on device", 200.0)

    assert book.health(200.0) == Health(
        live=True, ready=False, reasons=("disk: no space left on device",)
    )
    assert book.health(210.0).live
    assert book.health(210.5) == Health(
        live=False, ready=False, reasons=("disk: no space left on device (for 10 s)",)
    )


def test_a_part_that_fails_from_its_first_report_runs_out_of_patience_too() -> None:
    """A ledger that could never be written is no better than one that no longer can."""
    book = a_book(DISK)

    book.failing(DISK, "read-only", 100.0)

    assert book.health(110.0).live
    assert not book.health(111.0).live


def test_failing_again_does_not_begin_patience_anew() -> None:
    """It has failed since it first said so, whatever the latest reason."""
    book = a_book(DISK)

    book.failing(DISK, "no space", 200.0)
    book.failing(DISK, "read-only", 209.0)

    assert book.health(211.0) == Health(
        live=False, ready=False, reasons=("disk: read-only (for 11 s)",)
    )


def test_a_part_that_recovers_makes_the_daemon_live_and_ready_again() -> None:
    """One good report ends all that was said before, also the time it failed for."""
    book = a_book(DISK)
    book.failing(DISK, "no space", 200.0)
    assert not book.health(300.0).live

    book.ok(DISK, 300.0)
    assert book.health(300.0) == Health(live=True, ready=True, reasons=())

    book.failing(DISK, "no space", 301.0)
    assert book.health(310.0).live


def test_a_part_that_no_restart_mends_never_asks_for_one() -> None:
    """A role without a permission lacks it in the next process too."""
    book = a_book(ROLE)

    book.failing(ROLE, "ec2:AssignPrivateIpAddresses denied", 101.0)

    health = book.health(1e6)
    assert (health.live, health.ready) == (True, False)


def test_a_silent_part_fails_when_its_silence_is_too_long() -> None:
    """It is unready after `silence_s` and asks for a restart `patience_s` later."""
    book = a_book(BEAT)
    book.ok(BEAT, 100.0)

    assert book.health(130.0) == Health(live=True, ready=True, reasons=())
    assert book.health(131.5) == Health(
        live=True, ready=False, reasons=("beat: silent for more than 30 s (for 2 s)",)
    )
    assert not book.health(135.5).live

    book.ok(BEAT, 136.0)
    assert book.health(136.0).ready


def test_a_part_that_never_beats_counts_from_the_start() -> None:
    """The first heartbeat may be missing as well as any other."""
    book = a_book(BEAT)

    assert book.health(120.0).reasons == ("beat: not up yet",)
    assert not book.health(136.0).live


def test_every_part_that_fails_is_named_in_a_fixed_order() -> None:
    """Reasons come in the order of the parts, not in that of the reports."""
    book = a_book(ROLE, DISK)

    book.failing(DISK, "full", 200.0)
    book.failing(ROLE, "denied", 200.0)

    assert book.health(200.0).reasons == ("role: denied", "disk: full")


def test_one_dead_part_is_enough() -> None:
    """Parts that still have patience, before it or after it, change nothing."""
    for parts in ((DISK, ROLE), (ROLE, DISK)):
        book = a_book(*parts)
        for part in parts:
            book.failing(part, "x", 200.0)

        assert not book.health(300.0).live


def test_a_part_of_another_daemon_is_refused() -> None:
    """A report that no probe would show is a fault of the wiring."""
    with pytest.raises(AssertionError, match="role is not a part of this daemon"):
        a_book(DISK).ok(ROLE, 100.0)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_which_of_our_parts_a_restart_mends(part: Part) -> None:
    """A disk, a permission and a slow EC2 keep the node unready; any other part ends the daemon."""
    book = HealthBook((part,), 0.0)
    book.ok(part, 0.0)
    assert book.health(1.0).ready

    book.failing(part, "it broke", 1.0)

    assert not book.health(1.0).ready
    assert book.health(3600.0).live == (part in (LEDGER, EC2_PERMISSION, FIRST_REFILL))
