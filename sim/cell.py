"""One run of a sweep: from a scenario and a trace to its figures, under a name of its own.

The name is a digest of all that the figures depend on: the scenario, the trace and the code. So
an interrupted or a widened sweep finds what it has computed, and finds nothing that another
version computed.
"""

import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from importlib.resources import files
from importlib.resources.abc import Traversable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal

import numpy as np

from cni.allocator.behaviour import NATIVE
from cni.allocator.model import BlockKind, NodeLimits
from cni.allocator.targets import WarmIp
from sim import metrics, nodes, pools
from sim.cloud_numbers import CloudNumbers
from sim.garbage import collected_seldom
from sim.node_pool import NodePool
from sim.record import RunRecord
from sim.scenario import Scenario, SubnetPlan
from sim.simulation import run
from sim.trace import Trace
from sim.vpc import InstanceShape

FORMAT = 1
"""Raised where the files of the cache, or the figures in them, change their meaning."""

FIGURES = (
    "pods",
    "served",
    "waiting",
    "unschedulable",
    "refused_pods",
    "refused_share",
    "wait_mean_s",
    "wait_p50_s",
    "wait_p90_s",
    "wait_p99_s",
    "wait_max_s",
    "taken_mean",
    "taken_max",
    "held_mean",
    "held_max",
    "assigned_mean",
    "assigned_max",
    "cooling_mean",
    "idle_mean",
    "enis_mean",
    "enis_max",
    "utilisation",
    "ec2_calls",
    "mutating",
    "throttled",
    "throttled_share",
    "lowest_free",
    "lowest_free_prefixes",
    "churn_pairs",
)
"""The figures of a cell. Shares lie between 0 and 1; `refused_share` is of the pods a node took;
`taken` counts ENI primaries, `held` does not; `lowest_free` is that of the emptiest subnet.
A figure that a run does not have is nan. All are floats, so that what comes from the cache is
the same to the last byte."""

FELT = tuple(
    name for name in FIGURES if name.startswith("wait_") or name in ("refused_share", "waiting")
)
"""The figures that pods feel; EC2 throttles an account, not a pool."""

BOUND = "bound"
"""The one figure of a bound: addresses, ENI primaries included."""

_NEVER_S = 1e12
_LARGEST_MASK = 12

_CODE = ("cni", "cni/allocator", "cni/cloud", "instance_limits", "sim", "sim/data", "sim/sources")
_NO_RUN = ("cli", "lab", "page", "report")

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is to do with a scenario.

    "run" replays it; "fleet" too, but waits, refusals and throttling are those of the worst pool;
    "bound" computes the bound of the trace on its nodes, "demand" what each pool's nodes need.
    """

    kind: Literal["run", "fleet", "bound", "demand"]
    scenario: Scenario


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of a task, or in one line why there are none."""

    figures: Figures
    error: str = ""


def perform(task: Task, trace: Trace) -> Result:
    """Run a task; whatever breaks in it is its result, so that the others stand."""
    try:
        with collected_seldom():
            record = run(task.scenario, trace)
        figures = _figures_for(task, record)
    except Exception as error:  # noqa: BLE001 - an auditor's finding or a fault of ours is a figure of its cell
        lines = str(error).splitlines()
        return Result({}, f"{type(error).__name__}: {lines[0] if lines else 'no message'}")
    return Result(figures)


def _figures_for(task: Task, record: RunRecord) -> Figures:
    match task.kind:
        case "run":
            return figures_of(record)
        case "fleet":
            return worst_of_pools(record)
        case "bound":
            return {BOUND: _bound(record)}
        case "demand":
            return _demands(record)


