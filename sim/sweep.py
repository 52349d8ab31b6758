"""What many settings cost, side by side: on one node at rest, and over a whole trace.

A sweep is a tidy table: a row for each cell, in the order of the cells, whoever computed it and
in whatever order. It holds figures and no times of day, so that equal sweeps are equal bytes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cni.allocator.behaviour import NATIVE, Behaviour
from cni.allocator.model import BlockKind
from cni.settings import Settings
from sim.cell import (
    BOUND,
    FIGURES,
    CellCache,
    Result,
    Task,
    bound_task,
    code_digest,
    key_of,
    names_count,
    run_task,
    trace_digest,
)
from sim.ec2_error import Ec2Error
from sim.executor import Executor
from sim.grid import Cell
from sim.node_type import NodeType
from sim.one_node import Holding, hold
from sim.streams import stream
from sim.subnet import Subnet
from sim.trace import Trace

COLUMNS = ("pods", "enis", "addresses", "idle", "taken", "idle_share")

PLACE = ("instance", "behaviour", "subnet", "nodes", "max_pods")
"""The columns of a sweep that tell where a setting was tried, less the seed."""

VARIABLES = (
    "ENABLE_PREFIX_DELEGATION",
    "WARM_ENI_TARGET",
    "WARM_IP_TARGET",
    "MINIMUM_IP_TARGET",
    "WARM_PREFIX_TARGET",
    "MAX_ENI",
    "IP_COOLDOWN_PERIOD",
)
"""The columns of a sweep that tell the setting: values in effect, as text."""

Progress = Callable[[int], None]
"""Hears how many tasks are done."""


def holdings(  # noqa: PLR0913 - all but three have defaults
    node_types: Iterable[NodeType],
    settings: Mapping[str, Settings],
    pods: Iterable[int],
    *,
    behaviour: Behaviour = NATIVE,
    subnet: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what a node of each type holds at each pod count under each setting, at rest.

    One row each, in the order given; every type and setting starts with a fresh node whose pods
    come one by one, as in `sim.one_node.hold`.

    instance    name of the type (categorical, in the order given)
    setting     the label in `settings` (categorical, in the order given)
    pods        how many have an address
    enis        ENIs on the node
    addresses   on these ENIs for pods to have, without the ENIs' primary ones
    idle        of these, held by no pod
    taken       addresses the subnet lacks: `addresses` and one primary for each ENI
    idle_share  idle / addresses; nan where there are none
    nodes       only with `subnet`, a CIDR: how many such nodes fit into it, from `nodes_in`

    No row is made for more pods than the type has addresses for, nor for a type without
    prefixes under a setting that wants them. Raises ValueError for a negative count or a bad
    CIDR.

    >>> holdings([NodeType("m5.large", 3, 10)], {"default": Settings()}, [0, 20])[
    ...     ["pods", "enis", "addresses", "idle", "taken"]
    ... ].values.tolist()
    [[0, 1, 9, 9, 10], [20, 3, 27, 7, 30]]
    """
    types, counts = tuple(node_types), tuple(pods)
    rows = []
    for node_type in types:
        for label, chosen in settings.items():
            if chosen.kind is BlockKind.PREFIX and not node_type.prefixes_allowed:
                continue
            room = node_type.addresses(chosen.kind)
            within = [count for count in counts if count <= room]
            if not within:
                continue
            for held in hold(node_type, chosen, within, behaviour=behaviour, seed=seed):
                row = {"instance": node_type.name, "setting": label, **_figures(held)}
                if subnet is not None:
                    row["nodes"] = nodes_in(subnet, held, seed=seed)
                rows.append(row)
    names = list(dict.fromkeys(node_type.name for node_type in types))
    columns = ["instance", "setting", *COLUMNS, *([] if subnet is None else ["nodes"])]
    frame = pd.DataFrame(rows, columns=columns)
    # So that pivots and plots keep the order in which the caller thinks of them.
    frame["instance"] = pd.Categorical(frame["instance"], names)
    frame["setting"] = pd.Categorical(frame["setting"], list(settings))
    return frame


def nodes_in(cidr: str, held: Holding, *, seed: int = 0) -> int:
    """Return how many nodes that hold as much fit into an empty subnet, one after another.

    Primary addresses and secondary IPs are placed at random, as EC2 places them: in prefix mode
    they break up the /28 blocks that later nodes need, so that a subnet can be full long before
    its addresses are used up. Raises ValueError for a bad CIDR.

    >>> from sim.one_node import hold
    >>> (held,) = hold(NodeType("m5.large", 3, 10), Settings(), [20])
    >>> nodes_in("10.0.0.0/24", held)
    8
    """
    vacant = Subnet("subnet-0", cidr, stream(seed, "placement"))
    take = vacant.take_prefixes if held.prefixes else vacant.take_singles
    nodes = 0
    while True:
        try:
            for blocks in held.per_eni:
                vacant.take_singles(1)
                take(blocks)
        except Ec2Error:
            return nodes
        nodes += 1


def _figures(held: Holding) -> dict[str, object]:
    return {
        "pods": held.pods,
        "enis": held.enis,
        "addresses": held.addresses,
        "idle": held.available,
        "taken": held.addresses + held.enis,
        "idle_share": held.available / held.addresses if held.addresses else float("nan"),
    }


# Sweeps.


