"""Two nodes, real packets: pods reach pods, the VPC, the internet and NodePorts, and are seen.

A node is so small that its second pod, or its seventeenth with prefixes, is on a secondary ENI.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.lab.fabric import INTERNET_HOST, PEER_HOST
from sim.lab.lab import Lab
from sim.lab.node import LabNode
from sim.lab.plan import LabPlan
from sim.lab.pods import Pod
from sim.lab.services import echo_app

pytestmark = pytest.mark.root

ASK = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode().strip())
"""
"""Prints what the far side says: the address that it saw."""


def seen_by(pod: Pod, host: object) -> str:
    """Return the address under which a far host sees a pod."""
    url = f"http://{host}/"
    return pod.run([sys.executable, "-ISE", "-c", ASK, url]).stdout.strip()


@pytest.fixture(params=["secondary", "prefix"])
def mode(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the settings of each mode."""
    if request.param == "prefix":
        return {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"}
    return {"WARM_IP_TARGET": "1"}


def lab_of(tmp_path: Path, settings: dict[str, str], **plan: object) -> Lab:
    """Return a lab of two t3.nano, each with two ENIs of one block, and an EC2 that is at once."""
    return Lab(
        LabPlan(
            name=f"t{os.getpid():x}",
            run_dir=tmp_path,
            nodes=2,
            instance="t3.nano",
            latency=0,
            settings={**settings, "WARMBENCH_MAX_PODS": "40"},
            **plan,  # type: ignore[arg-type]
        )
    )


def on_both_enis(node: LabNode, mode: dict[str, str]) -> tuple[Pod, Pod]:
    """Fill the primary ENI; return its first pod and the first one on the secondary ENI."""
    per_eni = 16 if "ENABLE_PREFIX_DELEGATION" in mode else 1
    pods = [node.add_pod(f"{node.name}-{number}") for number in range(per_eni + 1)]
    return pods[0], pods[-1]


def device_of(node: LabNode, pod: Pod) -> str:
    """Return the table that a pod's packets are routed by: `main`, or its ENI's own."""
    rules = json.loads(node.run(["ip", "-json", "rule", "show"]).stdout)
    tables = [rule["table"] for rule in rules if rule.get("src") == str(pod.address)]
    return tables[0] if tables else "main"


def ping(source: Pod, target: Pod) -> None:
    """Send three echo requests, one as large as the MTU lets through, and want all answers."""
    source.run(["ping", "-c", "2", "-i", "0.02", "-W", "2", str(target.address)])
    source.run(["ping", "-c", "1", "-W", "2", "-M", "do", "-s", "8973", str(target.address)])


@pytest.fixture
def two_nodes(tmp_path: Path, mode: dict[str, str]) -> Iterator[Lab]:
    """Run two nodes with internal SNAT; the peer's network is excluded from it."""
    settings = {**mode, "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": f"{PEER_HOST}/32"}
    with lab_of(tmp_path, settings) as lab:
        yield lab


def test_pods_reach_each_other_and_the_world(two_nodes: Lab, mode: dict[str, str]) -> None:
    """From primary and secondary ENIs: the node's pods, the other node's, the internet, a peer."""
    here, there = two_nodes.nodes
    first, second = on_both_enis(here, mode)
    far_first, far_second = on_both_enis(there, mode)
    assert device_of(here, first) == "main"
    assert device_of(here, second) == "2"

    for pod in (first, second):
        for target in (far_first, far_second, second if pod is first else first):
            ping(pod, target)
        primary = two_nodes.call(lambda: two_nodes.vpc.interfaces_of(here.instance_id, 0.0))[0]
        assert seen_by(pod, INTERNET_HOST) == str(primary.primary_ip)
        assert seen_by(pod, PEER_HOST) == str(pod.address)
    assert two_nodes.call(two_nodes.fabric.spoofed_packets) == 0


def test_with_external_snat_the_world_sees_the_pod(tmp_path: Path, mode: dict[str, str]) -> None:
    """EXTERNALSNAT=true: the far side sees the pod's own address, from either ENI."""
    settings = {**mode, "AWS_VPC_K8S_CNI_EXTERNALSNAT": "true"}
    with lab_of(tmp_path, settings) as lab:
        for pod in on_both_enis(lab.nodes[0], mode):
            assert seen_by(pod, INTERNET_HOST) == str(pod.address)
        assert lab.call(lab.fabric.spoofed_packets) == 0


NODE_PORT = """
table ip kube {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    fib daddr type local tcp dport 30080 dnat to {address}:8080
  }}
}}
"""
"""What kube-proxy makes of a NodePort service with externalTrafficPolicy Local."""


def test_a_node_port_answers_from_where_it_was_asked(
    two_nodes: Lab, mode: dict[str, str], tmp_path: Path
) -> None:
    """A NodePort on the primary ENI leads to a pod on a secondary one and back the same way."""
    node = two_nodes.nodes[0]
    for pod in on_both_enis(node, mode):
        rules = tmp_path / "kube.nft"
        rules.write_text(NODE_PORT.format(address=pod.address), encoding="utf-8")
        node.run(["nft", "-f", str(rules)])
        primary = two_nodes.call(lambda: two_nodes.vpc.interfaces_of(node.instance_id, 0.0))[0]
        url = f"http://{primary.primary_ip}:30080/"
        two_nodes.services.serve(echo_app(), pod.namespace.listen(str(pod.address), 8080))
        asked = two_nodes.fabric.internet.run([sys.executable, "-ISE", "-c", ASK, url])
        assert asked.stdout.strip() == str(INTERNET_HOST)
        node.run(["nft", "delete", "table", "ip", "kube"])
    assert two_nodes.call(two_nodes.fabric.spoofed_packets) == 0
