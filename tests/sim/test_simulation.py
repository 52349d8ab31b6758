"""A run is a pure function, its books balance, and what goes wrong in EC2 shows in it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cni.allocator import allocator as allocators
from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.allocator.ticking import Ticking
from cni.settings import parse_assignments
from sim import trace as traces
from sim.metrics import summarise
from sim.node_type import NodeType, named
from sim.record import RunRecord
from sim.scenario import ScenarioError, SubnetPlan, scenario_for
from sim.simulation import run
from sim.sources.pods import trace_of
from sim.sources.shapes import generate
from sim.trace import Trace

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "sim" / "examples" / "web-and-jobs.csv"
BOTH = pytest.mark.parametrize("behaviour", [NATIVE, UPSTREAM], ids=lambda b: b.name)
SMALL = NodeType("3 x 10", 3, 10, vcpus=2, memory_mib=8192)


def burst(pods: int, *, life_s: float = 600.0, end_s: float = 900.0, **columns: Any) -> Trace:
    """Return so many pods that come in the sixtieth second."""
    return trace_of(
        arrival_s=np.full(pods, 60.0),
        life_s=np.full(pods, life_s),
        end_s=end_s,
        origin="burst",
        **{name: np.asarray(values) for name, values in columns.items()},
    )


def replay(
    trace: Trace,
    *pairs: str,
    behaviour: Behaviour = UPSTREAM,
    node: NodeType = SMALL,
    subnet: str | SubnetPlan = "10.0.0.0/20",
    **options: Any,
) -> RunRecord:
    """Run a trace with the auditor on."""
    plan = SubnetPlan(subnet) if isinstance(subnet, str) else subnet
    settings = parse_assignments(pairs, lenient=True)
    scenario = scenario_for(node, settings, subnets=(plan,), behaviour=behaviour, **options)
    return run(scenario, trace)


def same(one: RunRecord, other: RunRecord) -> bool:
    """Whether two records hold the same rows."""
    pairs = zip(one.tables(), other.tables(), strict=True)
    return all(np.array_equal(a[c], b[c], equal_nan=True) for (_, a), (_, b) in pairs for c in a)


ONE_RUN = """
import sys
from pathlib import Path
from tests.sim.test_simulation import EXAMPLE, replay, named, traces
from cni.allocator.behaviour import PRESETS
from sim import store
record = replay(traces.load(EXAMPLE), "WARM_IP_TARGET=2", behaviour=PRESETS[sys.argv[1]],
                node=named("m5.large"), nodes=10, seed=7)
store.save(record, Path(sys.argv[2]))
"""


@BOTH
def test_a_run_is_equal_to_the_byte_under_any_hash_seed(
    behaviour: Behaviour, tmp_path: Path
) -> None:
    """Two processes with other hash seeds write the same files."""
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", ONE_RUN, behaviour.name, str(tmp_path / seed)]
        subprocess.run(command, check=True, cwd=ROOT, env=environment)  # noqa: S603 - ours
    one, other = sorted((tmp_path / "1").iterdir()), sorted((tmp_path / "2").iterdir())
    assert [file.name for file in one] == [file.name for file in other]
    for left, right in zip(one, other, strict=True):
        assert left.read_bytes() == right.read_bytes(), left.name


class EveryTick(Ticking):
    """Upstream's planner, asked at every tick."""

    def _next_change(self, _counts: object, now: float) -> float:
        return self._tick_after(now)


