"""Nodes that join, are drained and go; daemons that restart; EC2 that fails."""

from dataclasses import replace
from ipaddress import IPv4Network

import numpy as np
import pytest

from cni.allocator.behaviour import PRESETS
from cni.settings import parse_assignments
from sim import nodes
from sim.cell import BOUND, bound_task, perform
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
from sim.simulation import run
from sim.sources.pods import trace_of
from sim.sources.shapes import generate
from sim.subnet import Reservation, ReservationType
from sim.trace import Trace

BEHAVIOURS = pytest.mark.parametrize("behaviour", ["native", "upstream"])
ALL = Changes(
    autoscaling=Autoscaling(2, 40),
    recycling=Recycling(300, batch=2, every_s=900),
    spot=SpotLoss(3.0),
    cordons=(Cordon(200, 3, for_s=400),),
    restarts=(DaemonRestart(200, 2, down_s=8, every_s=300),),
)


def pool_of(
    behaviour: str = "native", *, nodes_first: int = 4, name: str = "nodes", **more: object
) -> NodePool:
    """Return a pool of m5.large that keeps three addresses warm."""
    settings = parse_assignments(["WARM_IP_TARGET=3"], lenient=behaviour == "upstream")
    return pool_for(
        named("m5.large"),
        settings,
        name=name,
        behaviour=PRESETS[behaviour],
        nodes=nodes_first,
        ignore_requests=True,
        **more,  # type: ignore[arg-type]
    )


def fleet(*pools: NodePool, **more: object) -> Scenario:
    """Return a scenario of pools in a /22."""
    subnets = more.pop("subnets", (SubnetPlan("10.0.0.0/22"),))
    return Scenario(subnets=subnets, pools=pools, ignore_requests=True, **more)  # type: ignore[arg-type]


def steady(seed: int = 1, **values: float) -> Trace:
    """Return pods that come and go evenly for twenty minutes."""
    texts = {"duration_s": "1200", "rate_per_s": "0.2", "mean_life_s": "200"}
    return generate("steady", texts | {k: str(v) for k, v in values.items()}, seed=seed)


def bound_of(scenario: Scenario, trace: Trace) -> float:
    """Return the addresses that no setting can do without."""
    return perform(bound_task(scenario), trace).figures[BOUND]


def counted(record: RunRecord) -> dict[str, int]:
    """Count what happened to nodes."""
    return {str(event): int(n) for event, n in nodes.moves(record)["event"].value_counts().items()}


def pods_at(*arrivals: float, life: float = 1e9, end: float = 600.0, **more: object) -> Trace:
    """Return pods that arrive then."""
    count = len(arrivals)
    return trace_of(
        arrival_s=np.array(arrivals),
        life_s=np.full(count, life),
        end_s=end,
        origin="test",
        **more,  # type: ignore[arg-type]
    )


@BEHAVIOURS
@pytest.mark.parametrize("seed", range(3))
def test_everything_at_once_keeps_every_check(behaviour: str, seed: int) -> None:
    """Nodes join, drain, are lost and restart together: no check fails, no pod is lost."""
    made = fleet(pool_of(behaviour, nodes_first=8, changes=ALL), seed=seed)
    record = run(made, steady(seed))
    summary = summarise(record)
    happened = counted(record)

    assert happened["gone"] > 4
    assert happened["daemon away"] > 8
    replaced = len(record.replaced["pod"])
    assert summary.pods + summary.present == len(steady(seed)) + replaced
    assert replaced > 20
    assert summary.served + summary.waiting + summary.unschedulable == summary.pods


@BEHAVIOURS
def test_equal_fleets_run_equally(behaviour: str) -> None:
    """A run of a fleet is a function of its arguments: every table is the same again."""
    made = fleet(pool_of(behaviour, nodes_first=6, changes=ALL), seed=7)
    first, second = (run(made, steady()) for _ in range(2))

    for (name, one), (_, other) in zip(first.tables(), second.tables(), strict=True):
        for column, values in one.items():
            assert np.array_equal(values, other[column], equal_nan=True), (name, column)


