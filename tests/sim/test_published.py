"""Courses of events that users of amazon-vpc-cni-k8s published, each test named after its source.

The sources give settings and what was seen, not every detail: where a number of the source is
known it is the test's, and what was not told (the instance type, when pods came) says so.
Static figures of guides are in test_plan.py.
"""

from dataclasses import replace

import numpy as np
import pytest

from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from sim import nodes
from sim.metrics import summarise
from sim.node_pool import Autoscaling, Changes
from sim.node_type import named
from sim.pools import of_pool
from sim.record import RunRecord
from sim.scenario import Scenario, SubnetPlan
from sim.simulation import run
from sim.sources.pods import trace_of
from sim.sources.shapes import generate
from tests.sim.worlds import BOTH, STAYS, calls, causes, pods, scenario, served, waits

each = pytest.mark.parametrize("behaviour", BOTH, ids=lambda behaviour: behaviour.name)


def first_address_of_secondary_eni(record: RunRecord) -> float:
    """Return when the node's pool first had more addresses than its first ENI can give."""
    pool = record.pool
    return float(min(pool["t"][pool["enis"] >= 2]))


@each
def test_amazon_vpc_cni_k8s_2896_cooling_addresses_hide_a_shortfall(behaviour: Behaviour) -> None:
    """MINIMUM 23, WARM 2, 19 assigned, 4 cooling: upstream assigns nothing until they cool.

    23 - 19 = 4 available is no fewer than 2, so nothing is short, though no address is free.
    """
    # Never more than 21 at once: two come and go, and two more, each on addresses that are free.
    trace = pods(
        [0.0] * 19 + [50.0] * 2 + [56.0] * 2 + [61.0] * 2,
        [STAYS] * 19 + [5.0] * 2 + [4.0] * 2 + [STAYS] * 2,
        end=200.0,
    )
    made = scenario(
        "MINIMUM_IP_TARGET=23 WARM_IP_TARGET=2 WARM_ENI_TARGET=0 IP_COOLDOWN_PERIOD=30",
        behaviour=behaviour,
        node_type=named("m5.4xlarge"),
        max_pods=60,
    )
    record = run(made, trace)

    assert served(record) == 25
    late = waits(record)[23:]
    before = calls_between(record, "AssignPrivateIpAddresses", 0.0, 85.0)
    if behaviour is UPSTREAM:
        assert causes(record)["all_cooling"] >= 2
        assert before == 0
        # Two have cooled at 85 s, and the kubelet asks again 10 to 15 s after a refusal.
        assert all(85.0 - 61.0 <= wait <= 85.0 - 61.0 + 15.1 for wait in late)
    else:
        assert max(late) < 5.0
        assert causes(record).get("all_cooling", 0) == 0


@each
@pytest.mark.parametrize("settings", ["WARM_IP_TARGET=5", "MINIMUM_IP_TARGET=6 WARM_IP_TARGET=1"])
def test_amazon_vpc_cni_k8s_1872_warm_target_above_addresses_per_eni(
    settings: str, behaviour: Behaviour
) -> None:
    """A target above the three addresses of an ENI (a t3.small's) needs no two minutes.

    In v1.10 the daemon waited for as many addresses as the target on one ENI that can have
    three, and added it after more than 2 minutes, with pods waiting. v1.23 has mended that, and
    so have both behaviours: five pods on a cold node have addresses of two ENIs in a minute.
    """
    made = scenario(settings, behaviour=behaviour, node_type=named("t3.small"), warm=False)
    record = run(made, pods([0.0] * 5, end=400.0))

    assert served(record) == 5
    assert first_address_of_secondary_eni(record) < 120.0
    assert 0.0 < max(waits(record)) < 60.0
    assert record.pool["addresses"].max() >= 6


