"""Sandboxes of a real containerd, on the stock plug-ins and on ours: the same must be true."""

from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from cni.allocator.errors import Cause
from cni.daemon.install import CONFLIST, PLUGIN, install_conflist, remove_conflist
from cni.spec.errors import Code
from tests.node.conftest import BUSYBOX_IMAGE
from tests.node.containerd import Containerd
from tests.node.cri import CriError, at_once
from tests.node.nodes import (
    STOCK_CONFLIST,
    Node,
    stock_conflist,
    traces_of,
)
from tests.node.recorder import Recorder
from tests.node.waiting import wait_until

pytestmark = pytest.mark.root

# A link may go a moment after the runtime heard that its sandbox is gone.
GONE_S = 5.0
# A runtime watches its folder for configurations.
SEEN_S = 5.0
# What containerd says of a pod in CNI_ARGS, in an order that changes from call to call.
ARGS = {
    "IgnoreUnknown",
    "K8S_POD_INFRA_CONTAINER_ID",
    "K8S_POD_NAME",
    "K8S_POD_NAMESPACE",
    "K8S_POD_UID",
}

OnNode = Callable[..., Containerd]


def assert_nothing_left(node: Node, addresses: set[str]) -> None:
    """Wait until neither the plug-in nor the kernel knows anything of these sandboxes."""
    assert not node.assigned()
    wait_until(lambda: not traces_of(node, addresses), GONE_S, "the kernel forgot the sandboxes")


def test_a_sandbox_lives_with_its_address_and_leaves_nothing(
    node: Node, containerd_on: OnNode
) -> None:
    """The runtime tells the address that the plug-in assigned, the pod has it, and then nobody."""
    cri = containerd_on(node).cri

    sandbox_id = cri.run_pod_sandbox("one", namespace="web")
    told = cri.status(sandbox_id)
    inside = cri.execute(
        cri.start_container(sandbox_id, BUSYBOX_IMAGE),
        ["/bin/busybox", "ip", "-4", "address", "show", "dev", "eth0"],
    )

    assert told.ready
    assert (told.name, told.namespace) == ("one", "web")
    assert node.assigned() == {sandbox_id: told.address}
    assert f"inet {told.address}/" in inside.output
    assert traces_of(node, {told.address})
    cri.end(sandbox_id)
    assert cri.sandboxes() == {}
    assert_nothing_left(node, {told.address})


def test_two_pods_of_a_node_reach_each_other(node: Node, containerd_on: OnNode) -> None:
    """Packets pass between two containers over what the plug-in made."""
    cri = containerd_on(node).cri
    asking, asked = at_once(cri.run_pod_sandbox, ["asking", "asked"])

    pinged = cri.execute(
        cri.start_container(asking, BUSYBOX_IMAGE),
        ["/bin/busybox", "ping", "-c", "1", "-W", "2", cri.status(asked).address],
    )

    assert pinged.exit_code == 0, pinged.output
    at_once(cri.end, [asking, asked])


def test_sandboxes_that_start_together_get_addresses_of_their_own(
    busy_node: tuple[Node, int], containerd_on: OnNode
) -> None:
    """Many sandboxes at once all start, no address comes twice, and none of them is left over."""
    node, count = busy_node
    cri = containerd_on(node).cri

    sandboxes = at_once(cri.run_pod_sandbox, [f"pod-{number}" for number in range(count)])
    addresses = [cri.status(sandbox_id).address for sandbox_id in sandboxes]

    assert len(set(addresses)) == count
    assert node.assigned() == dict(zip(sandboxes, addresses, strict=True))
    at_once(cri.end, sandboxes)
    assert cri.sandboxes() == {}
    assert_nothing_left(node, set(addresses))


def test_a_pod_is_deleted_twice_the_second_time_without_its_namespace(
    node: Node, containerd_on: OnNode, folder: Path
) -> None:
    """Containerd sends DEL on stop and again on remove, without CNI_NETNS and prevResult then."""
    recorder = Recorder(node.plugins[node.main_plugin], folder / "recorded")
    cri = containerd_on(node, **{node.main_plugin: recorder.plugin}).cri

    sandbox_id = cri.run_pod_sandbox("one")
    address = cri.status(sandbox_id).address
    cri.end(sandbox_id)

    add, first, second = recorder.calls()
    assert [call.command for call in (add, first, second)] == ["ADD", "DEL", "DEL"]
    assert [call.exit_code for call in (add, first, second)] == [0, 0, 0]
    assert {call.container_id for call in (add, first, second)} == {sandbox_id}
    assert set(add.args) == ARGS
    assert (add.args["K8S_POD_NAMESPACE"], add.args["K8S_POD_NAME"]) == ("default", "one")
    assert add.netns == first.netns != ""
    assert "prevResult" in first.stdin
    assert second.netns == ""
    assert "prevResult" not in second.stdin
    # What containerd was started with reaches the plug-in.
    assert add.environment.items() >= node.environment.items()
    assert_nothing_left(node, {address})


