"""Python's collector during a run: it looks seldom, and is as it was afterwards."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim import suite
from sim.garbage import YOUNG, collected_seldom
from sim.simulation import run

SUITE = Path(__file__).parents[2] / "benchmarks" / "suite.toml"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    enabled, thresholds = gc.isenabled(), gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    (gc.enable if enabled else gc.disable)()


class _Ring:
    """Something that only the collector can drop."""

    alive = 0

    def __init__(self) -> None:
        self.itself = self
        _Ring.alive += 1

    def __del__(self) -> None:
        _Ring.alive -= 1


def test_what_was_set_is_set_again() -> None:
    """Thresholds are raised within the context alone, also where it ends with an error."""
    gc.set_threshold(500, 7, 9)

    def fail() -> None:
        with collected_seldom():
            assert gc.get_threshold()[0] == YOUNG
            raise KeyError

    with pytest.raises(KeyError):
        fail()

    assert gc.get_threshold() == (500, 7, 9)


def test_rings_of_a_large_run_are_gone_behind_it() -> None:
    """What a large run leaves does not lie beside the next one."""
    _Ring.alive = 0
    with collected_seldom():
        kept = [_Ring() for _ in range(2 * YOUNG)]
        del kept
        assert _Ring.alive > 0

    assert _Ring.alive == 0


@pytest.mark.parametrize("thresholds", [(0, 10, 10), (YOUNG * 5, 3, 3)])
def test_who_chose_to_collect_less_keeps_the_choice(thresholds: tuple[int, int, int]) -> None:
    """A collector that is off, or looks more seldom still, stays so."""
    gc.set_threshold(*thresholds)

    with collected_seldom():
        assert gc.get_threshold() == thresholds

    assert gc.get_threshold() == thresholds


def test_a_run_that_ends_amid_failing_calls_is_cleared_away_silently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Recipes that were handling an error when the run ended are closed once each."""
    told: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: told.append(args.exc_value))
    case = next(c for c in suite.load(SUITE).cases if c.name == "throttled-account (upstream)")
    run(case.scenario, case.pods)
    gc.collect()

    assert told == []