@BEHAVIOURS
def test_an_autoscaler_brings_nodes_for_pods_and_takes_empty_ones(behaviour: str) -> None:
    """Sixty pods on no nodes of 27 want three; all are gone once the pods are, down to `least`."""
    scaling = Autoscaling(least=0, most=10, join_s=60, batch_s=10, empty_s=120)
    made = fleet(pool_of(behaviour, nodes_first=0, changes=Changes(autoscaling=scaling)))
    record = run(made, pods_at(*[5.0] * 60, life=200.0, end=1200.0))

    assert counted(record) == {"joining": 3, "ready": 3, "gone": 3}
    assert nodes.steps(record)["nodes"].tolist()[-1] == 0
    assert summarise(record).served == 60
    # Gathered for 10 s, a minute to join, then the daemon's start.
    assert np.nanmin(record.pods["added_at"]) > 75.0


def test_an_autoscaler_asks_for_no_more_than_it_may() -> None:
    """With two nodes at most, the pods beyond their 54 places stay without a node."""
    scaling = Autoscaling(least=0, most=2)
    made = fleet(pool_of(nodes_first=0, changes=Changes(autoscaling=scaling)))
    record = run(made, pods_at(*[5.0] * 60))

    assert counted(record)["joining"] == 2
    assert summarise(record).unschedulable == 6


def test_nodes_on_their_way_count_for_pods_that_come_later() -> None:
    """Pods that arrive while a node with room for them joins ask for no second one."""
    scaling = Autoscaling(least=0, most=10)
    made = fleet(pool_of(nodes_first=0, changes=Changes(autoscaling=scaling)))
    record = run(made, pods_at(5.0, 30.0, 50.0))

    assert counted(record)["joining"] == 1


@BEHAVIOURS
def test_recycling_replaces_every_node_and_every_pod(behaviour: str) -> None:
    """Four nodes in batches of two: four come, the old four go, each pod is placed anew."""
    changes = Changes(recycling=Recycling(at_s=100, batch=2, join_s=30, grace_s=20))
    made = fleet(pool_of(behaviour, changes=changes))
    record = run(made, pods_at(*[10.0] * 40))

    assert counted(record) == {"joining": 4, "ready": 4, "draining": 4, "gone": 4}
    moves = nodes.moves(record)
    gone = set(moves[moves["event"] == "gone"]["node"])
    assert gone == {"node-0", "node-1", "node-2", "node-3"}
    held = record.pods["node"][np.isnan(record.pods["released_at"])]
    assert {record.header.nodes[node] for node in held.tolist()}.isdisjoint(gone)
    assert summarise(record).served == 40 + len(record.replaced["pod"])


@pytest.mark.parametrize("notice_s", [0.0, 120.0])
def test_a_lost_node_takes_its_addresses_along(notice_s: float) -> None:
    """After a spot loss nothing of the node is held, its pods run elsewhere, another node joins."""
    changes = Changes(spot=SpotLoss(per_node_hour=10.0, notice_s=notice_s))
    made = fleet(pool_of(changes=changes), seed=2)
    record = run(made, pods_at(*[10.0] * 20, end=900.0))
    lost = {
        str(node)
        for node, event in zip(*(nodes.moves(record)[c] for c in ("node", "event")), strict=True)
        if event == "gone"
    }

    assert lost
    for name in lost:
        index = record.header.nodes.index(name)
        rows = record.pool["node"] == index
        assert record.pool["addresses"][rows][-1] == 0
    assert counted(record)["joining"] >= len(lost)


def test_a_cordoned_node_takes_no_pods_until_it_is_uncordoned() -> None:
    """With one node cordoned from 50 to 300 s, pods in between go to the other alone."""
    changes = Changes(cordons=(Cordon(at_s=50, nodes=1, for_s=250),))
    made = fleet(pool_of(nodes_first=2, changes=changes))
    record = run(made, pods_at(10.0, 20.0, *[100.0] * 6, 400.0))

    assert set(record.pods["node"][2:8].tolist()) == {1}
    assert record.pods["node"][8] == 0


