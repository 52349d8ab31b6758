"""The window of assigned addresses forgets in time, neither earlier nor never."""

import random

from cni.allocator.extremes import BUCKETS, Extremes


def test_a_peak_is_remembered_for_the_window_and_forgotten_soon_after() -> None:
    """The most of a window counts for its length, and for a bucket more at most."""
    extremes = Extremes(600.0, 0, 0.0)
    extremes.observe(0, 40, 100.0)
    extremes.observe(40, 0, 130.0)
    assert extremes.over_window(0, 699.0) == (40, 0)
    assert extremes.over_window(0, 130.0 + 600.0 + 600.0 / BUCKETS + 1) == (0, 0)


def test_at_the_instant_of_change_something_is_forgotten() -> None:
    """Woken at `changes_at`, the window is never as it was with the same instant to wake at."""
    rng = random.Random(1)
    for _ in range(3000):
        now = rng.uniform(0, 1e6)
        extremes = Extremes(600.0, 0, now)
        extremes.observe(0, 5, now + rng.uniform(0, 49))
        now += rng.uniform(50, 300)
        extremes.observe(5, 2, now)
        extremes.over_window(2, now)
        for _ in range(20):
            then = extremes.changes_at
            if then == float("inf"):
                break
            assert then > now
            now = then
            extremes.over_window(2, now)
        else:
            raise AssertionError("it never comes to rest")
