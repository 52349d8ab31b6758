"""What holds of every fleet, whatever happens to its nodes: random scenarios against plain checks.

Each example is a whole run of a few minutes of simulated time, watched at every assignment,
release and change of a pool.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import PRESETS
from cni.allocator.model import Assignment
from cni.settings import parse_assignments
from sim import checks, metrics, nodes, pools, simulation
from sim.buckets import RequestBuckets
from sim.metrics import summarise
from sim.node_pool import (
    Autoscaling,
    Changes,
    Cordon,
    DaemonRestart,
    NodePool,
    Recycling,
    SpotLoss,
    pool_for,
)
from sim.node_type import named
from sim.record import RunRecord
from sim.scenario import FaultPlan, Scenario, ScenarioError, SubnetPlan
from sim.subnet import Reservation, ReservationType
from sim.trace import Trace, trace_of
from sim.vpc import Vpc
from tests.sim.worlds import tight

END_S = 400.0
INSTANT_S = 1e-6

many = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
few = settings(many, max_examples=12)


# Random fleets.

TIMES = st.sampled_from([0.0, 1.0, 30.0, 100.0, 150.0, 250.0])
SHORT = st.sampled_from([0.0, 1.0, 12.0, 45.0])
BATCH = st.integers(1, 3)
OFTEN = st.sampled_from([0.0, 60.0, 150.0])

AUTOSCALING = st.builds(
    Autoscaling,
    least=st.integers(0, 1),
    most=st.integers(3, 6),
    join_s=SHORT,
    batch_s=SHORT,
    empty_s=st.sampled_from([1.0, 20.0, 60.0]),
)
CHANGES = st.builds(
    Changes,
    autoscaling=st.none() | AUTOSCALING,
    recycling=st.none() | st.builds(Recycling, TIMES, BATCH, SHORT, SHORT, OFTEN),
    spot=st.none() | st.builds(SpotLoss, st.sampled_from([5.0, 40.0]), SHORT, SHORT, SHORT),
    cordons=st.lists(st.builds(Cordon, TIMES, BATCH, SHORT), max_size=2).map(tuple),
    restarts=st.lists(
        st.builds(DaemonRestart, TIMES, BATCH, st.sampled_from([1.0, 8.0]), OFTEN), max_size=1
    ).map(tuple),
)
FAULTS = st.builds(
    FaultPlan,
    api=st.sampled_from(
        ["*", "ReadMetadata", "AssignPrivateIpAddresses", "CreateNetworkInterface"]
    ),
    code=st.sampled_from(["InternalError", "RequestTimeout"]),
    share=st.sampled_from([0.1, 0.5]),
    delay_s=st.sampled_from([0.0, 3.0]),
    takes_effect=st.booleans(),
    from_s=TIMES,
) | st.builds(FaultPlan, code=st.just("RequestLimitExceeded"), share=st.just(0.5), from_s=TIMES)
SUBNETS = st.sampled_from(
    [
        (SubnetPlan("10.0.0.0/22"),),
        (SubnetPlan("10.0.0.0/25", used=0.3), SubnetPlan("10.0.1.0/26", used=20)),
        (
            SubnetPlan("10.0.0.0/24", zone="a", used=0.5),
            SubnetPlan(
                "10.0.1.0/24",
                zone="a",
                reservations=(
                    Reservation(IPv4Network("10.0.1.0/25"), ReservationType.PREFIX),
                    Reservation(IPv4Network("10.0.1.128/27"), ReservationType.EXPLICIT),
                ),
            ),
            SubnetPlan("10.0.2.0/25", zone="b"),
        ),
    ]
)
SETTINGS = st.sampled_from(
    [
        ("WARM_IP_TARGET=1",),
        ("WARM_IP_TARGET=3", "MINIMUM_IP_TARGET=6"),
        ("WARM_ENI_TARGET=1",),
        ("WARM_PREFIX_TARGET=1", "ENABLE_PREFIX_DELEGATION=true"),
    ]
)


@st.composite
def pool(draw: st.DrawFn, name: str, takes: tuple[str, ...]) -> NodePool:
    """Draw a pool of nodes with four to ten places for pods each."""
    changes = draw(CHANGES)
    scaling = changes.autoscaling
    behaviour = draw(st.sampled_from(["native", "upstream"]))
    return pool_for(
        named(draw(st.sampled_from(["t3.small", "m5.large"]))),
        parse_assignments(draw(SETTINGS), lenient=True),
        name=name,
        behaviour=PRESETS[behaviour],
        nodes=draw(st.integers(1 if scaling is None else scaling.least, 3)),
        max_pods=draw(st.integers(6, 12)),
        ignore_requests=True,
        takes=takes,
        changes=changes,
    )


@st.composite
def fleets(draw: st.DrawFn) -> Scenario:
    """Draw one or two pools in one to three subnets."""
    first = draw(pool("web", draw(st.sampled_from([(), ("web-*",)]))))
    listed = (first, draw(pool("rest", ()))) if first.takes or draw(st.booleans()) else (first,)
    numbers = tight(
        AssignPrivateIpAddresses=draw(st.sampled_from([(2, 0.2), (50, 5)])),
        CreateNetworkInterface=draw(st.sampled_from([(1, 0.1), (50, 5)])),
    )
    return Scenario(
        subnets=draw(SUBNETS),
        pools=listed,
        seed=draw(st.integers(0, 5)),
        numbers=numbers,
        faults=tuple(draw(st.lists(FAULTS, max_size=1))),
        placement=draw(st.sampled_from(["spread", "pack"])),
        ignore_requests=True,
        warm=draw(st.sampled_from([True, True, False])),
    )


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Draw up to forty pods, some of them there at zero, some that stay."""
    seed, count = draw(st.integers(0, 1000)), draw(st.integers(1, 40))
    random = np.random.default_rng(seed)
    arrival_s = np.sort(np.maximum(random.uniform(-40.0, END_S * 0.9, count), 0.0))
    life_s = np.where(random.random(count) < 0.2, np.inf, random.exponential(90.0, count))
    names = [f"{random.choice(['web', 'job'])}-{pod}" for pod in range(count)]
    return trace_of(
        arrival_s=arrival_s, life_s=life_s, end_s=END_S, origin="drawn", names=tuple(names)
    )


