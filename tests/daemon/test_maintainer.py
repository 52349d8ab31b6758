"""The maintainer: what EC2 answers late, or not at all, takes nothing from an ENI that works."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv4Network

import structlog

from cni.allocator.actions import FailureReason
from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import NATIVE
from cni.allocator.journal import Start
from cni.allocator.model import AttachedEni, BlockKind, EniId, Instant, NodeLimits
from cni.allocator.targets import WarmIp
from cni.cloud.calls import Call, CallError, DescribeNetworkInterfaces, Reply
from cni.cloud.identity import MetadataEni
from cni.daemon import comparison
from cni.daemon.clock import LoopClock
from cni.daemon.maintainer import Maintainer, Manner
from tests.allocator.fake_ec2 import FakeEc2, sandbox
from tests.daemon import virtual_loop

IPS = BlockKind.SECONDARY_IP
PER_ENI = 4


class SlowEc2:
    """The fake EC2; the answer to what the node has is as old as `describe_s` when it comes."""

    def __init__(self, ec2: FakeEc2) -> None:
        self.ec2 = ec2
        self.describe_s = 0.0

    async def answer(self, call: Call) -> Reply:
        reply = self.ec2.answer(call)
        if isinstance(call, DescribeNetworkInterfaces) and not call.eni_ids:
            await asyncio.sleep(self.describe_s)
        return reply


class Links:
    """What the kernel has of ENIs; it refuses those in `broken`."""

    def __init__(self) -> None:
        self.there: set[EniId] = set()
        self.broken: dict[EniId, Exception] = {}

    async def install(self, eni: AttachedEni) -> None:
        await asyncio.sleep(0)
        if eni.eni_id in self.broken:
            raise self.broken[eni.eni_id]
        self.there.add(eni.eni_id)

    async def remove(self, eni_id: EniId) -> None:
        await asyncio.sleep(0)
        self.there.discard(eni_id)


class Heard:
    """Hears of actions and keeps how they failed."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []
        self.lost: list[tuple[int, int]] = []

    def action_started(self, kind: str) -> None: ...

    def action_ended(self, kind: str, _seconds: float, failure: str) -> None:
        self.failures += [(kind, failure)] if failure else []

    def vanished(self, *, enis: int, addresses: int) -> None:
        self.lost.append((enis, addresses))


class Node:
    """A maintainer with its allocator, its EC2 and its kernel."""

    def __init__(self, enis: int = 3) -> None:
        self.ec2 = FakeEc2(enis_max=enis, blocks_per_eni=PER_ENI)
        self.cloud = SlowEc2(self.ec2)
        self.links = Links()
        self.heard = Heard()
        self.allocator = Allocator(
            **Start(
                target=WarmIp(1, 0),
                limits=NodeLimits(enis, PER_ENI, 110),
                kind=IPS,
                behaviour=NATIVE,
                now=Instant(0.0),
                attached=self.ec2.attached(),
            ).arguments()
        )
        self.maintainer = Maintainer(
            self.allocator,
            self.cloud,
            self.links,
            LoopClock(),
            Manner(IPS, NATIVE, "token", lambda: 0.0),
            lambda _: None,
            self.heard,
            structlog.stdlib.get_logger(),
        )

    @property
    def now(self) -> Instant:
        return LoopClock().now()

    def add(self, count: int) -> None:
        """Assign so many addresses that are free, and let the refill begin."""
        for number in range(count):
            self.allocator.assign(sandbox(number), self.now)
        self.maintainer.poke()

    def wait(self, number: int) -> None:
        """Let a sandbox wait in line."""
        self.allocator.wait(sandbox(number), self.now)
        self.maintainer.poke()

    def suspect(self) -> None:
        self.allocator.suspect("a test", self.now)
        self.maintainer.poke()

    def known(self) -> set[EniId]:
        return {eni.eni_id for eni in self.allocator.enis()}


def play(node: Node, work: Callable[[], Awaitable[None]]) -> None:
    """Run work on virtual time beside the maintainer."""

    async def whole() -> None:
        node.maintainer.poke()
        await asyncio.sleep(10)
        await work()
        await node.maintainer.stop(0)

    with suppress(asyncio.CancelledError):
        virtual_loop.run(whole())


def test_an_eni_attached_while_ec2_was_asked_keeps_its_routes() -> None:
    """An answer that is older than the ENI does not show it, and says nothing against it."""
    node = Node()

    async def work() -> None:
        for number in range(PER_ENI):
            node.wait(number)
        await asyncio.sleep(10)
        node.cloud.describe_s = 30.0
        node.suspect()
        await asyncio.sleep(6)
        for number in range(10, 14):
            node.wait(number)
        await asyncio.sleep(60)
        secondary = {eni.eni_id for eni in node.allocator.enis() if eni.device_index}
        assert len(secondary) > 1
        assert node.links.there == secondary

    play(node, work)


def test_an_eni_that_ec2_does_not_show_any_more_is_cleared_up() -> None:
    """Its rules and routes go with it from the pool, not before."""
    node = Node()

    async def work() -> None:
        for number in range(PER_ENI + 2):
            node.wait(number)
        await asyncio.sleep(10)
        (gone, *_) = node.links.there
        node.ec2.delete(gone)
        node.suspect()
        await asyncio.sleep(30)
        assert gone in node.links.there, "sandboxes still hold addresses of it"
        held = [one for one in node.allocator.assignments() if one.eni_id == gone]
        assert node.heard.lost == [(1, len(held))]
        for one in node.allocator.assignments():
            node.allocator.release(one.sandbox, node.now)
        node.suspect()
        await asyncio.sleep(30)
        assert gone not in node.known()
        assert gone not in node.links.there

    play(node, work)


def test_an_eni_of_which_the_metadata_cannot_be_read_is_left_for_later() -> None:
    """A description whose ENIs cannot all be set up is no failure of EC2's."""
    node = Node()

    async def work() -> None:
        stranger = node.ec2.attach_stranger(1, IPS, 2)
        node.links.broken[stranger] = CallError(FailureReason.OTHER, "MetadataUnavailable")
        node.suspect()
        await asyncio.sleep(30)
        assert (stranger in node.known(), node.heard.failures) == (False, [])
        del node.links.broken[stranger]
        node.suspect()
        await asyncio.sleep(30)
        assert stranger in node.known() & node.links.there

    play(node, work)


def test_an_address_that_somebody_removed_is_given_to_nobody() -> None:
    """The metadata is compared with the pool, and EC2 asked where they differ twice."""
    node = Node()

    async def metadata() -> tuple[MetadataEni, ...]:
        subnet = IPv4Network("10.0.0.0/24")
        return tuple(MetadataEni(eni, "", subnet) for eni in node.ec2.attached())

    async def work() -> None:
        comparing = asyncio.create_task(
            comparison.watch(
                node.allocator,
                metadata,
                (),
                node.maintainer.poke,
                LoopClock(),
                60.0,
                structlog.stdlib.get_logger(),
            )
        )
        (eni,) = node.allocator.enis()
        before = dict(node.ec2.counts)
        await asyncio.sleep(600)
        assert dict(node.ec2.counts) == before, "without a difference EC2 is not asked"
        node.ec2.take_away(eni.eni_id, eni.blocks)
        await asyncio.sleep(130)
        (eni_now,) = node.allocator.enis()
        assert not set(eni.blocks) & set(eni_now.blocks)
        assert node.allocator.counts(node.now).available == 1
        comparing.cancel()

    play(node, work)
