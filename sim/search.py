"""Which settings to try, and which of them is best: a coarse grid, then ever finer around it.

The best setting keeps every limit on every seed and takes the fewest addresses on average. The
coarse grid and the steps around its best are tried on one seed; what looks best then has to
keep its promise on all of them. Ties go to fewer mutating calls, then to the words of the
setting, so that equal inputs give equal answers.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from sim.cell import Figures, Result, Task, run_task
from sim.scenario import Scenario
from sim.slo import Limit
from sim.sweep import Bench

FINALISTS = 6
"""Settings that are tried on all seeds, at least; more where these do not keep the promise."""

WORTH = 0.15
"""A mode whose coarse best needs this share more than the best of all is refined only where
something in it takes fewer addresses than that best, and breaks the promise."""

WARM = (1, 2, 4, 8, 16, 32)
DEMAND = (0.0, 0.5, 0.8, 1.0, 1.3, 1.7)
"""Coarse values: WARM_IP_TARGET, and MINIMUM_IP_TARGET in shares of a node's mean demand."""

Cost = tuple[float, ...]


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """A setting to try: a warm target in one of the two modes.

    rule "ip": WARM_IP_TARGET=warm MINIMUM_IP_TARGET=minimum (0: not set); "whole":
    WARM_ENI_TARGET=warm, or in prefix mode WARM_PREFIX_TARGET=warm.
    """

    prefixes: bool
    rule: str
    warm: int
    minimum: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        """The variables that make this setting, as KEY=VALUE."""
        mode = ("ENABLE_PREFIX_DELEGATION=true",) if self.prefixes else ()
        if self.rule == "whole":
            name = "WARM_PREFIX_TARGET" if self.prefixes else "WARM_ENI_TARGET"
            return (*mode, f"{name}={self.warm}")
        floor = (f"MINIMUM_IP_TARGET={self.minimum}",) if self.minimum else ()
        return (*mode, f"WARM_IP_TARGET={self.warm}", *floor)

    def __str__(self) -> str:
        """Write the words."""
        return " ".join(self.words)


@dataclass(frozen=True, slots=True)
class Space:
    """What may be tried: modes, and how many addresses a node can have in each."""

    room: Mapping[bool, int]
    demand: float
    """Addresses that a node needs on average, cooling ones among them."""

    def coarse(self) -> list[Choice]:
        """Return the coarse grid, in a fixed order."""
        found: list[Choice] = []
        for prefixes, room in self.room.items():
            found += [Choice(prefixes, "whole", warm) for warm in (1, 2)]
            floors = [round(share * self.demand) for share in DEMAND]
            # The last that fits belongs to it: nothing keeps more promises.
            warms = [min(warm, room) for warm in (WARM[::2] if prefixes else WARM)]
            pairs = product(warms, floors[::2] if prefixes else floors)
            found += [Choice(prefixes, "ip", warm, floor) for warm, floor in pairs]
        return self.kept(found)

    def kept(self, choices: Iterable[Choice]) -> list[Choice]:
        """Drop what a node has no room for, and floors that say nothing beside the warm target."""
        kept = [
            Choice(
                choice.prefixes,
                choice.rule,
                choice.warm,
                choice.minimum if choice.minimum > choice.warm else 0,
            )
            for choice in choices
            if choice.warm >= 1 and choice.minimum >= 0
        ]
        return [
            choice
            for choice in dict.fromkeys(kept)
            if max(choice.warm, choice.minimum) <= self.room[choice.prefixes]
        ]


class Trials:
    """What was tried, with its figures by seed; asks a bench for what is missing."""

    def __init__(
        self,
        bench: Bench,
        make: Callable[[Choice, int], Scenario],
        limits: Sequence[Limit],
        seeds: Sequence[int],
        task: Callable[[Scenario], Task] = run_task,
    ) -> None:
        """Judge choices by these limits; `make` gives the scenario of a choice and a seed."""
        self._task = task
        self._bench = bench
        self._make = make
        self.limits = tuple(limits)
        self.seeds = tuple(seeds)
        self._found: dict[Choice, dict[int, Result]] = {}
        self.progress: Callable[[int], None] | None = None

    @property
    def runs(self) -> int:
        """How many runs were asked for so far."""
        return sum(map(len, self._found.values()))

    @property
    def tried(self) -> list[Choice]:
        """Every choice tried, in the order of trying."""
        return list(self._found)

    def measure(self, choices: Iterable[Choice], seeds: Sequence[int]) -> None:
        """Run choices on seeds, all that are missing at once."""
        missing = [
            (choice, seed)
            for choice in dict.fromkeys(choices)
            for seed in seeds
            if seed not in self._found.get(choice, {})
        ]
        tasks = [self._task(self._make(*one)) for one in missing]
        results = self._bench.results(tasks)
        for (choice, seed), result in zip(missing, results, strict=True):
            self._found.setdefault(choice, {})[seed] = result
        if self.progress is not None:
            self.progress(self.runs)

    def figures(self, choice: Choice) -> list[Figures]:
        """Return the figures of each seed that a choice was run on and did not fail."""
        return [result.figures for result in self._found[choice].values() if not result.error]

    def error(self, choice: Choice) -> str:
        """Return the first failure of a choice; empty where none failed."""
        return next((one.error for one in self._found[choice].values() if one.error), "")

    def complete(self, choice: Choice) -> bool:
        """Tell whether a choice was run on all seeds."""
        return set(self.seeds) <= self._found[choice].keys()

    def keeps(self, choice: Choice) -> bool:
        """Tell whether every limit is kept on every seed run so far."""
        return self.cost(choice)[0] == 0.0

    def excess(self, choice: Choice, limit: Limit) -> float:
        """Return by how much of itself a limit is exceeded on the worst seed."""
        return max((limit.excess(one) for one in self.figures(choice)), default=math.inf)

    def mean(self, choice: Choice, figure: str) -> float:
        """Return the mean of a figure over the seeds."""
        values = [one[figure] for one in self.figures(choice)]
        return sum(values) / len(values) if values else math.nan

    def cost(self, choice: Choice) -> Cost:
        """Return what orders choices: the promise first, then addresses, then mutating calls."""
        if self.error(choice):
            return (math.inf, math.inf, math.inf)
        worst = max((self.excess(choice, limit) for limit in self.limits), default=0.0)
        return (worst, self.mean(choice, "taken_mean"), self.mean(choice, "mutating"))

    def ranked(self, choices: Iterable[Choice] | None = None) -> list[Choice]:
        """Order choices, the best first."""
        chosen = self.tried if choices is None else choices
        return sorted(chosen, key=lambda choice: (self.cost(choice), choice))


