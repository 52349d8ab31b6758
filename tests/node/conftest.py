"""What tests of a node share: images, boxes, and the two nodes they run on."""

import itertools
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.node.box import PROGRAMS as BOX_PROGRAMS
from tests.node.box import Box, leftovers, missing_programs
from tests.node.containerd import PAUSE_IMAGE, STOCK_PLUGINS, Containerd, running_containerd
from tests.node.containerd import PROGRAMS as CONTAINERD_PROGRAMS
from tests.node.nodes import Node, NodeUnderTest, node_of, stock_node
from tests.node.pause_image import compile_pause, write_image

BUSYBOX = Path("/bin/busybox")
BUSYBOX_IMAGE = "local.test/box:1"
STOCK_ADDRESSES = IPv4Network("10.99.0.0/16")


@pytest.fixture(scope="session")
def pause(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the static program that waits and reaps."""
    if missing_programs("cc"):
        pytest.skip("needs a C compiler (gcc, libc6-dev)")
    return compile_pause(tmp_path_factory.mktemp("pause"))


@pytest.fixture(scope="session")
def pause_image(pause: Path) -> Path:
    """Give the image of a sandbox, as a tar."""
    return write_image(
        pause.with_name("pause.tar"), PAUSE_IMAGE, platform.machine(), {"pause": pause}
    )


@pytest.fixture(scope="session")
def busybox_image(pause: Path) -> Path:
    """Give an image with busybox in it, as a tar; it waits unless told otherwise."""
    if not BUSYBOX.exists():
        pytest.skip(f"needs {BUSYBOX} (busybox-static)")
    programs = {"pause": pause, "bin/busybox": BUSYBOX}
    return write_image(pause.with_name("busybox.tar"), BUSYBOX_IMAGE, platform.machine(), programs)


@pytest.fixture(scope="session")
def unique_name() -> Callable[[], str]:
    """Give names that nobody else on this machine uses: of namespaces, control groups."""
    count = itertools.count()
    return lambda: f"wbrt-{os.getpid()}-{next(count)}"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a path short enough for the sockets in it: 107 bytes is the most."""
    return tmp_path_factory.mktemp("node")


@pytest.fixture
def box_on(
    pause: Path, unique_name: Callable[[], str], folder: Path
) -> Iterator[Callable[[str], Box]]:
    """Open boxes on network namespaces; they are closed in the end, and nothing is left over."""
    missing = missing_programs(*BOX_PROGRAMS)
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (util-linux)")
    opened: list[tuple[str, Path]] = []
    with ExitStack() as boxes:

        def open_box(netns: str) -> Box:
            name = unique_name()
            inside = folder / name
            inside.mkdir()
            opened.append((name, inside))
            return boxes.enter_context(Box(name, netns, inside, pause))

        yield open_box
    assert [line for box in opened for line in leftovers(*box)] == []


@pytest.fixture
def containerd_on(
    box_on: Callable[[str], Box], pause_image: Path, busybox_image: Path
) -> Iterator[Callable[..., Containerd]]:
    """Start containerds on nodes: `containerd_on(node)`, or with other programs as plug-ins."""
    missing = missing_programs(*CONTAINERD_PROGRAMS)
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (containerd, runc)")
    with ExitStack() as running:

        def start(node: Node, **plugins: Path) -> Containerd:
            return running.enter_context(
                running_containerd(
                    box_on(node.netns),
                    conf_dir=node.conf_dir,
                    plugins=node.plugins | plugins,
                    environment=node.environment,
                    images=[(pause_image, PAUSE_IMAGE), (busybox_image, BUSYBOX_IMAGE)],
                )
            )

        yield start


@pytest.fixture
def stock_node_of(
    unique_name: Callable[[], str], folder: Path
) -> Iterator[Callable[[IPv4Network], Node]]:
    """Make nodes with the stock plug-ins, each with the addresses of a network."""
    if not (STOCK_PLUGINS / "ptp").exists():
        pytest.skip(f"needs {STOCK_PLUGINS}/ptp (containernetworking-plugins)")
    with ExitStack() as nodes:

        def make(addresses: IPv4Network) -> Node:
            name = unique_name()
            (folder / name).mkdir()
            return nodes.enter_context(stock_node(name, folder / name, addresses))

        yield make


@pytest.fixture
def stock(stock_node_of: Callable[[IPv4Network], Node]) -> Node:
    """Give a node with the stock plug-ins and addresses enough."""
    return stock_node_of(STOCK_ADDRESSES)


@pytest.fixture
def node_under_test() -> NodeUnderTest:
    """Give a node with our daemon on it, and room for 100 sandboxes and more."""
    return no_daemon_yet()


@pytest.fixture
def full_node_under_test() -> NodeUnderTest:
    """Give a node of ours that has no address left and cannot get one; its ADDs do not wait."""
    return no_daemon_yet()


def no_daemon_yet() -> NodeUnderTest:
    """Say that a test waits for the daemon: an expected failure, which CI takes for no skip."""
    pytest.xfail("cni/daemon/agent.py is not written yet")


@pytest.fixture(params=["ptp", "aws-cni"])
def node(request: pytest.FixtureRequest) -> Node:
    """Give a node with the stock plug-ins, then one with ours: the same must be true of both."""
    if request.param == "ptp":
        stock: Node = request.getfixturevalue("stock")
        return stock
    return node_of(request.getfixturevalue("node_under_test"))
