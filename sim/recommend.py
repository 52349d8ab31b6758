"""From a trace and a promise to the setting to deploy, with its reasons, price and limits.

The answer is a value, made of figures of runs; the words are put together in `lines`. What is
stated as confidence covers the chance of EC2's answers and places, which the seeds vary. It does
not cover days unlike the trace.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from cni.allocator.model import BlockKind
from cni.settings import Settings, parse_assignments
from sim.cell import BOUND, Figures, bound_task
from sim.grid import Cell, Place
from sim.node_type import NodeType
from sim.runway import Runway, runway
from sim.scenario import Scenario
from sim.scenario_file import TARGETS
from sim.search import Choice, Space, Trials, search
from sim.slo import Limit
from sim.sweep import Bench, sweep
from sim.tables import number, seconds, share

RUNS_MAX = 150
"""Runs that a recommendation takes by default, over all seeds."""

CHOSEN = TARGETS
"""The variables that a recommendation decides."""

DEPLOY = ("kubectl", "set", "env", "daemonset")

_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t, two-sided 95 %, for 1 to 10 degrees of freedom; beyond, the last is cautious."""

Maker = Callable[[Place, Settings], Scenario]


class RecommendError(ValueError):
    """What was asked cannot be searched; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting with its figures over all seeds: means, but waits and shares of the worst."""

    words: tuple[str, ...]
    taken_mean: float
    taken_error: float
    """Half the width of its 95 % confidence interval; nan with one seed."""
    figures: Figures
    keeps: bool

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        told = {name: _plain(value) for name, value in self.figures.items()}
        error = _plain(self.taken_error)
        return {"settings": list(self.words), "taken_error": error, "figures": told}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer.

    feasible  whether `best` keeps every limit on every seed; if not it comes nearest
    margin    addresses that the runner-up takes more on average, with half the width of the
              95 % interval of that difference over the seeds (nan with one seed); None where
              there is no runner-up
    binding   limits that keep the answer from taking fewer addresses, the tightest first: how
              many of the cheaper settings tried break each
    misses    where not feasible: each limit that is broken, and the value reached
    """

    feasible: bool
    best: Option
    runner_up: Option | None
    margin: tuple[float, float] | None
    binding: tuple[tuple[str, int], ...]
    cheaper: int
    misses: tuple[tuple[Limit, float], ...]
    limits: tuple[Limit, ...]
    runway: Runway
    bound: float
    seeds: int
    settings_tried: int
    runs: int
    scenario: Scenario
    warnings: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str | None]:
        """Every variable that the answer decides; None is to be removed where it is set."""
        return environment_of(self.best.words)

    @property
    def deploy(self) -> str:
        """The line that sets it on a cluster; a name with a minus removes what was set before."""
        return deploy_line("aws-node", self.best.words)

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        reach = self.runway
        return {
            "feasible": self.feasible,
            "behaviour": self.scenario.pool.behaviour.name,
            "slo": [str(limit) for limit in self.limits],
            "recommended": self.best.as_dict(),
            "runner_up": None if self.runner_up is None else self.runner_up.as_dict(),
            "margin": None if self.margin is None else [_plain(part) for part in self.margin],
            "binding": [list(pair) for pair in self.binding],
            "misses": [{"limit": str(limit), "reached": value} for limit, value in self.misses],
            "runway": {"nodes": reach.nodes, "growth": reach.growth, "subnet": reach.runs_dry},
            "bound": self.bound,
            "seeds": self.seeds,
            "confidence": confidence(self.seeds),
            "settings_tried": self.settings_tried,
            "runs": self.runs,
            "environment": self.environment,
            "deploy": self.deploy,
            "warnings": list(self.warnings),
        }


def recommend(  # noqa: PLR0913 - what shapes the search, by name
    bench: Bench,
    place: Place,
    make: Maker,
    limits: Sequence[Limit],
    *,
    fixed: Sequence[str] = (),
    seeds: int = 5,
    runs_max: int = RUNS_MAX,
    progress: Callable[[int], None] | None = None,
) -> tuple[Recommendation, pd.DataFrame]:
    """Search settings for a place, and return the answer with the table of all that was tried.

    Limits are to be kept on each of the seeds, which count up from the place's own. `fixed` are
    KEY=VALUE words that hold throughout. Raises RecommendError for words that the search itself
    decides, and where no run came to an end.
    """
    _check_fixed(fixed)

    def scenario_of(choice: Choice, seed: int) -> Scenario:
        return make(replace(place, seed=seed), _settings(choice, fixed, place))

    prefixes = _modes(place.node_type, fixed)
    demand = _demand(bench, scenario_of(Choice(prefixes[0], "whole", 1), place.seed))
    rooms = {one: _room(place, one) for one in prefixes}
    all_seeds = range(place.seed, place.seed + seeds)
    trials = Trials(bench, scenario_of, limits, all_seeds)
    trials.progress = progress
    space = Space(rooms, max(demand - place.nodes, 0.0) / place.nodes)
    found = search(trials, space, runs_max)
    if not found or math.isinf(trials.cost(found[0])[1]):
        raise RecommendError(f"no setting could be run: {trials.error(trials.tried[0])}")
    answer = _answer(trials, found, scenario_of, fixed, demand)
    cells = [
        Cell(str(choice), replace(place, seed=seed), scenario_of(choice, seed))
        for choice in trials.ranked()
        for seed in (all_seeds if trials.complete(choice) else all_seeds[:1])
    ]
    return answer, sweep(bench, cells)


def _check_fixed(fixed: Sequence[str]) -> None:
    for word in fixed:
        name = word.partition("=")[0]
        if name in CHOSEN and name != "ENABLE_PREFIX_DELEGATION":
            raise RecommendError(
                f"--set {word}: that is what is recommended; to see its cost, use `warmbench sweep`"
            )


def _modes(node_type: NodeType, fixed: Sequence[str]) -> list[bool]:
    """Return whether to try secondary IPs (False) and prefixes (True)."""
    given = parse_assignments(fixed, lenient=True)
    if any(word.startswith("ENABLE_PREFIX_DELEGATION=") for word in fixed):
        return [given.kind is BlockKind.PREFIX]
    return [False, True] if node_type.prefixes_allowed else [False]


def _settings(choice: Choice, fixed: Sequence[str], place: Place) -> Settings:
    words = tuple(dict.fromkeys((*fixed, *choice.words)))
    return parse_assignments(words, lenient=place.behaviour == "upstream")


def _room(place: Place, prefixes: bool) -> int:  # noqa: FBT001 - a mode, as in Choice
    kind = BlockKind.PREFIX if prefixes else BlockKind.SECONDARY_IP
    pods = place.node_type.max_pods(kind) if place.max_pods is None else place.max_pods
    return min(place.node_type.addresses(kind), pods)


def _demand(bench: Bench, scenario: Scenario) -> float:
    (result,) = bench.results([bound_task(scenario)])
    if result.error:
        raise RecommendError(result.error)
    return result.figures[BOUND]


# The answer.


def _answer(
    trials: Trials,
    found: list[Choice],
    scenario_of: Callable[[Choice, int], Scenario],
    fixed: Sequence[str],
    bound: float,
) -> Recommendation:
    best = found[0]
    feasible = trials.keeps(best)
    second = next((one for one in found[1:] if trials.keeps(one)), None) if feasible else None
    scenario = scenario_of(best, trials.seeds[0])
    cheaper, binding = binding_of(trials, best)
    misses = [
        (limit, _worst(trials, best, limit))
        for limit in trials.limits
        if trials.excess(best, limit) > 0
    ]
    return Recommendation(
        feasible=feasible,
        best=_option(trials, best, fixed),
        runner_up=None if second is None else _option(trials, second, fixed),
        margin=None if second is None else _margin(trials, best, second),
        binding=binding,
        cheaper=cheaper,
        misses=tuple(misses),
        limits=trials.limits,
        runway=runway(scenario, trials.figures(best)),
        bound=bound,
        seeds=len(trials.seeds),
        settings_tried=len(trials.tried),
        runs=trials.runs,
        scenario=scenario,
        warnings=scenario.warnings,
    )


def _option(trials: Trials, choice: Choice, fixed: Sequence[str]) -> Option:
    runs = trials.figures(choice)
    figures = {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}
    for limit in trials.limits:
        figures[limit.figure] = _worst(trials, choice, limit)
    _, error = _interval([run["taken_mean"] for run in runs])
    words = tuple(dict.fromkeys((*fixed, *choice.words)))
    return Option(words, figures["taken_mean"], error, figures, trials.keeps(choice))


def _worst(trials: Trials, choice: Choice, limit: Limit) -> float:
    return max(run[limit.figure] for run in trials.figures(choice))


def _margin(trials: Trials, best: Choice, second: Choice) -> tuple[float, float]:
    """Compare seed by seed: both settings met the same chance, so that it cancels out."""
    pairs = zip(trials.figures(best), trials.figures(second), strict=True)
    return _interval([other["taken_mean"] - one["taken_mean"] for one, other in pairs])


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % confidence interval (nan for one value).

    >>> [round(part, 3) for part in _interval([1.0, 2.0, 3.0])]
    [2.0, 2.484]
    """
    many = len(values)
    mean = sum(values) / many
    if many == 1:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (many - 1)
    return mean, _T95[min(many - 1, len(_T95)) - 1] * math.sqrt(variance / many)