@BEHAVIOURS
def test_pods_meet_a_daemon_that_is_away(behaviour: str) -> None:
    """An ADD is refused as starting and comes again; a DEL leaves a tombstone that is buried."""
    changes = Changes(restarts=(DaemonRestart(at_s=100, batch=4, down_s=20),))
    made = fleet(pool_of(behaviour, nodes_first=1, changes=changes))
    trace = trace_of(
        arrival_s=np.array([10.0, 110.0]), life_s=np.array([95.0, 1e9]), end_s=300.0, origin="test"
    )
    record = run(made, trace)

    assert summarise(record).refusals == {"starting": int(record.pods["refused"][1])}
    assert record.pods["served_at"][1] > 120.0
    # The pod ended at 105 s; its address is released when the daemon is back.
    assert 120.0 < record.pods["released_at"][0] < 125.0


@BEHAVIOURS
def test_a_restarted_daemon_knows_its_pods(behaviour: str) -> None:
    """Twenty restarts change no assignment, and pods that stay are not replaced."""
    changes = Changes(restarts=(DaemonRestart(at_s=50, batch=2, down_s=3, every_s=50),))
    record = run(fleet(pool_of(behaviour, changes=changes)), pods_at(*[10.0] * 30, end=1100.0))

    assert counted(record)["daemon back"] > 60
    assert np.isnan(record.pods["released_at"]).all()
    assert len(record.replaced["pod"]) == 0


def test_cooldowns_outlive_a_restart_under_native_alone() -> None:
    """Upstream's checkpoint forgets what cooled: it hands the address out again at once."""
    found = {}
    for behaviour in ("native", "upstream"):
        changes = Changes(restarts=(DaemonRestart(at_s=100, down_s=2),))
        pool = replace(pool_of(behaviour, nodes_first=1, changes=changes), cooldown_s=1000.0)
        trace = trace_of(
            arrival_s=np.array([10.0]), life_s=np.array([80.0]), end_s=300.0, origin="test"
        )
        found[behaviour] = run(fleet(pool), trace).cut["count"].sum()
    assert (found["native"], found["upstream"]) == (0, 1)


def test_pools_get_the_pods_they_take_and_others_share_the_rest() -> None:
    """A pool with a pattern gets its pods and no others; cooldowns and settings are its own."""
    web = pool_of(name="web", takes=("web-*",), nodes_first=2)
    rest = replace(pool_of(name="rest", nodes_first=2), cooldown_s=5.0)
    names = [f"web-{n}" for n in range(5)] + [f"job-{n}" for n in range(5)]
    record = run(fleet(web, rest), pods_at(*[1.0] * 10, names=names))

    assert set(record.pods["node"][:5].tolist()) == {0, 1}
    assert set(record.pods["node"][5:].tolist()) == {2, 3}
    assert record.header.nodes == ("web-0", "web-1", "rest-0", "rest-1")
    assert record.header.node_pools == (0, 0, 1, 1)


def test_a_pod_that_no_pool_takes_is_refused_before_the_run() -> None:
    """Where every pool names its pods, one that fits none is a mistake of the scenario."""
    only = pool_of(name="web", takes=("web-*",))
    with pytest.raises(ScenarioError, match=r"no pool takes pod job-1"):
        run(fleet(only), pods_at(1.0, names=["job-1"]))
    with pytest.raises(ScenarioError, match="the trace has no names"):
        run(fleet(only), pods_at(1.0))


def test_pools_share_pods_by_how_full_they_are() -> None:
    """Two pools without patterns fill alike."""
    record = run(
        fleet(pool_of(name="a", nodes_first=1), pool_of(name="b", nodes_first=1)),
        pods_at(*[1.0] * 10),
    )
    assert np.bincount(record.pods["node"]).tolist() == [5, 5]


def test_nodes_go_to_their_zones_and_there_to_the_emptiest_subnet() -> None:
    """A pool of zone b takes nothing of zone a; in b the subnet with more free addresses wins."""
    subnets = (
        SubnetPlan("10.0.0.0/24", zone="a"),
        SubnetPlan("10.0.1.0/24", zone="b", used=100),
        SubnetPlan("10.0.2.0/24", zone="b"),
    )
    record = run(fleet(pool_of(zones=("b",)), subnets=subnets), pods_at(1.0))
    lows = summarise(record).subnets

    assert lows["10.0.0.0/24"].lowest_free == 251
    assert lows["10.0.1.0/24"].lowest_free == 151
    assert (lows["10.0.2.0/24"].lowest_free or 251) < 251


