"""What holds in every fleet, whatever happens to it: scenarios made up by Hypothesis."""

from collections import Counter
from ipaddress import IPv4Network
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni.allocator.behaviour import PRESETS
from cni.settings import parse_assignments
from sim import pools
from sim.metrics import INSTANT_S, steps, summarise
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
from sim.node_type import NodeType, named
from sim.record import RunRecord
from sim.scenario import FaultPlan, Scenario, SubnetPlan
from sim.simulation import run
from sim.sources.pods import trace_of
from sim.subnet import Reservation, ReservationType
from sim.trace import Trace

END_S = 900.0
RESERVED = Reservation(IPv4Network("10.0.1.16/28"), ReservationType.PREFIX)
SMALL = NodeType("t3.small", 3, 4)
SETTINGS = (
    ("WARM_IP_TARGET=1",),
    ("WARM_IP_TARGET=3", "MINIMUM_IP_TARGET=6"),
    ("WARM_ENI_TARGET=1",),
    ("WARM_ENI_TARGET=0",),
    ("ENABLE_PREFIX_DELEGATION=true", "WARM_PREFIX_TARGET=1"),
    ("ENABLE_PREFIX_DELEGATION=true", "WARM_IP_TARGET=2"),
)
ERRORS = ("RequestLimitExceeded", "InternalError", "InsufficientFreeAddressesInSubnet")
APIS = ("*", "CreateNetworkInterface", "AttachNetworkInterface", "AssignPrivateIpAddresses")

seconds = st.sampled_from([0.0, 7.0, 60.0, 200.0, 411.5, 800.0])
maybe = st.none


@st.composite
def changes(draw: st.DrawFn, nodes: int) -> Changes:
    """Draw what happens to a pool of so many nodes."""
    scaling = draw(maybe() | st.just(True)) or nodes == 0
    recycling = draw(maybe() | st.integers(1, 3))
    spot = draw(maybe() | st.sampled_from([0.0, 120.0]))
    return Changes(
        autoscaling=Autoscaling(
            least=draw(st.integers(0, nodes)),
            most=nodes + draw(st.integers(0, 4)) or 1,
            join_s=draw(st.sampled_from([0.0, 30.0])),
            empty_s=draw(st.sampled_from([0.0, 60.0])),
        )
        if scaling
        else None,
        recycling=None
        if recycling is None
        else Recycling(draw(seconds), recycling, join_s=20.0, grace_s=draw(st.just(0.0) | seconds)),
        spot=None if spot is None else SpotLoss(20.0, notice_s=spot, join_s=20.0, grace_s=5.0),
        cordons=tuple(
            Cordon(draw(seconds), draw(st.integers(1, max(nodes, 1))), for_s=draw(seconds))
            for _ in range(draw(st.integers(0, 2)) if nodes else 0)
        ),
        restarts=tuple(
            DaemonRestart(draw(seconds), draw(st.integers(1, 3)), down_s=draw(seconds))
            for _ in range(draw(st.integers(0, 1)))
        ),
    )


@st.composite
def node_pools(draw: st.DrawFn) -> tuple[NodePool, ...]:
    """Draw one to three pools; the first takes all pods that no other claims."""
    behaviour = draw(st.sampled_from(sorted(PRESETS)))
    made = []
    for number in range(draw(st.integers(1, 3))):
        nodes = draw(st.integers(0, 4))
        changed = draw(changes(nodes))
        words = draw(st.sampled_from(SETTINGS))
        made.append(
            pool_for(
                draw(st.sampled_from([named("m5.large"), SMALL])),
                parse_assignments(words, lenient=behaviour == "upstream"),
                name=f"pool{number}",
                behaviour=PRESETS[behaviour],
                nodes=nodes,
                max_pods=draw(st.sampled_from([8, 11, 29])),
                ignore_requests=True,
                takes=(f"{number}-*",) if number else (),
                changes=changed,
            )
        )
    return tuple(made)


@st.composite
def faults(draw: st.DrawFn) -> tuple[FaultPlan, ...]:
    """Draw what goes wrong with EC2, for a while."""
    codes = [draw(st.sampled_from(ERRORS)) for _ in range(draw(st.integers(0, 2)))]
    return tuple(
        FaultPlan(
            api=draw(st.sampled_from(APIS)),
            code=code,
            share=draw(st.sampled_from([0.1, 0.7])),
            delay_s=draw(st.sampled_from([0.0, 3.0])),
            takes_effect=code == "InternalError" and draw(st.booleans()),
            from_s=100.0,
            until_s=400.0,
        )
        for code in codes
    )


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Draw a fleet with all that can happen to it, and subnets that may run dry."""
    subnets = [
        SubnetPlan("10.0.0.0/24", used=draw(st.sampled_from([0.0, 0.5, 0.9]))),
        SubnetPlan("10.0.1.0/26", reservations=(RESERVED,)),
    ]
    return Scenario(
        subnets=tuple(subnets[: draw(st.integers(1, 2))]),
        pools=draw(node_pools()),
        seed=draw(st.integers(0, 9)),
        faults=draw(faults()),
        placement=draw(st.sampled_from(["spread", "pack"])),
        ignore_requests=True,
        warm=draw(st.booleans()),
        warm_up_s=draw(st.sampled_from([0.0, 0.0, 300.0])),
    )


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Draw up to eighty pods for the pools, some of them there at zero."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    count = draw(st.integers(1, 80))
    arrivals = np.sort(rng.uniform(0.0, 700.0, count))
    arrivals[: draw(st.integers(0, count))] = 0.0
    return trace_of(
        arrival_s=arrivals,
        life_s=rng.exponential(draw(st.sampled_from([5.0, 200.0])), count),
        names=[f"{one}-pod-{at}" for at, one in enumerate(rng.integers(0, 3, count))],
        end_s=END_S,
        origin="drawn",
    )


fleets = settings(
    derandomize=True,
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def rows(table: Any) -> int:
    """Count a table's rows."""
    return len(next(iter(table.values())))


