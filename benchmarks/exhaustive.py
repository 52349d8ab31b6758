"""`make exhaustive`: whether `recommend` finds nearly the best of a fixed grid tried whole.

The grid: WARM_IP_TARGET 1 to 20, MINIMUM_IP_TARGET 0 and 2 to 44 in steps of 2 where they say
something beside it, the same with prefixes, WARM_ENI_TARGET and WARM_PREFIX_TARGET 1 to 3; five
seeds. Each cell is judged as `recommend` judges: the promise is kept on every seed.
"""

import os
import sys
import time
from collections.abc import Sequence

from cni.allocator.behaviour import PRESETS
from cni.settings import Settings, parse_assignments
from sim.executor import Processes
from sim.grid import Place
from sim.node_type import named
from sim.recommend import recommend
from sim.scenario import Scenario, SubnetPlan, scenario_for
from sim.search import Choice, Space, Trials
from sim.slo import parse_slo
from sim.sources.shapes import generate
from sim.sweep import Bench

SHAPE = ("minute-jobs", {"duration_s": "900"})
SLO = "p99_wait<=15s,refused<=2%,throttled<=1%"
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


def main(arguments: Sequence[str]) -> int:
    """Compare on each behaviour named, by default both; exit 1 where it is not near enough."""
    missed = 0
    trace = generate(SHAPE[0], SHAPE[1], seed=1)
    for behaviour in arguments or tuple(PRESETS):
        place = Place(named("m5.large"), behaviour, (SubnetPlan("10.0.0.0/24"),), 4, None, 0)

        def at(choice: Choice, seed: int, where: Place = place) -> Scenario:
            settings = parse_assignments(choice.words, lenient=where.behaviour == "upstream")
            own = Place(where.node_type, where.behaviour, where.subnets, where.nodes, None, seed)
            return scenario_at(own, settings)

        with Processes(trace, os.cpu_count() or 1) as pool:
            limits = parse_slo(SLO)
            started = time.monotonic()
            answer, _ = recommend(Bench(trace, pool), place, scenario_at, limits, seeds=len(SEEDS))
            searched_s = time.monotonic() - started
            bench = Bench(trace, pool)
            every = Trials(bench, at, limits, SEEDS)
            # Cells without a difference (equal targets) are run once; they count all the same.
            every.measure(grid(), SEEDS)
        best = every.ranked()[0]
        fewest = every.mean(best, "taken_mean")
        ratio = answer.best.taken_mean / fewest
        share = answer.runs / every.runs
        good = answer.feasible == every.keeps(best) and ratio <= MOST and share <= SHARE
        missed += not good
        print(f"{behaviour}, {SLO}, {SHAPE[0]}: {'near enough' if good else 'NOT NEAR ENOUGH'}")
        print(
            f"  grid       {best}: {fewest:.2f} addresses, {len(every.tried)} cells x {len(SEEDS)}"
        )
        print(f"  recommend  {' '.join(answer.best.words)}: {answer.best.taken_mean:.2f} addresses")
        print(f"  {ratio:.4f} of the addresses, {answer.runs} of {every.runs} runs ({share:.1%})")
        print(f"  {searched_s:.0f} s against {time.monotonic() - started - searched_s:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