def test_a_node_that_finds_no_address_is_asked_for_again() -> None:
    """Where the subnet has no address for a node that should join, it joins once there is one."""
    scaling = Autoscaling(least=1, most=9, join_s=1, batch_s=1)
    made = fleet(
        pool_of(nodes_first=1, changes=Changes(autoscaling=scaling)),
        subnets=(SubnetPlan("10.0.0.0/28"),),
    )
    record = run(made, pods_at(*[5.0] * 40, life=100.0, end=500.0))
    assert summarise(record).served > 0


def test_faults_strike_their_api_in_their_time() -> None:
    """Half of the assigns fail from 100 s to 300 s, and nothing else at any time."""
    fault = FaultPlan("AssignPrivateIpAddresses", "InternalError", 0.5, from_s=100, until_s=300)
    record = run(fleet(pool_of("upstream"), faults=(fault,)), steady())
    code = record.errors.index("InternalError")
    struck = record.calls["error"] == code

    assert struck.sum() > 3
    started = record.calls["started"][struck]
    assert started.min() >= 100
    assert started.max() < 300
    assert {record.apis[api] for api in record.calls["api"][struck]} == {"AssignPrivateIpAddresses"}


def test_a_denied_api_is_denied_to_all() -> None:
    """A role without AttachNetworkInterface is refused it, with EC2's code."""
    made = fleet(pool_of("native"), denied=("AttachNetworkInterface",))
    record = run(made, pods_at(*[5.0] * 60))
    assert "UnauthorizedOperation" in record.errors


@BEHAVIOURS
def test_pods_of_zero_have_their_addresses_before_the_clock_starts(behaviour: str) -> None:
    """Twenty pods at zero are no demand: no wait, no call, but assigned from the first instant."""
    record = run(fleet(pool_of(behaviour)), pods_at(*[0.0] * 20))
    summary = summarise(record)

    assert (summary.pods, summary.present) == (0, 20)
    assert summary.addresses.assigned.mean == 20.0
    assert record.calls["started"].size == 0


def test_pods_of_zero_without_an_address_by_then_ask_for_one_at_zero() -> None:
    """Of thirty pods on a node with 27 addresses, three are demand, and wait."""
    pool = pool_of("native", nodes_first=1, max_pods=40)
    summary = summarise(run(fleet(pool), pods_at(*[0.0] * 30)))
    assert (summary.present, summary.pods, summary.waiting) == (27, 3, 3)


def test_a_warm_up_is_cut_from_all_figures() -> None:
    """What happened before the cut is the state at zero; demand, calls and refusals begin there."""
    made = fleet(pool_of("upstream"))
    whole = run(made, steady())
    cut = run(replace(made, warm_up_s=400.0), steady())
    after = whole.pods["added_at"] >= 400.0

    assert cut.header.end_s == whole.header.end_s - 400.0
    assert summarise(cut).pods == int(after.sum())
    assert cut.calls["started"].size == int((whole.calls["started"] >= 400.0).sum())
    first = nodes.steps(cut)["nodes"].tolist()
    assert first == [4]


def test_a_warm_up_longer_than_the_trace_is_refused() -> None:
    """Nothing would be left to judge."""
    with pytest.raises(ScenarioError, match="warm-up of 9999 s"):
        run(fleet(pool_of(), warm_up_s=9999.0), pods_at(1.0))


