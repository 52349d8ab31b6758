"""Containers of podman, on the stock plug-ins and on ours: the same must be true."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.node.box import Box, missing_programs
from tests.node.conftest import BUSYBOX_IMAGE
from tests.node.nodes import Node, traces_of
from tests.node.podman import PROGRAMS, Podman
from tests.node.recorder import Recorder
from tests.node.waiting import wait_until

pytestmark = pytest.mark.root

GONE_S = 5.0
DEFAULT_STATE_DIR = "/run/aws-node"


@pytest.fixture
def recorder(node: Node, folder: Path) -> Recorder:
    """Stand between podman and the plug-in."""
    return Recorder(node.plugins[node.main_plugin], folder / "recorded")


@pytest.fixture
def podman(
    node: Node,
    recorder: Recorder,
    box_on: Callable[[str], Box],
    busybox_image: Path,
) -> Podman:
    """Give a podman on the node, with its image."""
    missing = missing_programs(*PROGRAMS)
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (podman, conmon, runc)")
    box = box_on(node.netns)
    if state_dir := node.environment.get("WARMBENCH_STATE_DIR"):
        # Where the plug-in looks without the variable, which podman would not always hand on.
        box.show(Path(state_dir), DEFAULT_STATE_DIR)
    podman = Podman(
        box,
        conf_dir=node.conf_dir,
        plugins=node.plugins | {node.main_plugin: recorder.plugin},
    )
    podman.load_image(busybox_image)
    return podman


def test_podman_takes_our_result_and_gives_the_address_back(
    node: Node, podman: Podman, recorder: Recorder
) -> None:
    """The container has the address that the plug-in assigned, and its end frees everything."""
    container = podman.start("one", node.network, BUSYBOX_IMAGE)
    inside = podman.execute("one", ["/bin/busybox", "ip", "address", "show", "dev", "eth0"])

    assert node.assigned() == {container.container_id: container.address}
    assert f"inet {container.address}/" in inside
    assert f"link/ether {container.mac} " in inside
    podman.remove("one")
    # libcni of podman asks for the plug-in's versions before it sends prevResult with DEL.
    calls = [call for call in recorder.calls() if call.command != "VERSION"]
    assert [call.command for call in calls] == ["ADD", "DEL"]
    assert "prevResult" in calls[1].stdin
    assert {call.exit_code for call in recorder.calls()} == {0}
    assert not node.assigned()
    wait_until(
        lambda: not traces_of(node, {container.address}), GONE_S, "the kernel forgot the container"
    )