# A run, watched.


@dataclass
class Watched:
    """What was seen of one run beside its record."""

    vpcs: list[Vpc] = field(default_factory=list)
    taken: dict[str, list[float]] = field(default_factory=dict)


@contextmanager
def watching() -> Iterator[Watched]:
    """Recompute the VPC's books at every event, and note every request that EC2 took."""
    seen = Watched()

    class Thorough(checks.Auditor):
        def __init__(self, vpc: Vpc) -> None:
            super().__init__(vpc, thorough=True)
            seen.vpcs.append(vpc)

        def assigned(
            self, node: str, assignment: Assignment, allocator: Allocator, now: float
        ) -> None:
            super().assigned(node, assignment, allocator, now)
            seen.vpcs[-1].check()

        def changed(self, node: str, allocator: Allocator, now: float) -> None:
            super().changed(node, allocator, now)
            seen.vpcs[-1].check()

    take = RequestBuckets.take

    def taken(self: RequestBuckets, api: str, now: float) -> bool:
        accepted = take(self, api, now)
        # Before zero EC2 has no buckets.
        if accepted and api in self._buckets:
            seen.taken.setdefault(api, []).append(now)
        return accepted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "Auditor", Thorough)
        patch.setattr(RequestBuckets, "take", taken)
        yield seen


def ran(scenario: Scenario, trace: Trace) -> RunRecord | None:
    """Return the record, None where not even the first nodes find a place."""
    try:
        return simulation.run(scenario, trace)
    except ScenarioError as error:
        if "nodes fit into" not in str(error):
            raise
        return None


def moves_of(record: RunRecord) -> list[tuple[float, int, str]]:
    """Return what happened to nodes: when, to which, what."""
    table = record.moves
    codes = zip(table["t"].tolist(), table["node"].tolist(), table["event"].tolist(), strict=True)
    return [(t, node, record.events[code]) for t, node, code in codes]


def spans(
    moves: list[tuple[float, int, str]], begin: tuple[str, ...], end: tuple[str, ...]
) -> dict[int, list[tuple[float, float]]]:
    """Return from when to when each node was in a state that these events begin and end."""
    found: dict[int, list[tuple[float, float]]] = {}
    for t, node, event in moves:
        listed = found.setdefault(node, [])
        if event in begin:
            listed.append((t, END_S * 9))
        elif event in end:
            found[node] = [(since, min(until, t)) for since, until in listed]
    return found


# What holds.