def test_sandboxes_outlive_a_crash_of_containerd(node: Node, containerd_on: OnNode) -> None:
    """After kill -9 and a restart the sandboxes are ready with their addresses, and end cleanly."""
    containerd = containerd_on(node)
    names = ["one", "two", "three"]
    sandboxes = at_once(containerd.cri.run_pod_sandbox, names)
    addresses = [containerd.cri.status(sandbox_id).address for sandbox_id in sandboxes]

    containerd.kill()
    containerd.start()

    cri = containerd.cri
    assert cri.sandboxes() == dict.fromkeys(sandboxes, True)
    assert [cri.status(sandbox_id).address for sandbox_id in sandboxes] == addresses
    assert node.assigned() == dict(zip(sandboxes, addresses, strict=True))
    at_once(cri.end, sandboxes)
    assert_nothing_left(node, set(addresses))


def test_the_node_is_ready_while_the_installed_configuration_is_there(
    stock: Node, containerd_on: OnNode, folder: Path
) -> None:
    """Containerd sees the file appear by rename within its folder, uses it, and sees it go."""
    (stock.conf_dir / STOCK_CONFLIST).unlink()
    cri = containerd_on(stock).cri
    assert "cni plugin not initialized" in cri.network_problem()

    text = stock_conflist(IPv4Network("10.98.0.0/24"), folder / "held-again")
    install_conflist(stock.conf_dir, text)

    wait_until(cri.node_ready, SEEN_S, "the node is ready")
    sandbox_id = cri.run_pod_sandbox("one")
    assert cri.status(sandbox_id).address == "10.98.0.2"
    cri.end(sandbox_id)
    remove_conflist(stock.conf_dir)
    wait_until(lambda: not cri.node_ready(), SEEN_S, "the node is not ready")


def test_the_configuration_of_our_daemon_makes_the_node_ready(
    daemon_node_of: Callable[..., Node], containerd_on: OnNode
) -> None:
    """The file is 10-aws.conflist, nothing half written lies beside it, and containerd takes it."""
    node = daemon_node_of("c", "t3.nano")

    cri = containerd_on(node).cri

    assert [file.name for file in node.conf_dir.iterdir()] == [CONFLIST]
    assert cri.network_problem() == ""


def test_a_refused_add_tells_its_whole_reason(
    stock_node_of: Callable[[IPv4Network], Node], containerd_on: OnNode
) -> None:
    """What the plug-in prints as its error reaches whoever asked for the sandbox."""
    # A /30 has two addresses for hosts, and the first is the gateway.
    node = stock_node_of(IPv4Network("10.99.0.0/30"))
    cri = containerd_on(node).cri
    sandbox_id = cri.run_pod_sandbox("one")

    with pytest.raises(CriError) as refused:
        cri.run_pod_sandbox("two")

    reason = "no IP addresses available in range set: 10.99.0.1-10.99.0.2"
    assert f'plugin type="ptp" failed (add): failed to allocate for range 0: {reason}' in str(
        refused.value
    )
    assert list(node.assigned()) == [sandbox_id]
    cri.end(sandbox_id)
    assert_nothing_left(node, {"10.99.0.2"})


def test_our_refusal_tells_cause_and_next_step(
    daemon_node_of: Callable[..., Node], containerd_on: OnNode, folder: Path
) -> None:
    """An ADD without a free address ends in code 11 and its cause, and DEL finds nothing held."""
    # Two ENIs with one secondary IP each: room for two sandboxes and never for a third.
    node = daemon_node_of("c", "t3.nano", WARM_IP_TARGET="1", WARMBENCH_ADD_WAIT="10")
    recorder = Recorder(node.plugins[PLUGIN], folder / "recorded")
    cri = containerd_on(node, **{PLUGIN: recorder.plugin}).cri
    sandboxes = at_once(cri.run_pod_sandbox, ["one", "two"])
    before = node.assigned()

    with pytest.raises(CriError, match=r'plugin type="aws-cni" failed \(add\)') as refused:
        cri.run_pod_sandbox("three")

    *_, add, following = recorder.calls()
    assert (add.command, following.command) == ("ADD", "DEL")
    assert add.error["code"] == Code.TRY_AGAIN_LATER
    assert Cause.ENI_LIMIT.value in add.error["msg"] + add.error["details"]
    assert add.error["msg"] in str(refused.value)
    assert following.exit_code == 0
    assert set(before) == set(sandboxes)
    assert node.assigned() == before
    at_once(cri.end, sandboxes)
    assert_nothing_left(node, set(before.values()))
