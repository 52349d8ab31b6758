"""What `warmbench sweep` and `warmbench recommend` answer, as a call each: for notebooks.

A `Question` is the pods and the place; settings are tried on it. Runs happen in this process
unless `jobs` asks for more. Nothing is kept on disk: for searches that take hours use the
commands, which go on where they stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from cni.allocator.behaviour import NATIVE, Behaviour
from cni.settings import Settings
from sim.executor import executor_for
from sim.grid import Place, cells, settings_in
from sim.node_type import NodeType
from sim.recommend import RUNS_MAX, Recommendation, environment_block, lines
from sim.recommend import recommend as search_best
from sim.scenario import Scenario, SubnetPlan, plans_of, scenario_for
from sim.slo import parse_slo
from sim.sweep import VARIABLES, Bench, by_setting
from sim.sweep import sweep as run_all
from sim.trace import Trace


@dataclass(frozen=True, slots=True)
class Question:
    """Which pods, on which nodes, in which subnets; `max_pods` None is EKS's own value."""

    trace: Trace
    node_type: NodeType
    subnets: str | Sequence[str | SubnetPlan]
    nodes: int
    behaviour: Behaviour = NATIVE
    max_pods: int | None = None
    ignore_requests: bool = False
    seed: int = 0
    jobs: int | None = 1

    @property
    def place(self) -> Place:
        """Where settings are tried."""
        return Place(
            self.node_type,
            self.behaviour.name,
            plans_of(self.subnets),
            self.nodes,
            self.max_pods,
            self.seed,
        )

    def scenario(self, settings: Settings) -> Scenario:
        """Return the run of one setting; raises ScenarioError."""
        return self._make(self.place, settings)

    def _make(self, place: Place, settings: Settings) -> Scenario:
        return scenario_for(
            place.node_type,
            settings,
            subnets=place.subnets,
            behaviour=self.behaviour,
            nodes=place.nodes,
            max_pods=place.max_pods,
            seed=place.seed,
            ignore_requests=self.ignore_requests,
        )


def sweep(
    question: Question,
    grid: Mapping[str, Sequence[int | str]],
    *,
    listed: Sequence[str] = (),
    seeds: int = 1,
) -> pd.DataFrame:
    """Try every setting of a grid, and those listed; return a row each, cheapest first.

    `grid` is values by variable ("" leaves it unset), `listed` settings as KEY=VALUE words with
    blanks. The columns are those of `sim.sweep.by_setting`: figures over the seeds, with the
    worst of them where that is what a promise is about. Variables are numbers where they can be:
    NaN where they are not set, but 0 for an IP target, as upstream has it.
    Raises SettingsError, GridError.
    """
    axes = {name: [str(value) for value in values] for name, values in grid.items()}
    chosen = settings_in(axes, [one.split() for one in listed], ())
    place = question.place
    places = [replace(place, seed=place.seed + seed) for seed in range(seeds)]
    with executor_for(question.trace, jobs=question.jobs, scheduler=None) as executor:
        frame = run_all(
            Bench(question.trace, executor),
            cells(chosen, places, question._make),
        )
    table = by_setting(frame)
    for name in VARIABLES:
        numbers = pd.to_numeric(table[name], errors="coerce")
        if numbers.notna().any():
            table[name] = numbers
    return table


def keeps(table: pd.DataFrame, slo: str) -> pd.Series:
    """Tell which rows of a sweep keep a promise such as "p99_wait<=1s,refused<=0.1%".

    A row with a failed run keeps none. Raises SloError.

    >>> two = pd.DataFrame({"wait_p99_s": [0.2, 3.0], "failed": [0, 0]})
    >>> keeps(two, "p99_wait<=1s").tolist()
    [True, False]
    """
    good = table["failed"] == 0
    for limit in parse_slo(slo):
        values = table[limit.figure]
        good &= values.isna() | (values <= limit.most)
    return good


def cheapest(table: pd.DataFrame, slos: Sequence[str]) -> pd.DataFrame:
    """Return the cheapest setting of a sweep for each promise: the price of being stricter.

    slo, setting, addresses (taken on average, ENI primaries included), p99_wait_s, refused (%),
    and mutating EC2 calls; setting "none of those tried" where none keeps it. Raises SloError.
    """
    rows = []
    for slo in slos:
        good = table[keeps(table, slo)].sort_values(["taken_mean", "mutating"], kind="stable")
        row: dict[str, object] = {"slo": slo, "setting": "none of those tried"}
        if len(good):
            best = good.iloc[0]
            row |= {
                "setting": best["setting"],
                "addresses": round(best["taken_mean"], 1),
                "p99_wait_s": round(best["wait_p99_s"], 1),
                "refused, %": round(100 * best["refused_share"], 1),
                "mutating": round(best["mutating"]),
            }
        rows.append(row)
    return pd.DataFrame(rows).set_index("slo")


def recommend(
    question: Question,
    slo: str,
    *,
    fixed: Sequence[str] = (),
    seeds: int = 3,
    runs_max: int = RUNS_MAX,
) -> tuple[Recommendation, pd.DataFrame]:
    """Search the setting that keeps a promise at the least cost, as `warmbench recommend` does.

    Return the answer (`sim.recommend.lines` puts it into words) and, as from `sweep`, a row for
    each setting tried. `fixed` are KEY=VALUE words that hold throughout. Raises SloError,
    RecommendError.
    """
    limits = parse_slo(slo)
    with executor_for(question.trace, jobs=question.jobs, scheduler=None) as executor:
        answer, frame = search_best(
            Bench(question.trace, executor),
            question.place,
            question._make,
            limits,
            fixed=fixed,
            seeds=seeds,
            runs_max=runs_max,
        )
    return answer, by_setting(frame)


def told(answer: Recommendation) -> str:
    """Put an answer into Markdown: a table in words, what to deploy, and the command for it."""
    rows = "\n".join(f"| {what.strip()} | {words} |" for what, words in lines(answer))
    blocks = f"```yaml\n{environment_block(answer)}\n```\n\n```sh\n{answer.deploy}\n```"
    return f"| | |\n|---|---|\n{rows}\n\n{blocks}"