def binding_of(trials: Trials, best: Choice) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Count the settings tried that take fewer addresses, and the limits that these break."""
    taken = trials.mean(best, "taken_mean")
    cheaper = [
        choice
        for choice in trials.tried
        if not trials.error(choice) and trials.mean(choice, "taken_mean") < taken
    ]
    broken: Counter[str] = Counter()
    for choice in cheaper:
        broken.update(limit.name for limit in trials.limits if trials.excess(choice, limit) > 0)
    ordered = sorted(broken.items(), key=lambda pair: (-pair[1], pair[0]))
    return len(cheaper), tuple(ordered)


def environment_of(words: Sequence[str]) -> dict[str, str | None]:
    """Return every variable that KEY=VALUE words decide; None is to be removed where it is set."""
    given = dict(word.split("=", 1) for word in words)
    found: dict[str, str | None] = {name: given.get(name) for name in CHOSEN}
    found["ENABLE_PREFIX_DELEGATION"] = given.get("ENABLE_PREFIX_DELEGATION", "false")
    others = {name: value for name, value in given.items() if name not in CHOSEN}
    return found | others


def deploy_line(daemonset: str, words: Sequence[str]) -> str:
    """Return the line that sets it on a cluster; a minus removes what was set before."""
    values = environment_of(words).items()
    told = (f"{name}-" if value is None else f"{name}={value}" for name, value in values)
    return " ".join([*DEPLOY, daemonset, "-n", "kube-system", *told])


def confidence(seeds: int) -> float:
    """Return the share of runs that keep the promise at least, 95 % sure, after `seeds` did.

    The one-sided bound of Clopper and Pearson where no run failed.

    >>> round(confidence(5), 3), round(confidence(59), 3)
    (0.549, 0.95)
    """
    return math.pow(0.05, 1.0 / seeds)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


# The answer in words.


def lines(answer: Recommendation) -> list[tuple[str, str]]:
    """Return the answer as (what, in words)."""
    best = answer.best
    head = "recommended" if answer.feasible else "nearest, not enough"
    rows = [(head, " ".join(best.words)), ("takes", _taken(answer))]
    for limit in answer.limits:
        told = limit.told(best.figures[limit.figure])
        rows.append(
            (f"  {limit.name}", f"{told} on the worst seed, at most {limit.told(limit.most)}")
        )
    if answer.feasible:
        rows += [("runner-up", _runner_up(answer)), ("what binds", _binds(answer))]
    else:
        rows += [("what would have to change", change) for change in _changes(answer)]
    rows += [("runway", _runway(answer)), ("confidence", _confidence(answer))]
    rows += [("warning", warning) for warning in answer.warnings]
    return rows


def environment_block(answer: Recommendation) -> str:
    """Return the environment as it stands in the daemonset's manifest."""
    found = ["env:"]
    for name, value in answer.environment.items():
        if value is not None:
            found += [f"  - name: {name}", f'    value: "{value}"']
    return "\n".join(found)