@pytest.mark.parametrize(
    "pairs", [(), ("WARM_IP_TARGET=2", "MINIMUM_IP_TARGET=10"), ("ENABLE_PREFIX_DELEGATION=true",)]
)
@pytest.mark.parametrize("shape", ["example", "minute-jobs"])
def test_skipping_idle_ticks_changes_nothing(
    pairs: tuple[str, ...], shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planner that looks at every tick gives the same record, row by row."""
    pods = traces.load(EXAMPLE) if shape == "example" else generate(shape, {"jobs": "30"}, seed=1)
    options: dict[str, Any] = {"node": named("m5.large"), "nodes": 10, "seed": 1}
    skipping = replay(pods, *pairs, **options)
    monkeypatch.setattr(allocators, "Ticking", EveryTick)
    assert same(skipping, replay(pods, *pairs, **options))


@BOTH
def test_every_pod_is_accounted_for(behaviour: Behaviour) -> None:
    """Pods are served, waiting or unschedulable, also where there is too little of all."""
    pods = burst(100, life_s=1e6)
    record = replay(pods, behaviour=behaviour, nodes=2, max_pods=40, subnet="10.0.0.0/27")
    summary = summarise(record)
    assert summary.pods == 100 == summary.served + summary.waiting + summary.unschedulable
    assert summary.served > 0
    assert summary.waiting > 0
    assert summary.unschedulable == 100 - 2 * 38


@pytest.mark.parametrize(
    ("columns", "resource"),
    [
        ({"cpu_m": [9_000]}, "cpu"),
        ({"memory_mib": [90_000]}, "memory"),
    ],
)
def test_a_pod_that_fits_no_node_names_what_binds(
    columns: dict[str, list[int]], resource: str
) -> None:
    """It is counted by resource; ignoring requests it runs."""
    summary = summarise(replay(burst(1, **columns)))
    assert summary.unschedulable_by_resource == {resource: 1}
    assert summarise(replay(burst(1, **columns), ignore_requests=True)).served == 1


def test_a_pod_without_room_runs_when_another_leaves() -> None:
    """27 places: the 28th pod is placed after 600 s, and its ADD comes then."""
    record = replay(burst(28))
    added = np.sort(record.pods["added_at"])
    assert added[26] == 60.0
    assert added[27] >= 660.0
    assert len(record.unplaced["pod"]) == 0


def test_nodes_that_the_trace_names_are_kept() -> None:
    """A pod goes where the trace says, and too few nodes are refused."""
    named_nodes = burst(4, node=np.array([0, 1, 1, 0], dtype=np.int32), node_names=("a", "b"))
    record = replay(named_nodes, nodes=3)
    assert record.header.nodes == ("a", "b", "node-2")
    assert record.pods["node"].tolist() == [0, 1, 1, 0]
    with pytest.raises(ScenarioError, match="names 2 nodes"):
        replay(named_nodes, nodes=1)


def test_a_dry_subnet_is_the_cause_it_names() -> None:
    """Single addresses run out as subnet_full; a subnet without a /28 is fragmented."""
    full = summarise(replay(burst(27, life_s=1e6), subnet="10.0.0.0/28"))
    assert set(full.refusals) == {"pool_empty", "subnet_full"}
    assert full.refusals["subnet_full"] > full.refusals["pool_empty"]
    scattered = SubnetPlan("10.0.0.0/24", used=60)
    fragmented = summarise(
        replay(burst(40), "ENABLE_PREFIX_DELEGATION=true", subnet=scattered, behaviour=NATIVE)
    )
    assert set(fragmented.refusals) == {"subnet_fragmented"}
    assert fragmented.waiting > 0


def test_attaches_at_once_meet_the_account_s_rate() -> None:
    """150 nodes that attach an ENI each need 20 s: a bucket of 50, and 5 a second."""
    pods = burst(150, end_s=120.0)
    record = replay(pods, nodes=150, node=NodeType("2 x 2", 2, 2), subnet="10.0.0.0/16")
    attach = record.apis.index("AttachNetworkInterface")
    done = (record.calls["api"] == attach) & (record.calls["error"] == 0)
    assert done.sum() == 150
    assert np.ptp(record.calls["ended"][done]) >= 19.0
    assert summarise(record).ec2_calls.throttled > 0


def test_a_refused_add_comes_back_after_ten_to_fifteen_seconds() -> None:
    """Under UPSTREAM a pod that finds nothing is served 10 s later at the earliest."""
    record = replay(burst(12), "WARM_IP_TARGET=2")
    waits = (record.pods["served_at"] - record.pods["added_at"])[record.pods["refused"] == 1]
    assert len(waits) > 0
    assert ((waits >= 10.0) & (waits <= 15.0)).all()


def test_a_native_add_waits_in_line_instead() -> None:
    """Nobody is refused, and all are served as soon as EC2 has answered; lives count from then."""
    record = replay(burst(12), "WARM_IP_TARGET=2", behaviour=NATIVE)
    waits = record.pods["served_at"] - record.pods["added_at"]
    assert len(record.refusals["t"]) == 0
    assert 0 < waits.max() < 10.0
    lives = record.pods["released_at"] - record.pods["served_at"]
    assert np.allclose(lives, 600.0)


def test_native_refuses_what_nothing_can_serve() -> None:
    """Beyond the type's addresses an ADD is refused with the limit as its cause."""
    record = replay(burst(30, life_s=1e6), behaviour=NATIVE, max_pods=32)
    assert record.causes == ("eni_limit",)
    assert summarise(record).waiting == 3


def test_two_settings_meet_the_same_latencies() -> None:
    """The n-th call of an API on a node takes as long under either setting."""
    latencies = []
    for pairs in (["WARM_IP_TARGET=3"], ["WARM_IP_TARGET=5"]):
        record = replay(burst(8), *pairs, seed=3)
        assign = record.calls["api"] == record.apis.index("AssignPrivateIpAddresses")
        latencies.append((record.calls["ended"] - record.calls["started"])[assign])
    common = min(map(len, latencies))
    assert common > 0
    assert np.allclose(latencies[0][:common], latencies[1][:common])


def test_a_cold_start_makes_the_calls_that_a_warm_one_has_behind_it() -> None:
    """Cold nodes call EC2 at zero; warm ones hold their addresses then."""
    idle = trace_of(arrival_s=np.array([290.0]), life_s=np.array([1.0]), end_s=300.0, origin="idle")
    warm, cold = replay(idle), replay(idle, warm=False)
    assert len(warm.calls["api"]) == 0
    assert cold.calls["started"].min() < 5.0
    assert summarise(warm).addresses.held.max == summarise(cold).addresses.held.max == 9


# Shape, settings; NATIVE may make more mutating calls than UPSTREAM only where a figure is given.
FAIR = [
    ("example", (), 0),
    ("example", ("WARM_IP_TARGET=2", "MINIMUM_IP_TARGET=10"), 0),
    ("steady", ("WARM_IP_TARGET=5",), 0),
    ("minute-jobs", ("WARM_IP_TARGET=5",), 0),
    ("scale", ("WARM_IP_TARGET=5",), 0),
    # Holding three prefixes more through the restart costs calls upstream does not make.
    ("rolling-restart", ("ENABLE_PREFIX_DELEGATION=true",), 10),
]


@pytest.mark.parametrize(("shape", "pairs", "more"), FAIR)
def test_native_spares_calls_and_refuses_nobody(
    shape: str, pairs: tuple[str, ...], more: int
) -> None:
    """No more mutating calls than UPSTREAM, but for listed exceptions, and no pod refused."""
    parameters = {"pods": "100"} if shape in {"scale", "rolling-restart"} else {}
    pods = traces.load(EXAMPLE) if shape == "example" else generate(shape, parameters, seed=1)
    native, upstream = (
        summarise(
            replay(
                pods,
                *pairs,
                behaviour=behaviour,
                node=named("m5.large"),
                nodes=10,
                ignore_requests=True,
                seed=1,
            )
        )
        for behaviour in (NATIVE, UPSTREAM)
    )
    assert native.refused_pods == 0
    assert native.ec2_calls.mutating <= upstream.ec2_calls.mutating + more
    if shape == "steady":
        assert native.churn_pairs == 0
