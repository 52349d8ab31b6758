"""The openb trace through both behaviours, with the auditor on."""

from pathlib import Path

import pytest

from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from sim import trace as traces
from sim.metrics import summarise
from sim.node_type import named
from tests.sim.test_simulation import replay

OPENB = (
    Path(__file__).resolve().parents[2].parent / "shared" / "traces" / "openb_pod_list_default.csv"
)
pytestmark = pytest.mark.skipif(
    not OPENB.exists(), reason="no ../shared/traces beside the checkout"
)
BOTH = pytest.mark.parametrize("behaviour", [NATIVE, UPSTREAM], ids=lambda b: b.name)


@BOTH
def test_149_days_on_a_hundred_nodes(behaviour: Behaviour) -> None:
    """Every pod of the trace as it is finds a node of a type that fits it, and an address."""
    summary = summarise(
        replay(
            traces.load(OPENB),
            "WARM_IP_TARGET=2",
            "MINIMUM_IP_TARGET=10",
            behaviour=behaviour,
            node=named("m7i.48xlarge"),
            nodes=100,
            subnet="10.0.0.0/16",
        )
    )
    # The trace begins with its first pod, which is there at zero.
    assert (summary.pods, summary.served, summary.present) == (8151, 8151, 1)


@BOTH
def test_overlaid_and_compressed(behaviour: Behaviour) -> None:
    """Fifty copies at two hundred times the pace, thinned for speed: the books balance."""
    pods = traces.thin(
        traces.compress(traces.replicate(traces.load(OPENB), 50, seed=0), 200), 0.1, seed=0
    )
    summary = summarise(
        replay(
            pods,
            behaviour=behaviour,
            node=named("m7i.48xlarge"),
            nodes=100,
            subnet="10.0.0.0/16",
            ignore_requests=True,
        )
    )
    assert summary.pods == summary.served + summary.waiting + summary.unschedulable
    assert summary.served > 0.99 * summary.pods
