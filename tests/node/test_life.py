"""A daemon's life on a lab's node: start, probes, SIGTERM, restart, and what it refuses."""

import os
import signal
from pathlib import Path

import pytest

from sim.lab.errors import LabError
from sim.lab.faults import LabFault, LabRequest
from sim.lab.lab import Lab
from sim.lab.plan import LabPlan
from sim.lab.pods import CniRefusedError
from tests.daemon.test_takeover import checkpoint
from tests.node.books import recovered, wait_settled

pytestmark = pytest.mark.root


def lab_of(tmp_path: Path, **settings: str) -> Lab:
    """Return a lab of one t3.small whose EC2 answers at once."""
    plan = LabPlan(
        name=f"t{os.getpid():x}",
        run_dir=tmp_path,
        instance="t3.small",
        latency=0,
        settings={"WARM_IP_TARGET": "1", **settings},
    )
    return Lab(plan)


def test_probes_and_metrics_answer(tmp_path: Path) -> None:
    """Ready once it serves; metrics have upstream's names; introspection knows the pod."""
    with lab_of(tmp_path) as lab:
        (node,) = lab.nodes
        pod = node.add_pod("web")

        def get(path: str, port: int = 61678) -> str:
            return node.run(["curl", "-sf", f"http://127.0.0.1:{port}{path}"]).stdout

        assert get("/healthz").startswith("ok")
        assert get("/readyz").startswith("ok")
        metrics = get("/metrics")
        assert "awscni_assigned_ip_addresses 1.0" in metrics
        assert "awscni_add_ip_req_count 1.0" in metrics
        assert str(pod.address) in get("/v1/pods", 61679)
        (node.runtime.state_dir / "cni.sock").unlink()
        node.run(["sleep", "6"])  # One heartbeat.
        with pytest.raises(LabError):
            get("/readyz")


def test_sigterm_leaves_pods_working(tmp_path: Path) -> None:
    """Pods keep talking without a daemon; a DEL meanwhile is done at the next start."""
    with lab_of(tmp_path) as lab:
        (node,) = lab.nodes
        first, second, goes = (node.add_pod(name) for name in ("first", "second", "goes"))
        assert node.kill_daemon(signal.SIGTERM) == 0
        first.run(["ping", "-c", "1", "-W", "2", str(second.address)])
        node.delete_pod(goes)
        with pytest.raises(CniRefusedError) as error:
            node.add_pod("too-early")
        assert error.value.code == 11
        assert len(recovered(node).holdings) == 3
        node.start_daemon()
        node.check_pod(first)
        wait_settled(lab, node)


def test_released_addresses_cool_on_after_a_restart(tmp_path: Path) -> None:
    """A cooldown is the network's, not the process's: no pod gets the address before its end."""
    with lab_of(tmp_path, IP_COOLDOWN_PERIOD="3600", WARMBENCH_ADD_WAIT="0") as lab:
        (node,) = lab.nodes
        used = node.add_pod("first").address
        node.delete_pod("first")
        node.kill_daemon()
        node.start_daemon()
        assert node.add_pod("second").address != used


def test_a_node_with_upstreams_pods_is_refused(tmp_path: Path) -> None:
    """One line says whose pods live here and what to do; nothing was touched."""
    ipam = tmp_path / "ipam.json"
    with lab_of(tmp_path, AWS_VPC_K8S_CNI_BACKING_STORE=str(ipam)) as lab:
        (node,) = lab.nodes
        node.end_daemon()
        ipam.write_text(checkpoint(""), encoding="utf-8")
        with pytest.raises(LabError, match="pods of amazon-vpc-cni-k8s live here"):
            node.start_daemon()


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    """The daemon ends with the variable, its value, and what is allowed."""
    with lab_of(tmp_path) as lab:
        (node,) = lab.nodes
        node.end_daemon()
        node.environment = {**node.environment, "WARM_IP_TARGET": "five"}
        with pytest.raises(LabError, match="WARM_IP_TARGET='five': allowed is"):
            node.start_daemon()


def test_a_start_under_throttling_waits_for_ec2(tmp_path: Path) -> None:
    """Five hundred nodes that start together are throttled: the daemon asks again, and serves."""
    with lab_of(tmp_path) as lab:
        (node,) = lab.nodes
        node.end_daemon()
        refused = [LabFault("RequestLimitExceeded")] * 4

        def fault(_request: LabRequest) -> LabFault | None:
            return refused.pop() if refused else None

        lab.cloud.faults = fault
        node.start_daemon()
        assert not refused
        node.add_pod("web")