def test_scenarios_that_contradict_themselves_are_refused() -> None:
    """Two pools of one name, zones named for some subnets, zones unknown, sizes out of bounds."""
    one = pool_of()
    with pytest.raises(ScenarioError, match="two pools of nodes have one name"):
        fleet(one, one)
    with pytest.raises(ScenarioError, match="zone of every subnet, or of none"):
        fleet(one, subnets=(SubnetPlan("10.0.0.0/24", zone="a"), SubnetPlan("10.0.1.0/24")))
    with pytest.raises(ScenarioError, match="zone c: known are a"):
        fleet(pool_of(zones=("c",)), subnets=(SubnetPlan("10.0.0.0/24", zone="a"),))
    with pytest.raises(ScenarioError, match="begins with 4 nodes and may have 5 to 9"):
        pool_of(changes=Changes(autoscaling=Autoscaling(5, 9)))


def test_addresses_on_nodes_that_take_no_pods_are_told() -> None:
    """A node of 13 addresses, cordoned for 100 of 400 s, keeps 3.25 of them from others."""
    changes = Changes(cordons=(Cordon(at_s=200, nodes=1, for_s=100),))
    pool = pool_of("native", nodes_first=1, changes=changes)
    record = run(fleet(pool), pods_at(*[10.0] * 10, end=400.0))

    held = record.pool["addresses"][-1]
    assert nodes.stuck(record) == pytest.approx(held * 100 / 400)
    assert nodes.stuck(run(fleet(pool_of()), pods_at(10.0))) == 0


@BEHAVIOURS
def test_a_start_outlives_what_fails_in_it(behaviour: str) -> None:
    """Daemons that restart ask again where the metadata or EC2 refuses, and serve in the end."""
    changes = Changes(restarts=(DaemonRestart(at_s=100, batch=4, down_s=2),))
    faults = (
        FaultPlan("ReadMetadata", "InternalError", 0.5),
        FaultPlan("*", "InternalError", 0.5),
    )
    record = run(fleet(pool_of(behaviour, changes=changes), faults=faults), pods_at(10.0))
    assert counted(record)["daemon back"] == 4


def test_every_node_of_a_spot_pool_can_be_lost() -> None:
    """Nodes that the autoscaler or a recycling brought are taken back as the first ones are."""
    scaling = Autoscaling(least=0, most=10, join_s=10, batch_s=1)
    spot = SpotLoss(per_node_hour=20.0)
    grown = fleet(pool_of(nodes_first=0, changes=Changes(autoscaling=scaling, spot=spot)))
    assert counted(run(grown, pods_at(*[5.0] * 60, end=3600.0)))["gone"] > 20

    recycled = Changes(recycling=Recycling(at_s=10, batch=4, join_s=10, grace_s=1), spot=spot)
    moves = nodes.moves(run(fleet(pool_of(changes=recycled)), pods_at(5.0, end=3600.0)))
    lost = moves[(moves["event"] == "gone") & (moves["t"] > 300.0)]
    assert len(lost) > 40


def most_alive(record: RunRecord) -> int:
    """Return how many nodes were ready, or on their way, and not about to go, at most."""
    change = {"joining": 1, "draining": -1}
    moves = nodes.moves(record)
    steps = [change.get(str(event), 0) for event in moves["event"]]
    return int(np.cumsum(steps).max(initial=0)) + sum(pool.nodes for pool in record.header.pools)


def test_an_autoscaler_counts_nodes_that_others_have_asked_for() -> None:
    """With two nodes at most, one that replaces a lost one leaves no room for another."""
    scaling = Autoscaling(least=2, most=2, join_s=30, batch_s=1)
    changes = Changes(autoscaling=scaling, spot=SpotLoss(5.0))
    record = run(fleet(pool_of(nodes_first=2, changes=changes)), pods_at(*[5.0] * 54, end=7200.0))

    assert counted(record)["draining"] > 10
    assert most_alive(record) == 2


def test_a_pod_that_is_evicted_twice_is_replaced_once() -> None:
    """Recycling leaves nodes alone that are being lost: they are drained and replaced already."""
    recycling = Recycling(100, batch=4, join_s=50, grace_s=100)
    changes = Changes(recycling=recycling, spot=SpotLoss(60.0, grace_s=100))
    record = run(fleet(pool_of(changes=changes)), pods_at(*[5.0] * 40, end=400.0))

    replaced = record.replaced["of"].tolist()
    assert len(replaced) == len(set(replaced)) > 100
    assert most_alive(record) <= 8
    moves = nodes.moves(record)
    drained = moves[moves["event"] == "draining"]["node"]
    assert drained.is_unique


