"""The example that ships: made by a recipe, and of a size that ten small nodes can carry.

To write it anew after a change of the recipe: `python -m tests.sim.test_example`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sim.sources import shapes
from sim.trace import Trace, describe, load, merge, save, shift

EXAMPLE = Path(__file__).resolve().parents[2] / "sim" / "examples" / "web-and-jobs.csv"
NODES = 10
NODE_PODS = 29
NODE_CPU_M = 1_900
NODE_MEMORY_MIB = 7_000


def web_and_jobs() -> Trace:
    """Return four hours of web pods, two rolling restarts, cron jobs and two bursts."""
    parts = {
        "web": shapes.steady(
            rate_per_s=0.05, mean_life_s=1200, duration_s=14_400, cpu_m=60, memory_mib=128, seed=1
        ),
        "shop": shapes.rolling_restart(
            pods=40,
            batch=10,
            between_s=30,
            ready_s=10,
            start_s=3000,
            rest_s=5500,
            restarts=2,
            cpu_m=100,
            memory_mib=256,
            seed=2,
        ),
        "cron": shapes.minute_jobs(jobs=4, duration_s=14_400, cpu_m=50, memory_mib=64, seed=3),
        "burst": shift(
            shapes.scale(
                pods=80,
                ramp_s=5,
                hold_s=900,
                rest_s=3800,
                repeats=2,
                cpu_m=50,
                memory_mib=64,
                seed=4,
            ),
            600,
        ),
    }
    return merge(parts, origin="web-and-jobs.csv")


def test_the_example_is_what_its_recipe_makes(tmp_path: Path) -> None:
    """The file in the repository equals the recipe's output to the byte."""
    save(web_and_jobs(), tmp_path / EXAMPLE.name)

    assert (tmp_path / EXAMPLE.name).read_bytes() == EXAMPLE.read_bytes()


def test_the_example_fits_ten_small_nodes() -> None:
    """Pods, CPU and memory stay below four fifths of ten m5.large nodes at every instant."""
    trace = load(EXAMPLE)
    instant = np.concatenate([trace.departure_s(), trace.arrival_s])
    order = np.argsort(instant, kind="stable")

    def peak(request: np.ndarray) -> int:
        return int(np.cumsum(np.concatenate([-request, request])[order]).max())

    assert describe(trace).peak_pods <= 0.8 * NODES * NODE_PODS
    assert peak(trace.cpu_m) <= 0.8 * NODES * NODE_CPU_M
    assert peak(trace.memory_mib) <= 0.8 * NODES * NODE_MEMORY_MIB


def test_the_example_has_calm_and_bursts() -> None:
    """1,500 to 2,500 pods in three to five hours, and 80 of them at once twice."""
    trace = load(EXAMPLE)
    figures = describe(trace)
    late = trace.arrival_s[trace.arrival_s > 0]
    within_5_s = np.searchsorted(late, late + 5.0) - np.arange(len(late))

    assert 1_500 <= figures.pods <= 2_500
    assert 3 * 3600 <= figures.span_s <= 5 * 3600
    # Two windows of 5 s that lie an hour apart, apart from the pods there at zero.
    full = late[within_5_s >= 80]
    assert len(full)
    assert full[-1] - full[0] > 3600
    assert figures.mean_pods < 0.6 * figures.peak_pods


if __name__ == "__main__":
    save(web_and_jobs(), EXAMPLE)