def _taken(answer: Recommendation) -> str:
    best = answer.best
    error = "" if math.isnan(best.taken_error) else f" (± {number(best.taken_error)})"
    over = best.taken_mean / answer.bound - 1.0 if answer.bound else 0.0
    return (
        f"{number(best.taken_mean)} addresses on average{error}, "
        f"{number(round(best.figures['taken_max']))} at most; {share(over)} above the "
        f"{number(answer.bound)} that no setting can beat where no pod waits"
    )


def _runner_up(answer: Recommendation) -> str:
    if answer.runner_up is None or answer.margin is None:
        return "none: no other setting tried keeps the promise"
    more, error = answer.margin
    spread = "" if math.isnan(error) else f" (± {number(error)})"
    told = f"{' '.join(answer.runner_up.words)}, {number(more)} addresses more{spread}"
    clear = math.isnan(error) or more > error
    return told if clear else f"{told}: too close to call"


def _binds(answer: Recommendation) -> str:
    if not answer.cheaper:
        return "nothing: no setting tried takes fewer addresses"
    if not answer.binding:
        return f"chance alone: {answer.cheaper} cheaper settings were tried on fewer seeds"
    broken = (f"{name} (broken by {count:,})" for name, count in answer.binding)
    return f"{', '.join(broken)} of {answer.cheaper:,} cheaper settings tried"


