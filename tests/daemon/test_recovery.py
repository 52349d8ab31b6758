"""What a start makes of an earlier life: nothing that a live pod needs is given up in a hurry."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
import structlog

from cni.allocator.actions import FailureReason
from cni.allocator.model import AttachedEni, EniId
from cni.cloud.calls import CallError
from cni.daemon.recovery import SET_UP_PAUSES_S, NotSetUp, clear_strays, restore, set_up
from cni.network.netlink import NetworkError
from tests.daemon import virtual_loop
from tests.daemon.node_fakes import Anyone, Node, add

ENIS = tuple(
    AttachedEni(EniId(f"eni-{index}"), index, IPv4Address(f"10.0.0.{5 + index}"), ())
    for index in range(3)
)

silent = CallError(FailureReason.OTHER, "MetadataUnavailable", "no answer")
no_link = NetworkError("find the link", "no such device", "it may come later", 19)


class Links:
    """A kernel and a metadata service that refuse one ENI so many times."""

    def __init__(self, error: Exception, times: int) -> None:
        self._error = error
        self._left = times

    async def install(self, eni: AttachedEni) -> None:
        if eni.eni_id == "eni-1" and self._left:
            self._left -= 1
            raise self._error


def setting_up(links: Links, lived_on: set[EniId]) -> list[AttachedEni]:
    """Set the three ENIs up, on virtual time."""
    log = structlog.stdlib.get_logger()
    return virtual_loop.run(set_up(ENIS, lived_on, links, asyncio.sleep, log))


@pytest.mark.parametrize("error", [silent, no_link])
def test_an_eni_on_which_pods_live_is_tried_again(error: Exception) -> None:
    """A metadata service that is silent for seconds must not cost running pods their network."""
    links = Links(error, len(SET_UP_PAUSES_S))

    assert setting_up(links, {EniId("eni-1")}) == [*ENIS]


@pytest.mark.parametrize("error", [silent, no_link])
def test_an_eni_on_which_pods_live_is_never_left_out(error: Exception) -> None:
    """A start that fails takes nothing from anybody; the next one tries again."""
    with pytest.raises(NotSetUp, match="sandboxes live on eni-1"):
        setting_up(Links(error, 99), {EniId("eni-1")})


@pytest.mark.parametrize("error", [silent, no_link])
def test_an_eni_that_nobody_lives_on_is_left_out(error: Exception) -> None:
    """A node starts without it, and takes it in once EC2 is asked again."""
    assert setting_up(Links(error, 99), {EniId("eni-0")}) == [ENIS[0], ENIS[2]]


def test_a_full_disk_stops_no_start() -> None:
    """What the node has lost is written off by a later start; the pods that live are taken in."""
    node = Node(2)

    async def script() -> None:
        await node.sandboxes.add(add("lives"), Anyone())
        (lives,) = node.sandboxes.holdings.values()
        lost = replace(lives, sandbox=lives.sandbox._replace(container_id="lost"))
        node.ledger.fails = 1
        log = structlog.stdlib.get_logger()
        await restore((lost, lives), node.allocator, node.sandboxes, node.ledger, lambda: 0.0, log)
        assert list(node.sandboxes.holdings.values()) == [lives]

    virtual_loop.run(script())


def test_strays_that_the_kernel_keeps_stop_no_start() -> None:
    """They are tried again by the next one."""
    node = Node(2)
    node.kernel.fails = 1

    virtual_loop.run(
        clear_strays(node.sandboxes, node.kernel, (), structlog.stdlib.get_logger())  # type: ignore[arg-type]
    )
    assert node.kernel.fails == 0
