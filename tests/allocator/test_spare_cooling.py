"""NATIVE gives back addresses that are free, and lets the cooling ones be."""

from ipaddress import IPv4Address, IPv4Network

from cni.allocator.actions import RemoveBlocks
from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import NATIVE
from cni.allocator.model import AttachedEni, BlockKind, EniId, Instant, NodeLimits
from cni.allocator.targets import WarmIp
from tests.allocator.fake_ec2 import sandbox


def test_a_removal_leaves_out_what_still_cools() -> None:
    """The newest block would go first; it was released a second ago, so an older one goes."""
    blocks = tuple(IPv4Network((f"10.0.0.{host}", 32)) for host in range(11, 31))
    allocator = Allocator(
        target=WarmIp(2),
        limits=NodeLimits(3, 29, 89),
        kind=BlockKind.SECONDARY_IP,
        attached=[AttachedEni(EniId("eni-1"), 0, IPv4Address("10.0.0.10"), blocks)],
        taken=(),
        assignments=(),
        now=Instant(0.0),
        behaviour=NATIVE,
    )
    assert allocator.next_action(Instant(0.0)) is None
    # Addresses are handed out free longest first: the twentieth pod gets the newest block.
    for pod in range(20):
        now = Instant(700.0 + pod * 0.1)
        held = allocator.assign(sandbox(pod), now)
        allocator.release(sandbox(pod), now)
    assert held.address == IPv4Address("10.0.0.30")

    now = Instant(731.0)  # By now the first ten have cooled, and the last ten have not.
    while (action := allocator.next_action(now)) is None:
        now = Instant(max(allocator.next_wakeup, now + 0.001))
        assert now < 731.9

    assert isinstance(action, RemoveBlocks)
    cooling = {IPv4Address(f"10.0.0.{host}") for host in range(21, 31)}
    assert not {block.network_address for block in action.blocks} & cooling
    assert action.cut == ()
