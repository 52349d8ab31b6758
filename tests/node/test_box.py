"""The box: what runs in it never outlives it, whatever becomes of the test."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.box import PROGRAMS, SYSTEM_PATH, Box, leftovers, missing_programs
from tests.node.cri import at_once
from tests.node.nodes import Node, network_namespace
from tests.node.test_sandboxes import OnNode
from tests.node.waiting import wait_until

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
# Opens a box with a process and a control group in it, says so, and waits to be killed.
OPENS_A_BOX = """
import sys
from pathlib import Path
from tests.node.box import Box
name, netns, folder, first = sys.argv[1:]
box = Box(name, netns, Path(folder), Path(first)).__enter__()
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def netns(unique_name: Callable[[], str]) -> Iterator[str]:
    """Give a network namespace with nothing in it."""
    if missing_programs(*PROGRAMS):
        pytest.skip(f"needs {', '.join(missing_programs(*PROGRAMS))} (util-linux)")
    name = unique_name()
    with network_namespace(name):
        yield name


def test_nothing_outlives_a_test_that_fails_with_sandboxes_up(
    containerd_on: OnNode, stock: Node
) -> None:
    """Shims, containers and control groups go with the box, without a word to the runtime."""
    containerd = containerd_on(stock)
    box = containerd.box
    at_once(containerd.cri.run_pod_sandbox, ["one", "two"])
    up = leftovers(box.name, box.folder)
    assert sum("containerd-shim" in line for line in up) == 2
    assert sum(line.startswith("control group") for line in up) > 2
    assert not [line for line in up if line.startswith("mount")]

    box.close()

    assert leftovers(box.name, box.folder) == []


def test_a_box_goes_when_the_tests_are_killed(
    netns: str, unique_name: Callable[[], str], folder: Path, pause: Path
) -> None:
    """After kill -9 of whoever opened the box none of its processes is left."""
    name = unique_name()
    with subprocess.Popen(  # noqa: S603, this interpreter
        [sys.executable, "-c", OPENS_A_BOX, name, netns, str(folder), str(pause)],
        cwd=ROOT,
        env={"PATH": SYSTEM_PATH, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as opener:
        assert opener.stdout is not None
        assert opener.stdout.readline() == b"open\n"
        assert leftovers(name, folder) != []
        opener.send_signal(signal.SIGKILL)

    wait_until(lambda: leftovers(name, folder) == [], 5.0, "the box went with its opener")


def test_a_box_that_cannot_start_says_why(
    unique_name: Callable[[], str], folder: Path, pause: Path
) -> None:
    """A node that does not exist is named, and nothing is left."""
    name = unique_name()

    with pytest.raises(AssertionError, match="no-such-node"):
        Box(name, "no-such-node", folder, pause).__enter__()

    assert leftovers(name, folder) == []