def test_recycling_and_losses_keep_the_size_of_a_pool() -> None:
    """A node lost while its successor is on its way gets no second one."""
    changes = Changes(
        recycling=Recycling(100, batch=4, join_s=200, grace_s=1),
        spot=SpotLoss(20.0, notice_s=0.0, join_s=5.0),
    )
    for seed in range(4):
        record = run(fleet(pool_of(changes=changes), seed=seed), pods_at(5.0, end=900.0))
        found = counted(record)
        # Losses of the last seconds have no successor yet.
        assert 0 <= found["gone"] - found["joining"] <= 2


def test_pods_that_wait_for_one_pool_do_not_hide_those_of_another() -> None:
    """A hundred pods in line for a full pool keep nobody from a node that joined another."""
    scaling = Autoscaling(0, 3, join_s=10, batch_s=1)
    full = pool_of(name="a", takes=("a-*",), nodes_first=1)
    grows = pool_of(name="b", takes=("b-*",), nodes_first=0, changes=Changes(autoscaling=scaling))
    names = [f"a-{n}" for n in range(100)] + [f"b-{n}" for n in range(10)]
    record = run(fleet(full, grows), pods_at(*[5.0] * 110, names=names))

    assert counted(record) == {"joining": 1, "ready": 1}
    assert summarise(record).unschedulable == 100 - 27


def test_a_pod_evicted_before_its_address_came_waits_no_longer() -> None:
    """Its wait ends with its DEL; it is told apart from those that wait still."""
    changes = Changes(recycling=Recycling(100, batch=4, join_s=50, grace_s=10))
    made = fleet(pool_of(max_pods=60, changes=changes, nodes_first=1))
    record = run(made, pods_at(*[5.0] * 40, end=4000.0))
    summary = summarise(record)

    # 27 addresses a node, 40 pods on the first, and their 40 successors on the second.
    assert (summary.served, summary.evicted, summary.waiting) == (54, 13, 13)
    assert summary.pods == 80
    evicted = np.isnan(record.pods["served_at"][:40])
    waited = record.pods["released_at"][:40][evicted] - 5.0
    assert waited.max() < 200.0


def test_nodes_of_the_warm_up_are_no_nodes_of_the_run() -> None:
    """Eight nodes that came and went before the cut leave one row: no node, all the time."""
    scaling = Autoscaling(0, 10, join_s=10, batch_s=1, empty_s=20)
    pool = pool_of(nodes_first=0, changes=Changes(autoscaling=scaling))
    record = run(fleet(pool, warm_up_s=1000.0), pods_at(*[5.0] * 200, life=200.0, end=2000.0))

    assert nodes.steps(record).to_numpy().tolist() == [[0.0, 1000.0, 0.0]]


def test_nodes_go_where_there_is_an_address() -> None:
    """A full subnet, a full zone and one reserved for prefixes stop no node from joining."""
    scaling = Changes(autoscaling=Autoscaling(1, 4, join_s=10, batch_s=1))
    reserved = Reservation(IPv4Network("10.0.0.0/24"), ReservationType.PREFIX)
    zone_b = SubnetPlan("10.0.1.0/25", zone="b")
    for subnets in (
        (SubnetPlan("10.0.0.0/24"), SubnetPlan("10.0.1.0/28", used=11)),
        (SubnetPlan("10.0.0.0/28", used=11, zone="a"), zone_b),
        (SubnetPlan("10.0.0.0/24", reservations=(reserved,), zone="b"), zone_b),
    ):
        made = fleet(pool_of(nodes_first=1, changes=scaling), subnets=subnets)
        record = run(made, pods_at(*[5.0] * 100))
        assert counted(record) == {"joining": 3, "ready": 3}
        assert summarise(record).unschedulable == 0


