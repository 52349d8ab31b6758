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
from tests.node.lab_nodes import daemon_node
from tests.node.nodes import Node, stock_node
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
def daemon_node_of(folder: Path, unique_name: Callable[[], str]) -> Iterator[Callable[..., Node]]:
    """Make nodes with our daemon: `daemon_node_of("python", "t3.nano", WARM_IP_TARGET="1")`."""
    with ExitStack() as nodes:

        def make(plugin: str, instance: str, **settings: str) -> Node:
            # A lab's name is letters and digits, twelve at most.
            name = unique_name().replace("wbrt-", "rt").replace("-", "x")
            return nodes.enter_context(daemon_node(name, folder, plugin, instance, settings))

        yield make


# The stock plug-ins, then ours in Python and in C: the same must be true of all.


@pytest.fixture(params=["ptp", "python", "c"])
def node(request: pytest.FixtureRequest) -> Node:
    """Give a node with addresses for a few sandboxes."""
    return node_with(request, request.param, "t3.small", warm=4)


@pytest.fixture(params=["ptp-20", "python-20", "c-100"])
def busy_node(request: pytest.FixtureRequest) -> tuple[Node, int]:
    """Give a node, and for how many sandboxes it has addresses when it gets ready."""
    plugin, count = request.param.split("-")
    return node_with(request, plugin, "m5.4xlarge", warm=int(count)), int(count)


def node_with(request: pytest.FixtureRequest, plugin: str, instance: str, warm: int) -> Node:
    """Give a node with one of the plug-ins, ours with so many free addresses."""
    if plugin == "ptp":
        stock: Node = request.getfixturevalue("stock")
        return stock
    make: Callable[..., Node] = request.getfixturevalue("daemon_node_of")
    return make(plugin, instance, WARM_IP_TARGET=str(warm))