def figures_of(record: RunRecord) -> Figures:
    """Return the figures of a run by the names in FIGURES, cut to millionths."""
    steps = metrics.steps(record)
    summary = metrics.summarise(record, steps)
    waited_s = metrics.waited_s(record)
    taken = steps["held"].to_numpy() + steps["primary"].to_numpy()
    placed = summary.served + summary.waiting + summary.evicted
    addresses, calls, wait_s = summary.addresses, summary.ec2_calls, summary.wait_s
    lows = [low for low in summary.subnets.values() if low.lowest_free is not None]
    found: dict[str, float | None] = {
        "pods": summary.pods,
        "served": summary.served,
        "waiting": summary.waiting,
        "unschedulable": summary.unschedulable,
        "refused_pods": summary.refused_pods,
        "refused_share": summary.refused_pods / placed if placed else 0.0,
        "wait_mean_s": float(waited_s.mean()) if placed else None,
        "wait_p50_s": wait_s.p50,
        "wait_p90_s": wait_s.p90,
        "wait_p99_s": wait_s.p99,
        "wait_max_s": wait_s.max,
        "taken_mean": summary.taken_mean,
        "taken_max": int(taken.max()),
        "held_mean": addresses.held.mean,
        "held_max": addresses.held.max,
        "assigned_mean": addresses.assigned.mean,
        "assigned_max": addresses.assigned.max,
        "cooling_mean": addresses.cooling.mean,
        "idle_mean": addresses.idle.mean,
        "enis_mean": addresses.primary.mean,
        "enis_max": addresses.primary.max,
        "utilisation": summary.utilisation,
        "ec2_calls": calls.total,
        "mutating": calls.mutating,
        "throttled": calls.throttled,
        "throttled_share": calls.throttled_share,
        "lowest_free": min((low.lowest_free or 0 for low in lows), default=None),
        "lowest_free_prefixes": min((low.lowest_free_prefixes or 0 for low in lows), default=None),
        "churn_pairs": summary.churn_pairs,
    }
    return {name: math.nan if found[name] is None else _cut(found[name]) for name in FIGURES}


def worst_of_pools(record: RunRecord) -> Figures:
    """Return the figures of a fleet, with those that pods feel taken from the worst pool."""
    figures = figures_of(record)
    many = len(record.header.pools)
    parts = [figures_of(pools.of_pool(record, at)) for at in range(many)] if many > 1 else []
    for name in FELT:
        values = [part[name] for part in parts if not math.isnan(part[name])]
        figures[name] = max(values, default=figures[name])
    return figures


def run_task(scenario: Scenario) -> Task:
    """Return the task that replays a scenario, less what changes no figure."""
    return Task("run", _bare(scenario))


def fleet_task(scenario: Scenario) -> Task:
    """Return the task that replays a scenario, and judges it by its worst pool."""
    return Task("fleet", _bare(scenario))


def demand_task(scenario: Scenario) -> Task:
    """Return the task that tells how many addresses a node of each pool needs on average.

    By the pool's name: those assigned and those cooling, where no pod ever waits.
    """
    return Task("demand", bound_task(scenario).scenario)


def _bare(scenario: Scenario) -> Scenario:
    """Leave texts for reports out: WARM_ENI_TARGET beside an IP target tells no two runs apart."""
    bare = tuple(replace(pool, settings={}, warnings=()) for pool in scenario.pools)
    return replace(scenario, pools=bare, command=())


def bound_task(scenario: Scenario) -> Task:
    """Return the task that computes what no setting can beat on these nodes.

    Each address is there at the instant its pod wants it, as if the future were known: EC2
    answers at once, one ENI has room for all pods of its node, and the subnet has no end.
    """
    wanted = sum(_most_nodes(pool) * (pool.limits.pods + 2) * 2 for pool in scenario.pools)
    ideal = replace(
        scenario,
        subnets=_subnets_of(wanted),
        pools=tuple(map(_ideal, scenario.pools)),
        numbers=CloudNumbers.instant(),
        faults=(),
        denied=(),
        seed=0,
        command=(),
    )
    return Task("bound", ideal)