@many
@given(fleets(), traces())
def test_the_books_balance_at_every_step(scenario: Scenario, trace: Trace) -> None:
    """No address at two pods or beyond its subnet, and none kept by a node that is gone."""
    with watching() as seen:
        record = ran(scenario, trace)
    if record is None:
        return
    metrics.steps(record)  # Refuses more addresses in use than held, at any instant.
    gone = {node for _, node, event in moves_of(record) if event == "gone"}
    names = {record.header.nodes[node] for node in gone}
    (vpc,) = seen.vpcs
    for eni_id in vpc.eni_ids:
        assert vpc.instance_of(eni_id, END_S) not in names
    for node in gone:
        rows = record.pool["node"] == node
        last = {column: record.pool[column][rows][-1] for column in ("enis", "blocks", "addresses")}
        assert last == {"enis": 0, "blocks": 0, "addresses": 0}
    # Nodes that are there hold no more than is missing from the subnets.
    alive = [node for node in range(len(record.header.nodes)) if node not in gone]
    missing = sum(subnet.usable - subnet.free for subnet in vpc.subnets)
    held = sum(
        int(record.pool[column][record.pool["node"] == node][-1])
        for node in alive
        for column in ("enis", "addresses")
    )
    assert held <= missing


@many
@given(fleets(), traces())
def test_no_bucket_gives_more_than_it_has(scenario: Scenario, trace: Trace) -> None:
    """Between any two instants EC2 takes a bucket's size and its refill at most."""
    with watching() as seen:
        record = ran(scenario, trace)
    if record is None:
        return
    for api, at in seen.taken.items():
        limit = scenario.numbers.buckets[api]
        over = np.arange(1, len(at) + 1) - limit.refill_per_s * np.array(at)
        # Of all windows that end with a request, the one that asks for most beyond its refill.
        least = np.minimum.accumulate(over - 1)
        assert (over - least).max() <= limit.size + 1e-6, api


@many
@given(fleets(), traces())
def test_every_pod_has_one_end(scenario: Scenario, trace: Trace) -> None:
    """Served, waiting, evicted or without a node; who is evicted has one successor, no one else."""
    record = ran(scenario, trace)
    if record is None:
        return
    summary, pods = summarise(record), record.pods
    ends = (summary.served, summary.waiting, summary.evicted, summary.unschedulable)
    assert min(ends) >= 0
    assert summary.pods == sum(ends)
    replaced = record.replaced["of"].tolist()
    assert summary.pods + summary.present == len(trace) + len(replaced)
    assert len(set(replaced)) == len(replaced)

    # Who lost its address, or its place in line, before its time, was evicted.
    count = len(trace)
    served_at = np.maximum(pods["served_at"][:count], 0.0)
    early = pods["released_at"][:count] < served_at + trace.life_s - INSTANT_S
    early |= np.isnan(served_at) & ~np.isnan(pods["released_at"][:count])
    assert set(np.flatnonzero(early).tolist()) <= set(replaced)
    unplaced = set(record.unplaced["pod"].tolist())
    assert unplaced == set(np.flatnonzero(pods["node"] < 0).tolist())


@many
@given(fleets(), traces())
def test_pods_come_to_nodes_that_take_them(scenario: Scenario, trace: Trace) -> None:
    """None comes to a node that is closed, is served by a daemon that is away, or outlives one."""
    record = ran(scenario, trace)
    if record is None:
        return
    pods, moves = record.pods, moves_of(record)
    closed = spans(moves, ("joining", "cordoned", "draining", "gone"), ("ready", "uncordoned"))
    away = spans(moves, ("daemon away",), ("daemon back",))
    gone_at = {node: t for t, node, event in moves if event == "gone"}
    for pod in np.flatnonzero(pods["node"] >= 0).tolist():
        node, added_at = int(pods["node"][pod]), pods["added_at"][pod]
        for since, until in closed.get(node, []):
            assert not since < added_at < until, (pod, node)
        for since, until in away.get(node, []):
            assert not since < pods["served_at"][pod] < until, (pod, node)
        if node in gone_at:
            assert pods["released_at"][pod] <= gone_at[node] + INSTANT_S, (pod, node)


