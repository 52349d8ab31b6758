"""Small traces and scenarios for tests of whole runs; the auditor is always on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.cloud.calls import MUTATING
from cni.settings import parse_assignments
from sim.buckets import BucketLimit
from sim.cloud_numbers import CloudNumbers
from sim.grid import Cell, Place, cells
from sim.node_type import NodeType
from sim.record import RunRecord
from sim.scenario import Scenario, SubnetPlan, scenario_for
from sim.trace import Trace, trace_of

BOTH = (UPSTREAM, NATIVE)
T3_SMALL = NodeType("t3.small", 3, 4)
M5_LARGE = NodeType("m5.large", 3, 10)
STAYS = float("inf")


def pods(
    arrivals: Sequence[float],
    lives: Sequence[float] | float = STAYS,
    *,
    end: float | None = None,
    cpu: Sequence[int] | None = None,
    memory: Sequence[int] | None = None,
    nodes: Sequence[int] | None = None,
    node_names: Sequence[str] = (),
) -> Trace:
    """Make a trace of pods by when they come and how long they live."""
    life = [lives] * len(arrivals) if isinstance(lives, int | float) else lives
    return trace_of(
        arrival_s=np.array(arrivals, dtype=np.float64),
        life_s=np.array(life, dtype=np.float64),
        cpu_m=None if cpu is None else np.array(cpu, dtype=np.int64),
        memory_mib=None if memory is None else np.array(memory, dtype=np.int64),
        node=None if nodes is None else np.array(nodes, dtype=np.int32),
        node_names=node_names,
        end_s=end,
        origin="made in a test",
    )


def scenario(
    settings: str = "",
    *,
    behaviour: Behaviour = NATIVE,
    node_type: NodeType = M5_LARGE,
    subnets: Sequence[str | SubnetPlan] = ("10.0.0.0/22",),
    **options: Any,
) -> Scenario:
    """Make a scenario; settings are words KEY=VALUE, subnets CIDRs or plans."""
    return scenario_for(
        node_type,
        parse_assignments(settings.split(), lenient=True),
        subnets=tuple(
            SubnetPlan(subnet) if isinstance(subnet, str) else subnet for subnet in subnets
        ),
        behaviour=behaviour,
        checks=True,
        **options,
    )


def tight(**limits: tuple[int, float]) -> CloudNumbers:
    """Return the shipped numbers with other request buckets: API=(size, refill per second)."""
    numbers = CloudNumbers.load()
    buckets = {api: BucketLimit(size, refill) for api, (size, refill) in limits.items()}
    return replace(numbers, buckets={**numbers.buckets, **buckets})


def served(record: RunRecord) -> int:
    """Return how many pods got an address."""
    return int(np.count_nonzero(~np.isnan(record.pods["served_at"])))


def waits(record: RunRecord) -> list[float]:
    """Return each pod's wait from its first ADD; nan where it has no address."""
    waited = record.pods["served_at"] - record.pods["added_at"]
    return [float(wait) for wait in waited]


def causes(record: RunRecord) -> dict[str, int]:
    """Return refused ADDs by cause."""
    codes = record.refusals["cause"].tolist()
    return {cause: codes.count(code) for code, cause in enumerate(record.causes)}


def unplaced(record: RunRecord) -> dict[int, str]:
    """Return the resource that each pod without a node was short of."""
    rows = zip(record.unplaced["pod"], record.unplaced["resource"], strict=True)
    return {int(pod): record.resources[resource] for pod, resource in rows}


def calls(record: RunRecord, *, error: str | None = None) -> dict[str, int]:
    """Return attempts of calls by API, only those with an error code where one is given."""
    found: dict[str, int] = {}
    for api, code in zip(record.calls["api"], record.calls["error"], strict=True):
        if error is None or record.errors[code] == error:
            found[record.apis[api]] = found.get(record.apis[api], 0) + 1
    return found


def mutating(record: RunRecord) -> int:
    """Return the attempts of calls that change something."""
    return sum(count for api, count in calls(record).items() if api in MUTATING)


def grid(*settings: str, seeds: int = 1, cidr: str = "10.0.0.0/24") -> tuple[Cell, ...]:
    """Make the cells of some settings on three nodes."""
    places = [
        Place(M5_LARGE, "native", (SubnetPlan(cidr),), 3, None, seed) for seed in range(seeds)
    ]
    return cells(
        [setting.split() for setting in settings],
        places,
        lambda place, chosen: scenario_for(
            place.node_type, chosen, subnets=place.subnets, nodes=3, seed=place.seed
        ),
    )
