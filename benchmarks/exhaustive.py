"""`make exhaustive`: whether `recommend` finds nearly the best of a fixed grid tried whole.

The grid: WARM_IP_TARGET 1 to 20, MINIMUM_IP_TARGET 0 and 2 to 44 in steps of 2 where they say
something beside it, the same with prefixes, WARM_ENI_TARGET and WARM_PREFIX_TARGET 1 to 3; five
seeds. Each cell is judged as `recommend` judges: the promise is kept on every seed.

The loads are three generated shapes, and Alibaba's openb trace, which is not shipped: give its
file with `--openb FILE`. It is laid over itself eight times within five days, made three hundred
times as fast, and thinned to a twentieth, so that four nodes have 28 pods at most, 50 come in the
worst minute, and half of them live for a second and a half. Pods are placed by max-pods alone.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cni.allocator.behaviour import PRESETS
from cni.settings import Settings, parse_assignments
from sim import trace as traces
from sim.executor import Processes
from sim.grid import Place
from sim.node_type import named
from sim.recommend import recommend
from sim.scenario import Scenario, SubnetPlan, scenario_for
from sim.search import Choice, Space, Trials
from sim.slo import parse_slo
from sim.sources.shapes import generate
from sim.sweep import Bench
from sim.trace import Trace


@dataclass(frozen=True, slots=True)
class Load:
    """Pods that four m5.large meet, and what they are promised."""

    name: str
    slo: str
    values: tuple[tuple[str, str], ...] = ()

    def trace(self, openb: Path | None) -> Trace | None:
        """Generate the pods, or make them of openb's file; None where that is not there."""
        if self.name != OPENB:
            return generate(self.name, dict(self.values), seed=1)
        if openb is None:
            return None
        overlaid = traces.replicate(traces.load(openb), 8, seed=1, jitter_s=5 * 86_400.0)
        return traces.thin(traces.compress(overlaid, 300.0), 0.05, seed=1)


OPENB = "openb"
LOADS = (
    Load("minute-jobs", "p99_wait<=15s,refused<=2%,throttled<=1%", (("duration_s", "900"),)),
    Load("rolling-restart", "p99_wait<=15s,refused<=5%,throttled<=1%", (("pods", "40"),)),
    Load(
        "steady",
        "p99_wait<=1s,refused<=0.5%,throttled<=1%",
        (("rate_per_s", "0.3"), ("mean_life_s", "120"), ("duration_s", "1200")),
    ),
    Load(OPENB, "p99_wait<=1s,refused<=1%,throttled<=1%"),
)
SEEDS = range(5)
MOST, SHARE = 1.05, 0.1


def scenario_at(place: Place, settings: Settings) -> Scenario:
    """Make the scenario of a cell as the command does."""
    return scenario_for(
        place.node_type,
        settings,
        subnets=place.subnets,
        behaviour=PRESETS[place.behaviour],
        nodes=place.nodes,
        seed=place.seed,
        ignore_requests=True,
    )


def grid() -> list[Choice]:
    """Return every cell."""
    whole = [Choice(mode, "whole", warm) for mode in (False, True) for warm in (1, 2, 3)]
    pairs = [
        Choice(mode, "ip", warm, floor)
        for mode in (False, True)
        for warm in range(1, 21)
        for floor in range(0, 45, 2)
    ]
    return Space({False: 27, True: 110}, 0.0).kept([*whole, *pairs])


def compare(load: Load, trace: Trace, behaviour: str, jobs: int) -> bool:
    """Search and try the whole grid; print both, and return whether the search came near."""
    place = Place(named("m5.large"), behaviour, (SubnetPlan("10.0.0.0/24"),), 4, None, 0)

    def at(choice: Choice, seed: int) -> Scenario:
        settings = parse_assignments(choice.words, lenient=behaviour == "upstream")
        return scenario_at(replace(place, seed=seed), settings)

    with Processes(trace, jobs) as pool:
        limits = parse_slo(load.slo)
        started = time.monotonic()
        answer, _ = recommend(Bench(trace, pool), place, scenario_at, limits, seeds=len(SEEDS))
        searched_s = time.monotonic() - started
        every = Trials(Bench(trace, pool), at, limits, SEEDS)
        # Cells without a difference (equal targets) are run once; they count all the same.
        every.measure(grid(), SEEDS)
    best = every.ranked()[0]
    fewest = every.mean(best, "taken_mean")
    ratio = answer.best.taken_mean / fewest
    share = answer.runs / every.runs
    good = answer.feasible == every.keeps(best) and ratio <= MOST and share <= SHARE
    kept = "kept" if every.keeps(best) else "kept by none"
    print(f"{load.name}, {behaviour}, {load.slo}: {'near enough' if good else 'NOT NEAR ENOUGH'}")
    print(f"  grid       {best}: {fewest:.2f} addresses, {len(every.tried)} cells x {len(SEEDS)}")
    print(f"  recommend  {' '.join(answer.best.words)}: {answer.best.taken_mean:.2f} addresses")
    print(
        f"  {ratio:.4f} of the addresses, {answer.runs} of {every.runs} runs ({share:.1%}), {kept}"
    )
    print(
        f"  {searched_s:.0f} s against {time.monotonic() - started - searched_s:.0f} s", flush=True
    )
    return good


def main(arguments: Sequence[str]) -> int:
    """Compare on each load and behaviour named, by default all; exit 1 where one is not near."""
    parser = argparse.ArgumentParser(prog="benchmarks.exhaustive", description=__doc__)
    parser.add_argument("--openb", type=Path, help="openb_pod_list_default.csv")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--load", action="append", choices=[load.name for load in LOADS])
    parser.add_argument("--behaviour", action="append", choices=list(PRESETS))
    asked = parser.parse_args(arguments)
    missed = 0
    for load in LOADS:
        if asked.load and load.name not in asked.load:
            continue
        trace = load.trace(asked.openb)
        if trace is None:
            print(f"{load.name}: left out; it needs --openb FILE")
            continue
        for behaviour in asked.behaviour or PRESETS:
            missed += not compare(load, trace, behaviour, asked.jobs)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
