"""Many nodes that start at the same instant, and the request rate of EC2 that they share.

This is a cluster that scales from nothing, or comes back after an outage: nodes are asked for
together, their daemons start together, and every one of them asks EC2 for what it needs first.
All nodes of an account and region draw on the same request buckets.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cni.allocator.behaviour import NATIVE, Behaviour
from cni.settings import Settings
from sim import metrics, nodes
from sim.buckets import BucketLimit
from sim.cloud_numbers import CloudNumbers
from sim.node_pool import Autoscaling, Changes
from sim.node_type import NodeType
from sim.record import RunRecord
from sim.scenario import Scenario, SubnetPlan, scenario_for
from sim.simulation import run
from sim.sources import shapes
from sim.trace import Trace

CPU_M = 4_000
"""A node's size does not matter here: pods are as large as the share of it that they get."""

BATCH_S = 3.0
"""The pods come at zero, and so much later the daemons of their nodes start, all at once."""


@dataclass(frozen=True, slots=True)
class Start:
    """How many nodes start together, and where.

    `pods` come to each node at once; `every_s` and `batch` let so many nodes start each so many
    seconds, where 0 lets all of them start at once.
    """

    node_type: NodeType
    settings: Settings
    nodes: int
    pods: int = 8
    behaviour: Behaviour = NATIVE
    subnets: str | Sequence[str | SubnetPlan] = "10.0.0.0/16"
    numbers: CloudNumbers | None = None
    batch: int = 0
    every_s: float = 0.0
    watched_s: float = 900.0
    seed: int = 0


def started(start: Start) -> RunRecord:
    """Let nodes start together, BATCH_S after the record's zero, and return what happened.

    A node goes through its daemon's whole start, calls and all, and takes its pods once it is
    ready. Raises ScenarioError where the nodes find no place in the subnets.
    """
    return run(_scenario(start), _pods(start))


def _scenario(start: Start) -> Scenario:
    """Make a pool that is empty and grows at once, with no time to boot."""
    sized = replace(start.node_type, vcpus=0, memory_mib=0)
    plain = scenario_for(
        sized,
        start.settings,
        subnets=start.subnets,
        behaviour=start.behaviour,
        seed=start.seed,
        numbers=start.numbers,
        checks=False,
    )
    grows = Autoscaling(most=start.nodes, join_s=0.0, batch_s=BATCH_S, empty_s=10 * start.watched_s)
    capacity = replace(plain.pool.capacity, cpu_m=CPU_M)
    pool = replace(plain.pool, nodes=0, capacity=capacity, changes=Changes(autoscaling=grows))
    return replace(plain, pools=(pool,))


def _pods(start: Start) -> Trace:
    """Let the pods of each batch of nodes come at one instant."""
    many = start.nodes * start.pods
    made = shapes.scale(
        pods=many,
        ramp_s=0.0,
        hold_s=start.watched_s,
        rest_s=0.0,
        repeats=1,
        cpu_m=CPU_M // start.pods,
        memory_mib=0,
        seed=start.seed,
    )
    if not start.batch:
        return made
    node = np.arange(many) // start.pods
    arrival_s = (node // start.batch) * start.every_s
    return replace(made, arrival_s=arrival_s.astype(np.float64))


def addressed(
    records: Mapping[str, RunRecord], until_s: float = 600.0, points: int = 301
) -> pd.DataFrame:
    """Return which share of the pods had an address by when, in %: a column for each run.

    The index is seconds since the first daemons started.
    """
    seconds = np.linspace(0.0, until_s, points)
    columns = {}
    for label, record in records.items():
        served = np.sort(record.pods["served_at"]) - BATCH_S
        columns[label] = 100.0 * np.searchsorted(served, seconds, side="right") / len(served)
    return pd.DataFrame(columns, index=pd.Index(seconds, name="seconds"))


def figures(record: RunRecord) -> dict[str, float]:
    """Return a start in figures.

    nodes           that started
    half_s, all_s   from the first daemons' start until half of the pods, and all of them, had
                    an address; nan for never
    calls           EC2 calls, attempts that were throttled among them
    throttled       these attempts
    a_node          calls that succeeded, for each node
    """
    served = np.sort(record.pods["served_at"]) - BATCH_S  # nan comes last
    found = metrics.calls_by_api(record)
    count = nodes.counted(record).get("ready", 0)
    attempts, throttled = int(found["attempts"].sum()), int(found["throttled"].sum())
    done = attempts - int(found["failed"].sum())
    return {
        "nodes": count,
        "half_s": round(float(served[(len(served) - 1) // 2]), 1),
        "all_s": round(float(served[-1]), 1),
        "calls": attempts,
        "throttled": throttled,
        "a_node": round(done / count, 1) if count else float("nan"),
    }


def grown(
    starts: Mapping[str, Start], nodes_each: Iterable[int]
) -> dict[tuple[str, int], RunRecord]:
    """Run each kind of start at each number of nodes; the keys are its label and the number."""
    return {
        (label, count): started(replace(start, nodes=count))
        for count in nodes_each
        for label, start in starts.items()
    }


def table(records: Mapping[Hashable, RunRecord]) -> pd.DataFrame:
    """Return the figures of starts, a row each, by their keys."""
    rows = [figures(record) for record in records.values()]
    return pd.DataFrame(rows, index=pd.Index(list(records)))


def buckets(numbers: CloudNumbers | None = None) -> pd.DataFrame:
    """Return EC2's request limits of one account and region: by API, at once and a second."""
    found = (numbers or CloudNumbers.load()).buckets
    rows = {api: (limit.size, limit.refill_per_s) for api, limit in found.items()}
    columns = ["requests at once", "then, a second"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def floors(record: RunRecord, numbers: CloudNumbers | None = None) -> pd.DataFrame:
    """Return how long EC2's request limits alone make a run's calls last, by API.

    calls    that succeeded
    at_once  requests that the bucket holds
    refill   that it gets a second
    floor_s  until the last of the calls can be accepted, however well they are timed

    APIs without a limit, and those whose calls fit the bucket, are left out; longest first.
    """
    limits = (numbers or CloudNumbers.load()).buckets
    found = metrics.calls_by_api(record)
    rows = []
    for api, done in (found["attempts"] - found["failed"]).items():
        # The record does not tell reads with a filter from others: their bucket is the larger one.
        limit = limits.get(str(api))
        if limit is not None and done > limit.size:
            floor_s = round((done - limit.size) / limit.refill_per_s, 1)
            rows.append((api, int(done), limit.size, limit.refill_per_s, floor_s))
    columns = ["api", "calls", "at_once", "refill", "floor_s"]
    frame = pd.DataFrame(rows, columns=columns).set_index("api")
    return frame.sort_values("floor_s", ascending=False, kind="stable")


def scaled(share: float, numbers: CloudNumbers | None = None) -> CloudNumbers:
    """Return EC2's numbers with all request limits multiplied: 0.5 where others use half.

    Raises ValueError for a share that leaves nothing.
    """
    if not share > 0:
        raise ValueError(f"share={share:g}: something must be left of the request limits")
    base = numbers or CloudNumbers.load()
    limits = {
        api: BucketLimit(max(round(limit.size * share), 1), limit.refill_per_s * share)
        for api, limit in base.buckets.items()
    }
    return replace(base, buckets=limits)