def search(trials: Trials, space: Space, runs_max: int) -> list[Choice]:
    """Try settings, and return those that were run on all seeds, the best first.

    No more than `runs_max` runs are asked for, less than a round of steps besides.
    """
    one = trials.seeds[:1]
    trials.measure(space.coarse(), one)
    for start in _starts(trials):
        _refine(trials, space, start, runs_max - FINALISTS * len(trials.seeds))
    _confirm(trials, runs_max)
    best = trials.ranked(filter(trials.complete, trials.tried))
    if best and best[0].rule == "ip":
        near = space.kept(_around(best[0], 1, 1))
        room = (runs_max - trials.runs) // max(len(trials.seeds) - 1, 1)
        promising = [one for one in near if one in trials.tried and trials.keeps(one)]
        trials.measure(trials.ranked(promising)[: max(room, 0)], trials.seeds)
        best = trials.ranked(filter(trials.complete, trials.tried))
    return best


def _starts(trials: Trials) -> list[Choice]:
    """Return where to refine: the best with an IP target of each mode that is worth it.

    And the best with another warm target, since the two targets can stand in for each other. And,
    of what takes fewer addresses than the best of all, the one that comes nearest to the promise.
    """
    ranked = [choice for choice in trials.ranked() if choice.rule == "ip"]
    best = trials.cost(trials.ranked()[0])
    starts: list[Choice] = []
    for prefixes in dict.fromkeys(choice.prefixes for choice in ranked):
        own = [choice for choice in ranked if choice.prefixes == prefixes]
        if _may_beat(best, [trials.cost(choice) for choice in own]):
            starts.append(own[0])
            starts += [choice for choice in own if choice.warm != own[0].warm][:1]
            starts += [choice for choice in own if _is_below(best, trials.cost(choice))][:1]
    return list(dict.fromkeys(starts))


def _may_beat(best: Cost, own: Sequence[Cost]) -> bool:
    """Tell whether a mode with these costs, its best first, may hold something better still.

    It may where its best is not much dearer, and where something cheaper breaks the promise: what
    is between that and its best was not tried, and coarse values lie far apart.
    """
    near = own[0][0] <= best[0] and own[0][1] <= (1.0 + WORTH) * best[1]
    return near or any(_is_below(best, cost) for cost in own)


def _is_below(best: Cost, cost: Cost) -> bool:
    """Tell whether something takes fewer addresses than the best, and breaks the promise."""
    return cost[0] > best[0] and cost[1] < best[1]


def _refine(trials: Trials, space: Space, start: Choice, runs_max: int) -> None:
    """Step around a choice to whatever is better, with steps half as long where nothing is."""
    one = trials.seeds[:1]
    warm = max(start.warm // 2, 1)
    floor = max(start.minimum, round(space.demand)) // 4 or 1
    while trials.runs < runs_max:
        around = space.kept(_around(start, warm, floor))
        trials.measure(around, one)
        best = trials.ranked([start, *around])[0]
        if best != start:
            start = best
        elif warm == floor == 1:
            return
        else:
            warm, floor = max(warm // 2, 1), max(floor // 2, 1)


def _around(choice: Choice, warm: int, floor: int) -> list[Choice]:
    """Return the neighbours: each target a step up or down, or one up and the other down."""
    steps = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, 1), (1, -1))
    return [
        Choice(
            choice.prefixes,
            choice.rule,
            choice.warm + across * warm,
            # Without a floor the warm target is the floor.
            max(choice.minimum or choice.warm, 0) + up * floor if up or choice.minimum else 0,
        )
        for across, up in steps
    ]


def _confirm(trials: Trials, runs_max: int) -> None:
    """Run the best on all seeds: FINALISTS, then on until two keep the promise there."""
    for tried, choice in enumerate(trials.ranked()):
        done = [one for one in trials.tried if trials.complete(one) and trials.keeps(one)]
        if tried >= FINALISTS and (len(done) > 1 or trials.runs >= runs_max):
            return
        if not trials.keeps(choice) and tried >= FINALISTS:
            # What breaks the promise on one seed breaks it on all together.
            return
        trials.measure([choice], trials.seeds)