def _changes(answer: Recommendation) -> list[str]:
    """Say what would have to give, most direct first."""
    best = answer.best.figures
    found = [
        f"the limit on {limit.name}: {limit.told(value)} is what this setting reaches, not "
        f"{limit.told(limit.most)}"
        for limit, value in answer.misses
    ]
    if best["lowest_free"] < 1:
        found.append("the subnets: one of them runs dry; add a subnet or free addresses")
    elif answer.scenario.pool.kind is BlockKind.PREFIX and best["lowest_free_prefixes"] < 1:
        found.append("the subnets: no /28 is left whole; reserve a range for prefixes")
    if best["unschedulable"] >= 1:
        found.append(f"the nodes: {number(round(best['unschedulable']))} pods fit none; add nodes")
    throttled = any(limit.name == "throttled" for limit, _ in answer.misses)
    if throttled:
        found.append("EC2's request rate: ask AWS to raise it, or start fewer nodes at once")
    return found


def _runway(answer: Recommendation) -> str:
    reach, nodes = answer.runway, answer.scenario.nodes
    dry = f"{reach.runs_dry} has no {'whole /28' if reach.blocks_short else 'address'} left"
    fit = f"{reach.nodes:,} nodes of {reach.per_node:,} addresses fit, {nodes:,} are there"
    if reach.growth < 0:
        return f"none: at the peak {dry}; {fit}"
    return f"the load can grow by {100 * reach.growth:,.0f} % until {dry}; {fit}"


def _confidence(answer: Recommendation) -> str:
    runs = f"{answer.settings_tried:,} settings tried in {answer.runs:,} runs"
    if not answer.feasible:
        return f"none of {runs} keeps the promise"
    sure = share(confidence(answer.seeds))
    kept = f"kept on {answer.seeds} of {answer.seeds} seeds"
    chance = f"so 95 % sure for {sure} of such runs at least"
    return f"{kept}, {chance}; longest wait {seconds(answer.best.figures['wait_max_s'])}; {runs}"
