"""A sandbox whose link is gone is given back at the second look, never at the first."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
import structlog

from cni.allocator.model import EniId, SandboxKey
from cni.daemon.clock import LoopClock
from cni.daemon.holdings import Holding
from cni.daemon.vanished import LOOK_S, Vanished, watch
from tests.daemon import virtual_loop
from tests.daemon.node_fakes import Anyone, Node, add

WEB = Holding(
    sandbox=SandboxKey("aws-cni", "web", "eth0"),
    address=IPv4Address("10.0.0.5"),
    eni_id=EniId("eni-1"),
    device_index=0,
    host_link="eniweb",
    pod_namespace="default",
    pod_name="web",
    netns="/run/netns/web",
    since_unix=1.0,
)
JOB = replace(WEB, sandbox=SandboxKey("aws-cni", "job", "eth0"), host_link="enijob")


def test_a_missing_link_counts_at_the_second_look() -> None:
    """One look may fall between an ADD's ledger and its link."""
    vanished = Vanished()

    assert vanished.look([WEB, JOB], (), {"enijob"}) == ()
    assert vanished.look([WEB, JOB], (), {"enijob"}) == (WEB,)


def test_a_link_that_comes_back_clears_the_suspicion() -> None:
    """Two looks in a row are needed, not two in all."""
    vanished = Vanished()

    vanished.look([WEB], (), ())
    assert vanished.look([WEB], (), {"eniweb"}) == ()
    assert vanished.look([WEB], (), ()) == ()


def test_a_sandbox_with_a_command_under_way_is_left_alone() -> None:
    """Its link may be about to appear, or to go by its own DEL."""
    vanished = Vanished()

    for _ in range(3):
        assert vanished.look([WEB], {WEB.sandbox}, ()) == ()


def test_a_new_holding_of_the_same_sandbox_is_another_one() -> None:
    """What was suspected is the holding, not the name."""
    vanished = Vanished()

    vanished.look([WEB], (), ())
    assert vanished.look([replace(WEB, since_unix=2.0)], (), ()) == ()


@pytest.mark.parametrize("broken", ["ledger", "kernel"])
def test_the_watch_outlives_a_disk_or_a_kernel_that_refuses(broken: str) -> None:
    """A lost DEL is made up for once both work again, however often they failed before."""
    node = Node(3)

    async def script() -> None:
        for name in ("web", "job"):
            await node.sandboxes.add(add(name), Anyone())
        node.kernel.links.clear()
        looking = asyncio.create_task(
            watch(node.sandboxes, node.kernel, LoopClock(), structlog.stdlib.get_logger())  # type: ignore[arg-type]
        )
        getattr(node, broken).fails = 5
        await asyncio.sleep(20 * LOOK_S)
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking

    virtual_loop.run(script())
    assert not node.sandboxes.holdings
    node.consistent()