def test_names_of_nodes_in_the_trace_are_nobody_elses() -> None:
    """A trace that names its first node "node-1" leaves that name out for all others."""
    scaling = Changes(autoscaling=Autoscaling(2, 4, join_s=10, batch_s=1))
    given = np.full(100, -1, dtype=np.int32)
    trace = pods_at(*[5.0] * 100, node=given, node_names=("node-1",))
    record = run(fleet(pool_of(nodes_first=2, changes=scaling)), trace)

    assert record.header.nodes == ("node-1", "node-2", "node-3", "node-4")


def test_a_node_under_two_cordons_waits_for_both() -> None:
    """The first ends at 150 s, the second at 300 s: only then the node takes pods."""
    changes = Changes(cordons=(Cordon(50, 1, for_s=100), Cordon(100, 1, for_s=200)))
    made = fleet(pool_of(nodes_first=2, changes=changes))
    record = run(made, pods_at(10.0, *[160.0] * 4, 310.0))

    assert record.pods["node"].tolist() == [0, 1, 1, 1, 1, 0]
    assert counted(record)["uncordoned"] == 1
    told = made.described()["cordon"]
    assert told == "1 nodes from 50 s for 100 s; 1 nodes from 100 s for 200 s"


def test_a_call_that_fails_after_its_effect_has_emptied_its_subnet() -> None:
    """What EC2 took from the subnet shows in its figures, though the node never heard of it."""
    fault = FaultPlan("AssignPrivateIpAddresses", "RequestTimeout", takes_effect=True, from_s=1)
    made = fleet(pool_of(nodes_first=1), faults=(fault,))
    record = run(made, pods_at(*[5.0] * 3, end=20.0))
    assert (record.calls["error"] == record.errors.index("RequestTimeout")).any()
    assert record.subnets["free"][-1] < record.subnets["free"][0]


def test_all_that_shapes_a_fleet_is_told() -> None:
    """Each time and each range of a scenario can be read in its report."""
    reserved = Reservation(IPv4Network("10.0.0.0/28"), ReservationType.PREFIX)
    plan = SubnetPlan("10.0.0.0/22", used=0.25, reservations=(reserved,))
    other = SubnetPlan("10.1.0.0/22", used=40)
    changes = Changes(
        autoscaling=Autoscaling(2, 40, 61, 7, 305),
        recycling=Recycling(300, 2, 62, 31, 900),
        spot=SpotLoss(3.0, 121, 63, 32),
    )
    told = fleet(pool_of(changes=changes), subnets=(plan, other)).described()
    words = " ".join(told.values())
    for seconds in (61, 7, 305, 300, 62, 31, 900, 121, 63, 32):
        assert f" {seconds} s" in words
    assert told["used by others"] == "10.0.0.0/22 0.25 of it, 10.1.0.0/22 40 addresses"
    assert told["subnet reservations"] == "10.0.0.0/28"


def test_an_autoscaler_between_impossible_bounds_is_refused() -> None:
    """The message names both keys."""
    with pytest.raises(ScenarioError, match=r"from 5 nodes \(least\) to 2 \(most\)"):
        pool_of(nodes_first=5, changes=Changes(autoscaling=Autoscaling(5, 2)))


def test_the_bound_of_a_fleet_whose_nodes_go_is_kept_by_every_setting() -> None:
    """An address that cools on a node that goes is back in the subnet: it counts no longer."""
    changes = Changes(recycling=Recycling(50, batch=4, join_s=1, grace_s=1, every_s=60))
    pool = replace(pool_of(changes=changes), cooldown_s=1000.0)
    record = run(fleet(pool), pods_at(*[5.0] * 40))
    assert bound_of(fleet(pool), pods_at(*[5.0] * 40)) <= summarise(record).taken_mean


@pytest.mark.parametrize("cut_s", [70.1, 80.3, 90.7])
def test_rounding_of_a_cut_makes_no_figure_negative(cut_s: float) -> None:
    """A cooldown's end, told twice and moved by the cut, can come twice in the last bit."""
    changes = Changes(recycling=Recycling(10.0, batch=4, join_s=1, grace_s=45, every_s=60))
    made = fleet(pool_of(changes=changes), warm_up_s=cut_s)
    summary = summarise(run(made, pods_at(*np.linspace(1.0, 50.0, 40).tolist())))
    assert summary.addresses.cooling.mean > 0