class Bench:
    """Performs tasks on one trace, each once: what was computed before comes from the cache."""

    def __init__(self, trace: Trace, executor: Executor, cache: CellCache | None = None) -> None:
        """Use an executor that is ready; without a cache, remember as long as this object lives."""
        self._executor = executor
        self._cache = cache
        self._known: dict[str, Result] = {}
        self._trace = trace
        self._trace_digests: dict[bool, str] = {}
        self._code_digest = code_digest()
        self.computed = 0
        """Tasks that were performed, and not found in the cache."""

    @property
    def asked(self) -> int:
        """How many different tasks were asked for so far."""
        return len(self._known)

    def results(self, tasks: Sequence[Task], progress: Progress | None = None) -> list[Result]:
        """Return the results of tasks in their order; a failure is a result, and is not cached."""
        keys = [key_of(task, self._digest_for(task), self._code_digest) for task in tasks]
        missing: dict[str, Task] = {}
        for key, task in zip(keys, tasks, strict=True):
            if key in self._known or key in missing:
                continue
            figures = None if self._cache is None else self._cache.get(key)
            if figures is None:
                missing[key] = task
            else:
                self._known[key] = Result(figures)
        names = list(missing)
        done = len(tasks) - len(names)
        for index, result in self._executor.results(list(missing.values())):
            self._known[names[index]] = result
            self.computed += 1
            if self._cache is not None and not result.error:
                self._cache.put(names[index], result.figures)
            done += 1
            if progress is not None:
                progress(done)
        return [self._known[key] for key in keys]

    def _digest_for(self, task: Task) -> str:
        named = names_count(task)
        if named not in self._trace_digests:
            self._trace_digests[named] = trace_digest(self._trace, named=named)
        return self._trace_digests[named]


def sweep(bench: Bench, cells: Sequence[Cell], *, progress: Progress | None = None) -> pd.DataFrame:
    """Return the figures of all cells, a row each, in their order.

    Columns: PLACE, setting (the words given), VARIABLES, seed, the figures of `sim.cell.FIGURES`,
    bound (addresses that no setting can beat on these nodes where no pod waits: those pods hold,
    those that cool after them, and one primary for each node), and error: why a cell has no
    figures, empty where it has. `progress` hears of 0 to twice as many tasks as there are cells.
    """
    good = [cell.scenario for cell in cells if cell.scenario is not None]
    tasks = [*map(run_task, good), *map(bound_task, good)]
    results = bench.results(tasks, progress)
    runs, bounds = iter(results[: len(good)]), iter(results[len(good) :])
    rows = []
    for cell in cells:
        result, bound = Result({}, cell.problem), Result({})
        if cell.scenario is not None:
            result, bound = next(runs), next(bounds)
        figures = {name: result.figures.get(name, np.nan) for name in FIGURES}
        told = {"bound": bound.figures.get(BOUND, np.nan), "error": result.error}
        rows.append({**_identity(cell), **figures, **told})
    columns = [*PLACE, "setting", *VARIABLES, "seed", *FIGURES, "bound", "error"]
    return pd.DataFrame(rows, columns=columns)


def _identity(cell: Cell) -> dict[str, object]:
    place, scenario = cell.place, cell.scenario
    settings = {} if scenario is None else scenario.pool.settings
    pods = place.max_pods if scenario is None else scenario.pool.limits.pods
    return {
        "instance": place.node_type.name,
        "behaviour": place.behaviour,
        "subnet": " ".join(
            f"{plan.cidr},used={plan.used:g}" if plan.used else plan.cidr for plan in place.subnets
        ),
        "nodes": place.nodes,
        "max_pods": 0 if pods is None else pods,
        "setting": cell.setting,
        **{name: settings.get(name, "") for name in VARIABLES},
        "seed": place.seed,
    }


def by_setting(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each setting in each place: figures over its seeds, and its rank.

    Means over the seeds, but for `wait_p99_s`, `wait_max_s`, `taken_max`, `refused_share` and
    `throttled_share` the worst of them, and for `lowest_free` the lowest. Besides: `seeds`,
    `failed` (of them), and `on_front`: no other row leaves as few pods without a node, takes as
    few addresses and lets pods wait as little, and less of one. A row with a failed seed is on
    no front. Sorted by addresses, then by waiting.
    """
    worst = {"wait_p99_s": "max", "wait_max_s": "max", "taken_max": "max", "lowest_free": "min"}
    worst |= {"refused_share": "max", "throttled_share": "max"}
    hows = {name: worst.get(name, "mean") for name in (*FIGURES, "bound")}
    keys = [*PLACE, "setting", *VARIABLES]
    grouped = frame.groupby(keys, sort=False, dropna=False)
    table = grouped.agg(
        **{name: (name, how) for name, how in hows.items()},
        seeds=("seed", "size"),
        failed=("error", lambda errors: int((errors != "").sum())),
    ).reset_index()
    criteria = table[["unschedulable", "taken_mean", "wait_mean_s"]].to_numpy(float)
    # A run in which no pod asked has no wait.
    ran = (table["failed"] == 0).to_numpy()
    criteria[ran & np.isnan(criteria[:, 2]), 2] = 0.0
    table["on_front"] = ran & front(np.where(ran[:, None], criteria, np.inf))
    order = ["failed", "taken_mean", "wait_mean_s"]
    return table.sort_values(order, kind="stable").reset_index(drop=True)


def front(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which rows no other row beats: as low in every column, and lower in one.

    >>> front(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0]])).tolist()
    [True, True, False]
    """
    return np.array(
        [not ((costs <= row).all(axis=1) & (costs < row).any(axis=1)).any() for row in costs],
        dtype=bool,
    )


def save(frame: pd.DataFrame, folder: Path) -> None:
    """Write a sweep as sweep.parquet and sweep.csv; equal sweeps, equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "sweep.parquet", index=False)
    frame.to_csv(folder / "sweep.csv", index=False, lineterminator="\n")