@many
@given(fleets(), traces())
def test_pools_keep_to_their_sizes(scenario: Scenario, trace: Trace) -> None:
    """An autoscaler stays within its bounds, a pool of fixed size keeps it."""
    record = ran(scenario, trace)
    if record is None:
        return
    for number, plan in enumerate(scenario.pools):
        part = pools.of_pool(record, number)
        scaling, recycling = plan.changes.autoscaling, plan.changes.recycling
        staying = size = plan.nodes
        drained: set[int] = set()
        for _, node, event in moves_of(part):
            size += {"joining": 1, "gone": -1}.get(event, 0)
            if event == "joining":
                staying += 1
            elif event in ("draining", "gone") and node not in drained:
                drained.add(node)
                staying -= 1
            assert size >= 0
            surge = 0 if recycling is None else recycling.batch
            most = plan.nodes if scaling is None else scaling.most
            assert staying <= most + surge
        happened = {event for _, _, event in moves_of(part)}
        if plan.changes == Changes(cordons=plan.changes.cordons, restarts=plan.changes.restarts):
            assert happened <= {"cordoned", "uncordoned", "daemon away", "daemon back"}
        cordoned = Counter(event for _, _, event in moves_of(part))["cordoned"]
        assert cordoned <= sum(cordon.nodes for cordon in plan.changes.cordons)


@many
@given(fleets(), traces())
def test_pools_add_up_to_the_fleet(scenario: Scenario, trace: Trace) -> None:
    """Counts and means of the pools are those of the whole; pods without a node are nobody's."""
    record = ran(scenario, trace)
    if record is None:
        return
    whole, parts = summarise(record), list(pools.summaries(record).values())
    if len(parts) == 1:
        assert parts == [whole]
        return
    assert whole.pods == sum(part.pods for part in parts) + whole.unschedulable
    for name in ("present", "served", "waiting", "evicted", "refused_pods", "churn_pairs", "nodes"):
        assert getattr(whole, name) == sum(getattr(part, name) for part in parts), name
    for name in ("total", "mutating", "throttled", "metadata_reads"):
        calls = [getattr(part.ec2_calls, name) for part in parts]
        assert getattr(whole.ec2_calls, name) == sum(calls), name
    for name in ("held", "assigned", "cooling", "idle", "primary"):
        means = [getattr(part.addresses, name).mean for part in parts]
        assert getattr(whole.addresses, name).mean == pytest.approx(sum(means)), name
    refusals: Counter[str] = Counter()
    for part in parts:
        refusals.update(part.refusals)
    assert dict(refusals) == whole.refusals
    there = [nodes.mean(pools.of_pool(record, number)) for number in range(len(parts))]
    assert nodes.mean(record) == pytest.approx(sum(there))


@few
@given(fleets(), traces())
def test_equal_runs_give_equal_records(scenario: Scenario, trace: Trace) -> None:
    """A record is a function of scenario and trace, to the last bit."""
    first, second = ran(scenario, trace), ran(scenario, trace)
    if first is None or second is None:
        assert first is second
        return
    assert first.header == second.header
    assert summarise(first).as_dict() == summarise(second).as_dict()
    for (name, one), (_, other) in zip(first.tables(), second.tables(), strict=True):
        for column, values in one.items():
            assert np.array_equal(values, other[column], equal_nan=True), (name, column)


@few
@given(fleets(), traces(), st.sampled_from([1.0, 90.0, 220.0]))
def test_a_warm_up_is_cut_and_its_state_stays(
    scenario: Scenario, trace: Trace, cut_s: float
) -> None:
    """From the cut on addresses and nodes are as without one; calls and demand begin there."""
    whole, rest = ran(scenario, trace), ran(replace(scenario, warm_up_s=cut_s), trace)
    if whole is None or rest is None:
        assert whole is rest
        return
    for of in (metrics.steps, nodes.steps):
        full, cut = of(whole), of(rest)
        for name in ("held", "assigned", "cooling", "idle", "enis", "nodes"):
            if name in full:
                then = at_instants(full, name, cut_s)
                assert then == at_instants(cut, name, 0.0), name
    assert rest.header.end_s == whole.header.end_s - cut_s
    added_at = whole.pods["added_at"]
    figures = summarise(rest)
    assert figures.present == int((added_at < cut_s).sum())
    assert figures.served + figures.waiting + figures.evicted == int((added_at >= cut_s).sum())
    assert rest.calls["started"].size == int((whole.calls["started"] >= cut_s).sum())
    assert rest.refusals["t"].size == int((whole.refusals["t"] >= cut_s).sum())


def at_instants(frame: Any, column: str, first_s: float) -> list[int]:
    """Read a step function off at forty instants that no event of a scenario shares."""
    t = np.linspace(first_s, first_s + END_S - 221.0, 40) + 0.123456
    row = np.searchsorted(frame["t"].to_numpy(), t, side="right") - 1
    found: list[int] = frame[column].to_numpy()[row].tolist()
    return found