def gone(record: RunRecord) -> dict[int, float]:
    """Return when each node that went was gone."""
    moves = record.moves
    return {
        int(node): float(t)
        for t, node, event in zip(moves["t"], moves["node"], moves["event"], strict=True)
        if record.events[event] == "gone"
    }


@fleets
@given(made=scenarios(), trace=traces())
def test_no_pod_and_no_address_is_lost(made: Scenario, trace: Trace) -> None:
    """Every pod ends somewhere; nodes that are gone hold nothing; subnets get all of it back.

    The auditor judges each assignment and each change on the way: here the books of the end.
    """
    record = run(made, trace)
    summary = summarise(record)

    assert summary.served + summary.waiting + summary.unschedulable == summary.pods
    if not made.warm_up_s:
        assert summary.pods + summary.present == len(trace) + rows(record.replaced)

    last = {int(node): at for at, node in enumerate(record.pool["node"])}
    left = {node: int(record.pool["addresses"][at]) for node, at in last.items()}
    for node, since in gone(record).items():
        assert left.get(node, 0) == 0, node
        pods = record.pods["node"] == node
        assert not (record.pods["added_at"][pods] > since).any()
        holding = pods & ~np.isnan(record.pods["served_at"])
        assert (record.pods["released_at"][holding] <= since + 1e-6).all()

    frame = steps(record)
    frame = frame[frame["lasts_s"] >= INSTANT_S]
    assert (frame["idle"] >= 0).all()
    assert (frame["assigned"] + frame["cooling"] <= frame["held"]).all()
    assert (record.subnets["free"] >= 0).all()


@fleets
@given(made=scenarios(), trace=traces())
def test_no_node_has_more_pods_than_it_takes(made: Scenario, trace: Trace) -> None:
    """Neither max-pods nor what the pool's patterns say is broken by moving pods around."""
    record = run(made, trace)
    header = record.header
    pods = record.pods
    until = np.where(np.isnan(pods["released_at"]), np.inf, pods["released_at"])
    names = trace.names
    for node in range(len(header.nodes)):
        pool = made.pools[header.pool_of(node)]
        mine = np.flatnonzero(pods["node"] == node)
        held = [
            (pods["served_at"][pod], until[pod]) for pod in mine if pods["served_at"][pod] >= 0.0
        ]
        changes_ = sorted([(t, 1) for t, _ in held] + [(t, -1) for _, t in held])
        most = np.cumsum([one for _, one in changes_]).max(initial=0)
        assert most <= pool.capacity.pods, header.nodes[node]
        of = dict(zip(record.replaced["pod"], record.replaced["of"], strict=True))
        for pod in mine:
            first = pod
            while first in of:
                first = of[first]
            wanted = names[first].split("-")[0] if not made.warm_up_s else ""
            claimed = f"pool{wanted}" in {one.name for one in made.pools[1:]}
            if wanted:
                assert pool.name == (f"pool{wanted}" if claimed else "pool0")


@fleets
@given(made=scenarios(), trace=traces())
def test_pools_add_up_to_the_fleet_and_equal_runs_are_equal(made: Scenario, trace: Trace) -> None:
    """What each pool held, waited for and asked EC2 for is the whole; a second run is the first."""
    record, again = run(made, trace), run(made, trace)
    for (name, one), (_, other) in zip(record.tables(), again.tables(), strict=True):
        for column, values in one.items():
            assert np.array_equal(values, other[column], equal_nan=True), (name, column)

    whole, parts = summarise(record), pools.summaries(record).values()
    for name in ("served", "waiting", "present"):
        assert getattr(whole, name) == sum(getattr(part, name) for part in parts), name
    unschedulable = 0 if len(made.pools) == 1 else whole.unschedulable
    assert whole.pods == sum(part.pods for part in parts) + unschedulable
    calls: Counter[str] = Counter()
    for part in parts:
        calls.update(part.ec2_calls.by_api)
    assert calls == Counter(whole.ec2_calls.by_api)
    held = sum(part.addresses.held.mean for part in parts)
    assert abs(whole.addresses.held.mean - held) < 1e-6 * max(held, 1.0)
