"""What a ledger's lines add up to, whatever became of some of them."""

import json
from dataclasses import replace
from ipaddress import IPv4Address
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.allocator.model import EniId, SandboxKey
from cni.daemon.holdings import (
    COOLING_KEPT_S,
    VERSION,
    Book,
    Cooling,
    Entry,
    Holding,
    Release,
    entry_line,
    header_line,
    read_ledger,
)

BOOT = "7f4d3c2b-boot"
NOW = 1_700_000_000.0


def sandbox(number: int) -> SandboxKey:
    """Return the key of pod `number`."""
    return SandboxKey("aws-cni", f"{number:012d}abcdef", "eth0")


def address(number: int) -> IPv4Address:
    """Return address `number`."""
    return IPv4Address("10.0.0.0") + number


def holding(pod: int, host: int, at: float = NOW) -> Holding:
    """Return what pod and address make together."""
    return Holding(
        sandbox(pod),
        address(host),
        EniId("eni-0123456789abcdef0"),
        1,
        f"eni{pod:011x}",
        "default",
        f"web-{pod}",
        f"/var/run/netns/cni-{pod}",
        at,
    )


def release(pod: int, host: int, at: float = NOW) -> Release:
    """Return the release of an address by a pod."""
    return Release(sandbox(pod), address(host), at)


def ledger(*entries: Entry, boot: str = BOOT) -> bytes:
    """Return a ledger's bytes."""
    return header_line(boot) + b"".join(map(entry_line, entries))


def held(data: bytes, now: float = NOW) -> dict[str, int]:
    """Return who holds what after reading, by numbers."""
    book = read_ledger(data, BOOT, now).book
    return {one.pod_name: int(one.address) & 0xFF for one in book.holdings.values()}


names = st.text() | st.text(st.characters(codec=None))
entries = st.one_of(
    st.builds(
        Holding,
        st.builds(SandboxKey, names, names, names),
        st.integers(0, 2**32 - 1).map(IPv4Address),
        names.map(EniId),
        st.integers(0, 99),
        names,
        names,
        names,
        names,
        st.floats(0, 4e9),
    ),
    st.builds(
        Release,
        st.builds(SandboxKey, names, names, names),
        st.integers(0, 2**32 - 1).map(IPv4Address),
        st.floats(0, 4e9),
    ),
)


@given(entries)
def test_entries_survive(entry: Entry) -> None:
    """Whatever a runtime calls things, what is read is what was written, in one line of ASCII."""
    line = entry_line(entry)
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert json.loads(line)
    reading = read_ledger(header_line(BOOT) + line, BOOT, 0.0)
    assert reading.problems == []
    found = list(reading.book.holdings.values())
    assert found == ([entry] if isinstance(entry, Holding) else [])


def test_releases_come_back_as_cooling() -> None:
    """A released address cools since its release, and one that is held again does not."""
    data = ledger(
        holding(1, 1), holding(2, 2), release(1, 1, NOW - 9), release(2, 2, NOW - 8), holding(3, 2)
    )
    reading = read_ledger(data, BOOT, NOW)
    assert reading.book.cooling == {address(1): NOW - 9}
    assert reading.problems == []
    assert held(data) == {"web-3": 2}


def test_a_clock_that_went_backwards_is_survived() -> None:
    """A release in the future counts as one of now, so that nothing cools for years."""
    data = ledger(holding(1, 1), release(1, 1, NOW + 1e8), holding(2, 2, NOW + 1e8))
    reading = read_ledger(data, BOOT, NOW)
    assert reading.book.cooling == {address(1): NOW}
    assert held(data) == {"web-2": 2}


def test_releases_of_long_ago_are_forgotten() -> None:
    """The list of cooling addresses cannot grow without end."""
    data = ledger(Cooling(address(1), NOW - COOLING_KEPT_S - 1), Cooling(address(2), NOW - 1))
    assert read_ledger(data, BOOT, NOW).book.cooling == {address(2): NOW - 1}


def test_an_address_of_two_sandboxes_stays_with_the_later() -> None:
    """The line between that is lost was the release; a release that is late changes nothing."""
    data = ledger(holding(1, 7, NOW), holding(2, 7, NOW - 50), release(1, 7))
    reading = read_ledger(data, BOOT, NOW)
    assert held(data) == {"web-2": 7}
    assert reading.book.cooling == {}
    both, late = reading.problems
    assert "10.0.0.7 is written for sandbox 000000000001/eth0 and later" in both
    assert "000000000002/eth0 keeps it" in both
    assert "000000000002/eth0 keeps it" in late


def test_a_sandbox_of_two_addresses_keeps_the_later() -> None:
    """The other cools: since when it was given back is not known, but not after the later line."""
    data = ledger(holding(1, 7, NOW - 60), holding(1, 8, NOW - 5))
    reading = read_ledger(data, BOOT, NOW)
    assert held(data) == {"web-1": 8}
    assert reading.book.cooling == {address(7): NOW - 5}
    (problem,) = reading.problems
    assert "it keeps 10.0.0.8, 10.0.0.7 cools" in problem


def test_the_same_line_twice_is_no_problem() -> None:
    """An assignment may be written again, and its later particulars are the true ones."""
    later = replace(holding(1, 7), netns="/proc/42/ns/net")
    reading = read_ledger(ledger(holding(1, 7), later), BOOT, NOW)
    assert reading.problems == []
    assert list(reading.book.holdings.values()) == [later]