def _subnets_of(addresses: int) -> tuple[SubnetPlan, ...]:
    """Return one subnet with so many addresses, or as many of the largest as it takes."""
    mask = max(_LARGEST_MASK, min(24, 31 - addresses.bit_length()))
    most = 1 << (_LARGEST_MASK - 8)
    many = min(-(-addresses // (1 << (32 - mask))) or 1, most)
    return tuple(SubnetPlan(f"10.{256 // most * at}.0.0/{mask}") for at in range(many))


def _most_nodes(pool: NodePool) -> int:
    """Return how many nodes of a pool there can be at once, those that replace others included."""
    scaling = pool.changes.autoscaling
    most = pool.nodes if scaling is None else scaling.most
    replaced = pool.changes.recycling is not None or pool.changes.spot is not None
    return most * (2 if replaced else 1)


def _ideal(pool: NodePool) -> NodePool:
    """Let a pool have each address the instant its pod wants it."""
    pods = pool.limits.pods
    return replace(
        pool,
        limits=NodeLimits(2, pods + 1, pods),
        shape=InstanceShape(2, pods + 2, prefixes_allowed=True),
        # Where calls take no time, the last free address could be given back and asked for again
        # for ever without the clock moving on: nothing is given back here.
        behaviour=replace(NATIVE, surplus_hold_s=_NEVER_S),
        target=WarmIp(1),
        kind=BlockKind.SECONDARY_IP,
        zones=(),
        settings={},
        warnings=(),
    )


def _bound(record: RunRecord) -> float:
    """Add up what pods hold and what cools after them, over time, and a primary for each node."""
    served_at, released_at = record.pods["served_at"], record.pods["released_at"]
    end_s = record.header.end_s
    served = ~np.isnan(served_at)
    cooled_at = released_at + metrics.cooldowns(record, record.pods["node"])
    until = np.where(np.isnan(released_at), end_s, cooled_at)
    held_s = np.minimum(until, end_s)[served] - np.maximum(served_at[served], 0.0)
    # What cools on a node that goes is back in the subnet at once.
    cut = record.cut
    cut_s = np.minimum(cut["until"], end_s) - np.maximum(cut["t"], 0.0)
    whole_s = np.maximum(held_s, 0.0).sum() - (cut["count"] * np.maximum(cut_s, 0.0)).sum()
    return _cut(float(whole_s) / end_s if end_s else 0.0) + nodes.mean(record)


def _demands(record: RunRecord) -> Figures:
    """Return the addresses that a node needs on average, by its pool's name, and the bound."""
    found = {BOUND: _bound(record)}
    for at, pool in enumerate(record.header.pools):
        part = pools.of_pool(record, at)
        needs = metrics.summarise(part).addresses
        there = nodes.mean(part)
        mean = needs.assigned.mean + needs.cooling.mean
        found[pool.name] = _cut(mean / there if there else 0.0)
    return found


def _cut(value: float | None) -> float:
    """Cut the last digits, which are noise of adding up, so that figures can be compared."""
    return math.nan if value is None else round(float(value), 6)


# Names of tasks.


def key_of(task: Task, trace: str, code: str) -> str:
    """Return the name of a task: a digest of its scenario, of the trace's and the code's digest."""
    told = [FORMAT, task.kind, _plain(task.scenario), trace, code]
    text = json.dumps(told, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def names_count(task: Task) -> bool:
    """Whether names of pods change a task's figures: they do where a pool takes pods by name."""
    return any(pool.takes for pool in task.scenario.pools)


def trace_digest(trace: Trace, *, named: bool = False) -> str:
    """Return a digest of what a trace asks for, with the names of pods if they count."""
    digest = hashlib.sha256()
    for column in (trace.arrival_s, trace.life_s, trace.cpu_m, trace.memory_mib, trace.node):
        digest.update(f"{column.dtype} {len(column)};".encode())
        digest.update(np.ascontiguousarray(column).tobytes())
    digest.update(json.dumps([trace.node_names, trace.end_s.hex()]).encode())
    if named:
        digest.update(json.dumps(trace.names).encode())
    return digest.hexdigest()[:32]


def code_digest() -> str:
    """Return a digest of the code that a run goes through, and of Python's version."""
    digest = hashlib.sha256(f"{sys.version_info[:2]}".encode())
    for path in _CODE:
        package, _, folder = path.partition("/")
        place = files(package).joinpath(folder) if folder else files(package)
        for file in sorted(place.iterdir(), key=lambda one: one.name):
            if _counts(file):
                digest.update(f"{path}/{file.name}\n".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def _counts(file: Traversable) -> bool:
    return file.name.endswith((".py", ".toml")) and not file.name.startswith(_NO_RUN)


def _plain(value: object) -> object:
    """Turn a value into what JSON writes in one way only."""
    if isinstance(value, Enum):
        return [type(value).__name__, value.name]
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return [type(value).__name__, parts]
    if isinstance(value, Mapping):
        return {str(name): _plain(value[name]) for name in sorted(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value.hex()
    return str(value) if isinstance(value, IPv4Network) else value


class CellCache:
    """Figures by name, a file each, in a folder that is made with the first of them.

    A file appears whole or not at all; one that cannot be read counts as missing.
    """

    def __init__(self, folder: Path) -> None:
        """Use a folder, which need not exist."""
        self._folder = folder

    def get(self, key: str) -> Figures | None:
        """Return the figures of a name, None where there are none."""
        try:
            content = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
            found = content["figures"]
            if content["key"] != key:
                return None
            return {name: math.nan if found[name] is None else float(found[name]) for name in found}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, figures: Figures) -> None:
        """Keep figures; raises OSError where the folder cannot be written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        told = {name: None if math.isnan(value) else value for name, value in figures.items()}
        text = json.dumps({"key": key, "figures": told}) + "\n"
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=self._folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).replace(self._folder / f"{key}.json")
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
