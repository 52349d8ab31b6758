"""The window of assigned addresses forgets in time, neither earlier nor never."""

import random
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from cni.allocator.extremes import Extremes

WINDOW_S, WIDTH_S, MEMORY_S = 600.0, 50.0, 3600.0


def some_extremes(now: float = 0.0) -> Extremes:
    """Return a window that starts with no address assigned."""
    return Extremes(MEMORY_S, WIDTH_S, 0, now)


def test_a_peak_is_remembered_for_the_window_and_forgotten_soon_after() -> None:
    """The most of a window counts for its length, and for a bucket more at most."""
    extremes = some_extremes()
    extremes.observe(0, 40, 100.0)
    extremes.observe(40, 0, 130.0)
    assert extremes.over(WINDOW_S, 0, 699.0) == (40, 0)
    assert extremes.over(WINDOW_S, 0, 130.0 + WINDOW_S + WIDTH_S + 1) == (0, 0)
    assert extremes.over(MEMORY_S, 0, 900.0) == (40, 0)


def test_at_the_instant_of_change_something_is_forgotten() -> None:
    """Woken at `changes_at`, the window is never as it was with the same instant to wake at."""
    rng = random.Random(1)
    for _ in range(3000):
        now = rng.uniform(0, 1e6)
        extremes = some_extremes(now)
        extremes.observe(0, 5, now + rng.uniform(0, 49))
        now += rng.uniform(50, 300)
        extremes.observe(5, 2, now)
        extremes.over(WINDOW_S, 2, now)
        for _ in range(20):
            then = extremes.changes_at(WINDOW_S, now)
            if then == inf:
                break
            assert then > now
            now = then
            extremes.over(WINDOW_S, 2, now)
        else:
            raise AssertionError("it never comes to rest")


def test_one_deployment_that_comes_and_goes_turns_once() -> None:
    """Up to 45 pods and down to none again is one turn, however long it takes."""
    extremes = some_extremes()
    now, value = 0.0, 0
    for change in [1] * 45 + [-1] * 45:
        now += 7.0
        extremes.observe(value, value + change, now)
        value += change
    extremes.over(WINDOW_S, value, now + 60.0)
    assert extremes.turns(MEMORY_S, now + 60.0) == 1


def test_pods_that_come_and_go_turn_all_the_time() -> None:
    """A pod each ten minutes makes a turn each time, and old turns are forgotten."""
    extremes = some_extremes()
    for n in range(10):
        extremes.observe(0, 1, 600.0 * n)
        extremes.observe(1, 0, 600.0 * n + 200.0)
    assert extremes.turns(MEMORY_S, 5700.0) >= 6
    assert extremes.turns(MEMORY_S, 20_000.0) == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 400.0), st.integers(0, 50)), max_size=40))
def test_the_window_covers_what_it_promises(steps: list[tuple[float, int]]) -> None:
    """Extremes over the window are those of a plain list, or of at most a bucket more."""
    extremes = some_extremes()
    history = [(0.0, 0)]
    now, value = 0.0, 0
    for pause, target in steps:
        now += pause
        extremes.observe(value, target, now)
        value = target
        history.append((now, value))
    high, low = extremes.over(WINDOW_S, value, now)

    def exact(seconds: float) -> tuple[int, int]:
        start = now - seconds
        held = [v for t, v in history if t > start]
        before = [v for t, v in history if t <= start]
        values = held + before[-1:]
        return max(values), min(values)

    least, most = exact(WINDOW_S - WIDTH_S), exact(WINDOW_S + 2 * WIDTH_S)
    assert least[0] <= high <= most[0]
    assert most[1] <= low <= least[1]
