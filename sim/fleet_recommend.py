"""Settings for a fleet: one for each of its pools, and one for all, with the price of that.

First the best setting that all pools share is searched; from there each pool's own, with the
others as they are then. A promise is kept where every pool keeps it, on every seed: pods of a
calm pool do not make up for those that wait in another. Pools share subnets and request buckets,
so each run is one of the whole fleet.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cni.allocator.model import BlockKind
from sim.cell import BOUND, Figures, demand_task, fleet_task
from sim.node_pool import NodePool
from sim.recommend import RecommendError, binding_of, deploy_line
from sim.scenario import Scenario
from sim.search import Choice, Space, Trials, search
from sim.slo import Limit
from sim.sweep import Bench
from sim.tables import number, share

RUNS_MAX = 300
"""Runs that a recommendation for a fleet takes by default, over all pools and seeds."""

Make = Callable[[Mapping[str, Sequence[str]], int], Scenario]
"""Makes the scenario with these KEY=VALUE words for each pool, by name, and this seed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings for all pools, by name, with the figures of the fleet.

    `figures` are means over the seeds, but those of the limits are the worst.
    """

    words: Mapping[str, tuple[str, ...]]
    keeps: bool
    figures: Figures
    cheaper: int
    """Settings tried in its place that take fewer addresses."""
    binding: tuple[tuple[str, int], ...]
    """How many of these break which limit, the tightest first."""

    @property
    def taken_mean(self) -> float:
        """Addresses taken by the fleet on average, ENI primaries included."""
        return self.figures["taken_mean"]

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        told = {name: None if math.isnan(v) else v for name, v in self.figures.items()}
        words = {name: list(words) for name, words in self.words.items()}
        binding = [list(pair) for pair in self.binding]
        return {"settings": words, "keeps": self.keeps, "binding": binding, "figures": told}


@dataclass(frozen=True, slots=True)
class FleetAnswer:
    """The answer: each pool its own setting, or one for all; `bound` is what none can beat."""

    each: Plan
    one: Plan
    limits: tuple[Limit, ...]
    bound: float
    seeds: int
    runs: int
    warnings: tuple[str, ...]

    @property
    def feasible(self) -> bool:
        """Whether the promise is kept, with a setting for each pool at least."""
        return self.each.keeps

    @property
    def price(self) -> float:
        """Addresses that one setting for all takes more on average."""
        return self.one.taken_mean - self.each.taken_mean

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "feasible": self.feasible,
            "slo": [str(limit) for limit in self.limits],
            "each": self.each.as_dict(),
            "one": self.one.as_dict(),
            "price": self.price,
            "bound": self.bound,
            "seeds": self.seeds,
            "runs": self.runs,
            "warnings": list(self.warnings),
        }


def recommend_fleet(  # noqa: PLR0913 - what shapes the search, by name
    bench: Bench,
    make: Make,
    limits: Sequence[Limit],
    *,
    seed: int = 0,
    seeds: int = 3,
    runs_max: int = RUNS_MAX,
    progress: Callable[[int], None] | None = None,
) -> FleetAnswer:
    """Search settings for each pool of a fleet and for all of them.

    Limits are to be kept by every pool on each of the seeds, which count up from `seed`. Raises
    RecommendError where no run came to an end.
    """
    return _Search(bench, make, limits, range(seed, seed + seeds), runs_max, progress).answer()


class _Search:
    def __init__(  # noqa: PLR0913, PLR0917 - as above
        self,
        bench: Bench,
        make: Make,
        limits: Sequence[Limit],
        seeds: range,
        runs_max: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._bench = bench
        self._make = make
        self._limits = tuple(limits)
        self._seeds = seeds
        self._progress = progress
        self._runs = 0
        self._first = make({}, seeds[0])
        self._names = [pool.name for pool in self._first.pools]
        self._share = runs_max // (1 + len(self._names) if len(self._names) > 1 else 1)
        (result,) = bench.results([demand_task(self._first)])
        if result.error:
            raise RecommendError(result.error)
        self._demand = result.figures

    def answer(self) -> FleetAnswer:
        """Search for all pools together, then for each."""
        shared = self._trials(lambda choice: dict.fromkeys(self._names, choice.words))
        best = self._best(shared, self._space(self._first.pools))
        one = self._plan(shared, best, dict.fromkeys(self._names, best.words))
        each = one
        if len(self._names) > 1:
            for pool in self._first.pools:
                each = self._improved(each, pool)
        return FleetAnswer(
            each=each,
            one=one,
            limits=self._limits,
            bound=self._demand[BOUND],
            seeds=len(self._seeds),
            runs=self._runs,
            warnings=self._make(each.words, self._seeds[0]).warnings,
        )

    def _improved(self, plan: Plan, pool: NodePool) -> Plan:
        """Give one pool the setting that is best for the fleet, where it is better."""
        trials = self._trials(lambda choice: {**plan.words, pool.name: choice.words})
        best = self._best(trials, self._space([pool]))
        found = self._plan(trials, best, {**plan.words, pool.name: best.words})
        better = (not found.keeps, found.taken_mean) < (not plan.keeps, plan.taken_mean)
        return found if better else plan

    def _trials(self, words: Callable[[Choice], Mapping[str, Sequence[str]]]) -> Trials:
        trials = Trials(
            self._bench,
            lambda choice, seed: self._make(words(choice), seed),
            self._limits,
            self._seeds,
            fleet_task,
        )
        if self._progress is not None:
            tell, before = self._progress, self._runs
            trials.progress = lambda runs: tell(before + runs)
        return trials

    def _best(self, trials: Trials, space: Space) -> Choice:
        found = search(trials, space, self._share)
        self._runs += trials.runs
        if not found or math.isinf(trials.cost(found[0])[1]):
            raise RecommendError(f"no setting could be run: {trials.error(trials.tried[0])}")
        return found[0]

    def _space(self, pools: Sequence[NodePool]) -> Space:
        """Return what may be tried on all of these pools."""
        modes = [False, True] if all(pool.shape.prefixes_allowed for pool in pools) else [False]
        rooms = {mode: min(_room(pool, prefixes=mode) for pool in pools) for mode in modes}
        needs = [self._demand[pool.name] for pool in pools]
        return Space(rooms, sum(needs) / len(needs))

    def _plan(self, trials: Trials, choice: Choice, words: Mapping[str, Sequence[str]]) -> Plan:
        runs = trials.figures(choice)
        figures = {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}
        for limit in self._limits:
            figures[limit.figure] = max(run[limit.figure] for run in runs)
        told = {name: tuple(listed) for name, listed in words.items()}
        cheaper, binding = binding_of(trials, choice)
        return Plan(told, trials.keeps(choice), figures, cheaper, binding)


def _room(pool: NodePool, *, prefixes: bool) -> int:
    kind = BlockKind.PREFIX if prefixes else BlockKind.SECONDARY_IP
    return min(pool.limits.enis * pool.limits.blocks_per_eni * kind.addresses, pool.limits.pods)


def deploy(answer: FleetAnswer) -> list[str]:
    """Return the lines that set it on a cluster: for one for all, then for each pool its own.

    Each pool its own takes a daemonset for each, with a nodeSelector; they are named after it.
    """
    shared = next(iter(answer.one.words.values()))
    found = ["# one for all", deploy_line("aws-node", shared)]
    if answer.each.words != answer.one.words:
        found.append("# each pool its own: a daemonset for each, with a nodeSelector")
        found += [deploy_line(f"aws-node-{name}", w) for name, w in answer.each.words.items()]
    return found


def lines(answer: FleetAnswer) -> list[tuple[str, str]]:
    """Return the answer as (what, in words)."""
    head = "recommended" if answer.feasible else "nearest, not enough"
    rows = [(head, "each pool its own:")]
    rows += [(f"  {name}", " ".join(words)) for name, words in answer.each.words.items()]
    rows.append(("takes", _taken(answer)))
    for limit in answer.limits:
        reached = limit.told(answer.each.figures[limit.figure])
        most = limit.told(limit.most)
        where = "" if limit.name == "throttled" else " of the worst pool"
        rows.append((f"  {limit.name}", f"{reached} on the worst seed{where}, at most {most}"))
    rows += [("what binds", _binds(answer.each)), ("subnets", _subnets(answer.each))]
    shared = next(iter(answer.one.words.values()))
    rows += [("or one for all", " ".join(shared)), ("  its price", _price(answer))]
    seeds = f"{answer.seeds} of {answer.seeds} seeds"
    kept = f"kept on {seeds}" if answer.feasible else "not kept"
    rows.append(("confidence", f"{kept}; {answer.runs:,} runs of the whole fleet"))
    rows += [("warning", warning) for warning in answer.warnings]
    return rows


def _taken(answer: FleetAnswer) -> str:
    each = answer.each
    over = each.taken_mean / answer.bound - 1.0 if answer.bound else 0.0
    return (
        f"{number(each.taken_mean)} addresses on average, {number(each.figures['taken_max'])} at"
        f" most; {share(over)} above the {number(answer.bound)} that no setting can beat where no"
        " pod waits"
    )


def _binds(plan: Plan) -> str:
    if not plan.cheaper:
        return "nothing: no setting tried takes fewer addresses"
    broken = ", ".join(f"{name} (broken by {count:,})" for name, count in plan.binding)
    return f"{broken or 'chance alone'}, of {plan.cheaper:,} cheaper settings tried last"


def _subnets(plan: Plan) -> str:
    free, blocks = plan.figures["lowest_free"], plan.figures["lowest_free_prefixes"]
    if math.isnan(free):
        return "not touched"
    return (
        f"the emptiest keeps {number(round(free))} addresses and {number(round(blocks))} whole"
        " /28s free at its lowest"
    )


def _price(answer: FleetAnswer) -> str:
    if answer.one.words == answer.each.words:
        return "none: no pool does better with a setting of its own"
    if not answer.one.keeps and answer.each.keeps:
        return "it does not keep the promise"
    more = answer.price
    of_each = answer.each.taken_mean
    return f"{number(more)} addresses more on average ({share(more / of_each)})"