@each
def test_amazon_vpc_cni_k8s_405_150_nodes_at_once(behaviour: Behaviour) -> None:
    """150 nodes that start at once under WARM_ENI_TARGET=1: EC2 throttles, and pods wait.

    Of the source: RequestLimitExceeded in ipamd's metrics, and pods in ContainerCreating. Its
    15 minutes are of v1.4 and its retries. The floor is EC2's: an ENI more for each node, by
    a bucket of 50 and 5 a second, takes (150 - 50) / 5 = 20 s.
    """
    count = 150
    per_node = 12
    trace = pods(
        [0.0] * count * per_node,
        nodes=[pod // per_node for pod in range(count * per_node)],
        node_names=[f"n{node}" for node in range(count)],
        end=1200.0,
    )
    made = scenario(
        "WARM_ENI_TARGET=1", behaviour=behaviour, nodes=count, warm=False, subnets=["10.0.0.0/18"]
    )
    record = run(made, trace)

    assert served(record) == count * per_node
    assert calls(record, error="RequestLimitExceeded")["AttachNetworkInterface"] > 0
    attached = record.calls["api"] == record.apis.index("AttachNetworkInterface")
    done = np.sort(record.calls["ended"][attached & (record.calls["error"] == 0)])
    assert all(at >= (n - 50) / 5 for n, at in enumerate(done[:count], start=1))
    longest = max(waits(record))
    assert 20.0 <= longest <= 15 * 60.0
    if behaviour is UPSTREAM:
        # A refused ADD comes back with the kubelet, 10 to 15 s later, again and again.
        assert causes(record)["pool_empty"] + causes(record).get("throttled", 0) > count


def test_amazon_vpc_cni_k8s_405_native_is_no_slower() -> None:
    """The same start, both behaviours: native's last pod has its address no later."""
    longest = {}
    for behaviour in BOTH:
        trace = pods(
            [0.0] * 150 * 12,
            nodes=[pod // 12 for pod in range(150 * 12)],
            node_names=[f"n{node}" for node in range(150)],
            end=1200.0,
        )
        made = scenario(behaviour=behaviour, nodes=150, warm=False, subnets=["10.0.0.0/18"])
        longest[behaviour.name] = max(waits(run(made, trace)))
    assert longest[NATIVE.name] <= longest[UPSTREAM.name]


@each
def test_troubleshooting_guide_0_to_23000_pods_on_500_nodes(behaviour: Behaviour) -> None:
    """500 nodes from none to 23,000 pods: calls are throttled, pods wait for retries, all come up.

    Of the source (amazon-vpc-cni-k8s, docs/troubleshooting.md): some nodes are throttled, and
    their pods are stuck until a retry. It does not tell the instance type; for 46 pods an
    m5.xlarge (4 ENIs of 14) attaches three ENIs more. EC2's floor for the last of 1,500 is
    (1,500 - 50) / 5 = 290 s, and the pods came within ten seconds. A third more is what good
    manners may cost.
    """
    trace = generate(
        "scale",
        {"pods": "23000", "ramp_s": "10", "hold_s": "600", "rest_s": "0", "repeats": "1"},
        seed=1,
    )
    made = scenario(
        behaviour=behaviour,
        nodes=500,
        node_type=named("m5.xlarge"),
        subnets=["10.0.0.0/16"],
        ignore_requests=True,
    )
    record = run(replace(made, checks=False), trace)

    assert served(record) == len(trace)
    throttled = calls(record, error="RequestLimitExceeded")
    assert throttled["CreateNetworkInterface"] > 1000
    assert causes(record)["throttled"] > 1000
    waited = np.sort(waits(record))
    assert 280.0 < waited[-1] < 390.0
    assert np.median(waited) < 90.0


@each
@pytest.mark.parametrize(
    ("settings", "burn"),
    [
        ("ENABLE_PREFIX_DELEGATION=true WARM_IP_TARGET=2 MINIMUM_IP_TARGET=5", 17.0),
        ("ENABLE_PREFIX_DELEGATION=true WARM_PREFIX_TARGET=1", 33.0),
        ("WARM_ENI_TARGET=1", 60.0),
    ],
)
def test_pytorch_ci_infra_544_what_a_node_burns(
    settings: str, burn: float, behaviour: Behaviour
) -> None:
    """PyTorch's CI plans 17 or 32 addresses for a node, where it burns some 50 today.

    Of the source (pytorch/ci-infra#544, #558 to #560): two thirds of the nodes run one pod each
    and come and go with the jobs; orchestrators run 100 to 250 pods. A node of one pod takes a
    /28 and the ENI's primary address with an IP target, a /28 more with a prefix kept warm, and
    with single addresses two ENIs: 60 on a type with 30 for each. Not told: the instance types,
    and how long a job lasts. Nodes stand empty for a minute of eleven here, hence the tolerance.
    """
    workers = scenario(settings, behaviour=behaviour, node_type=named("c5.4xlarge")).pool
    others = scenario(settings, behaviour=behaviour, node_type=named("m5.4xlarge"), nodes=2).pool
    growing = Changes(autoscaling=Autoscaling(least=1, most=60, join_s=60, empty_s=60))
    made = Scenario(
        subnets=(SubnetPlan("10.0.0.0/18"),),
        pools=(
            replace(workers, name="workers", takes=("job-*",), changes=growing),
            replace(others, name="orchestrators"),
        ),
        warm_up_s=900.0,
    )
    names = [f"job-{n}" for n in range(180)] + [f"runner-{n}" for n in range(150)]
    trace = trace_of(
        names=names,
        arrival_s=np.array([20.0 * n for n in range(180)] + [0.0] * 150),
        life_s=np.array([600.0] * 180 + [np.inf] * 150),
        cpu_m=np.array([12_000] * 180 + [100] * 150),
        end_s=3600.0,
        origin="made in a test",
    )
    part = of_pool(run(made, trace), 0)

    assert summarise(part).waiting == 0
    assert summarise(part).taken_mean / nodes.mean(part) == pytest.approx(burn, rel=0.1)


def calls_between(record: RunRecord, api: str, start: float, end: float) -> int:
    """Count attempts of a call in a stretch of time."""
    if api not in record.apis:
        return 0
    asked = record.calls["api"] == record.apis.index(api)
    at = record.calls["ended"][asked]
    return int(np.count_nonzero((at >= start) & (at < end)))