def test_another_boot_voids_every_holding() -> None:
    """After a reboot no sandbox lives; what cooled cools on."""
    data = ledger(holding(1, 1), holding(2, 2), release(2, 2, NOW - 3), boot="the one before")
    reading = read_ledger(data, BOOT, NOW)
    assert reading.book.holdings == {}
    assert reading.book.cooling == {address(2): NOW - 3}
    (problem,) = reading.problems
    assert "1 assignments are void" in problem


def test_a_lost_header_voids_nothing() -> None:
    """To void what lives would give a pod's address to another; to keep too much would not."""
    data = b"x" + ledger(holding(1, 1))[1:]
    reading = read_ledger(data, BOOT, NOW)
    assert held(data) == {"web-1": 1}
    assert reading.damaged == 1
    assert any("its 1 assignments are kept" in problem for problem in reading.problems)


def newer_header() -> bytes:
    """Return the header of a later version of the format."""
    body = header_line(BOOT).replace(b'"version":%d' % VERSION, b'"version":%d' % (VERSION + 1))
    body = body.rpartition(b',"crc"')[0]
    return body + b',"crc":"%08x"}\n' % crc32(body)


def test_a_newer_format_is_refused() -> None:
    """Nobody guesses what a later version meant."""
    with pytest.raises(ValueError, match="run the newer version again, or drain the node"):
        read_ledger(newer_header() + b"what only the newer one understands\n", BOOT, NOW)


@pytest.mark.parametrize("unix", [float("nan"), float("inf")])
def test_a_time_that_is_none_is_not_written(unix: float) -> None:
    """A line that could not be read again would lose what it says."""
    for entry in (holding(1, 1, unix), release(1, 1, unix)):
        with pytest.raises(ValueError, match="is no time"):
            entry_line(entry)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\0" * 300, b"\xff\n{}\n[1]\nnull\n"])
def test_what_is_no_ledger_holds_nothing(data: bytes) -> None:
    """Emptiness and rubbish stop nothing."""
    assert read_ledger(data, BOOT, NOW).book.holdings == {}


PROGRAM = (
    holding(1, 1),
    holding(2, 2),
    release(1, 1, NOW - 20),
    holding(3, 3),
    holding(4, 1),
    release(3, 3, NOW - 10),
    holding(5, 3),
    release(9, 9, NOW - 1),
)


def books() -> list[tuple[dict[SandboxKey, Holding], dict[IPv4Address, float]]]:
    """Return holdings and cooling after none, one, two, … entries of PROGRAM."""
    book = Book()
    found = [(dict(book.holdings), dict(book.cooling))]
    for entry in PROGRAM:
        assert book.enter(entry) == []
        found.append((dict(book.holdings), dict(book.cooling)))
    return found


def test_cut_at_any_byte_a_ledger_gives_back_a_prefix() -> None:
    """After `kill -9` at any byte: all lines that are whole, and not a word about the torn one."""
    data = ledger(*PROGRAM)
    ends = [len(ledger(*PROGRAM[:n])) for n in range(len(PROGRAM) + 1)]
    expected = books()
    for size in range(len(data) + 1):
        reading = read_ledger(data[:size], BOOT, NOW)
        # A line that lacks nothing but its line feed is whole.
        whole = max(sum(end <= size + 1 for end in ends) - 1, 0)
        assert (reading.book.holdings, reading.book.cooling) == expected[whole], size
        assert reading.problems == [], size


def test_any_flipped_bit_costs_its_line_at_most_and_is_told() -> None:
    """A changed byte never makes an entry up; a line end that is gone costs its two lines."""
    data = ledger(*PROGRAM)
    lines = data.splitlines(keepends=True)
    owner = [n for n, line in enumerate(lines) for _ in line]
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << (at % 8)
        lost = {owner[at]} | ({owner[at] + 1} if data[at : at + 1] == b"\n" else set())
        last_feed = at == len(data) - 1
        kept = [entry for n, entry in enumerate(PROGRAM, start=1) if n not in lost]
        book = Book()
        for entry in kept:
            book.enter(entry)
        reading = read_ledger(bytes(damaged), BOOT, NOW)
        assert reading.book.holdings == book.holdings, at
        assert reading.problems or last_feed, at


def test_nobody_holds_twice_whatever_is_lost() -> None:
    """Any subset of the lines, in order, leaves each address at one sandbox at most."""
    for mask in range(1 << len(PROGRAM)):
        book = Book()
        for n, entry in enumerate(PROGRAM):
            if mask >> n & 1:
                book.enter(entry)
        addresses = [one.address for one in book.holdings.values()]
        assert len(set(addresses)) == len(addresses)
        assert not book.cooling.keys() & set(addresses)
        rest = Book()
        for line in book.lines():
            rest.enter(next(iter(_entries(line))))
        assert rest.holdings == book.holdings
        assert rest.cooling == book.cooling


def _entries(line: bytes) -> list[Entry]:
    reading = read_ledger(line, BOOT, NOW).book
    return [*reading.holdings.values()] or [Cooling(*pair) for pair in reading.cooling.items()]
