"""ADD, DEL, CHECK, GC and STATUS: whatever fails or comes at once, four books agree in the end.

The books are the allocator, the ledger, the kernel and the daemon's own holdings.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cni.allocator.errors import Cause
from cni.allocator.model import SandboxKey
from cni.daemon.caller import Caller
from cni.spec.command import Attachment, Gc, NetConf
from cni.spec.errors import CniError, Code
from tests.daemon import virtual_loop
from tests.daemon.node_fakes import Anyone, Node, add, check, delete


def play(node: Node, work: Callable[[], Awaitable[None]]) -> None:
    """Run work on virtual time, and compare the books at its end."""

    async def whole() -> None:
        await work()

    virtual_loop.run(whole())
    node.consistent()


def test_an_add_is_answered_with_the_pods_address() -> None:
    """The result names both links, the namespace, and a /32 on the inner one."""
    node = Node(2)

    async def work() -> None:
        result = await node.sandboxes.add(add("a"), Anyone())
        assert [link.name for link in result.interfaces] == [
            node.sandboxes.holdings[SandboxKey("aws-cni", "a", "eth0")].host_link,
            "eth0",
        ]
        assert result.interfaces[1].sandbox == "/proc/self/ns/net"
        assert result.ips[0].interface == 1
        assert str(result.ips[0].address).endswith("/32")

    play(node, work)


def test_the_same_add_gives_the_same_address() -> None:
    """A runtime may repeat an ADD, one after the other or both at once."""
    node = Node(5)

    async def work() -> None:
        first, second = await asyncio.gather(
            node.sandboxes.add(add("a"), Anyone()), node.sandboxes.add(add("a"), Anyone())
        )
        third = await node.sandboxes.add(add("a"), Anyone())
        assert first.ips == second.ips == third.ips

    play(node, work)
    assert len(node.sandboxes.holdings) == 1


def test_a_second_del_and_one_for_nobody_succeed() -> None:
    """Containerd sends DEL twice for each pod, and after a failed ADD."""
    node = Node(2)

    async def work() -> None:
        await node.sandboxes.add(add("a"), Anyone())
        await node.sandboxes.delete(delete("a"))
        await node.sandboxes.delete(delete("a"))
        await node.sandboxes.delete(delete("never seen"))

    play(node, work)
    assert not node.sandboxes.holdings


@pytest.mark.parametrize("broken", ["ledger", "kernel"])
def test_a_failed_add_gives_its_address_back(broken: str) -> None:
    """Whatever fails after an address was assigned, nothing of the ADD remains."""
    node = Node(2)
    getattr(node, broken).fails = 1

    async def work() -> None:
        with pytest.raises(CniError) as error:
            await node.sandboxes.add(add("a"), Anyone())
        assert error.value.code in {Code.IO_FAILURE, Code.NETWORK_FAILURE}

    play(node, work)
    assert not node.ledger.held


@pytest.mark.parametrize("broken", ["ledger", "kernel"])
def test_a_failed_del_can_be_repeated(broken: str) -> None:
    """The runtime hears of the failure and comes again; then nothing is left."""
    node = Node(2)

    async def work() -> None:
        await node.sandboxes.add(add("a"), Anyone())
        getattr(node, broken).fails = 1
        with pytest.raises(CniError):
            await node.sandboxes.delete(delete("a"))
        assert len(node.ledger.held) == 1
        await node.sandboxes.delete(delete("a"))

    play(node, work)
    assert not node.ledger.held


def test_an_address_whose_release_is_not_on_disk_is_given_to_nobody() -> None:
    """Else the DEL that the runtime repeats would take the next pod's route and rules away."""
    node = Node(1)

    async def work() -> None:
        await node.sandboxes.add(add("a"), Anyone())
        node.ledger.fails = 1
        with pytest.raises(CniError):
            await node.sandboxes.delete(delete("a"))
        await asyncio.sleep(60)
        with pytest.raises(CniError):
            await node.sandboxes.add(add("b"), Anyone())
        again = await node.sandboxes.add(add("a"), Anyone())
        assert again.ips[0].address.ip in node.kernel.pods
        node.consistent()
        await node.sandboxes.delete(delete("a"))
        await asyncio.sleep(60)
        await node.sandboxes.add(add("b"), Anyone())
        await node.sandboxes.delete(delete("a"))

    play(node, work)
    assert [key.container_id for key in node.sandboxes.holdings] == ["b"]


def test_a_refused_add_names_cause_and_next_step() -> None:
    """An empty pool that cannot grow is error 11 with the cause's code."""
    node = Node(0)

    async def work() -> None:
        with pytest.raises(CniError) as error:
            await node.sandboxes.add(add("a"), Anyone())
        assert error.value.code == Code.TRY_AGAIN_LATER
        assert node.heard.refusals[0].value in error.value.message
        assert error.value.details

    play(node, work)


def test_an_add_waits_for_an_address_that_cools() -> None:
    """With nothing free, an ADD is held and answered when the cooldown ends, 30 s later."""
    node = Node(1, add_wait_s=60.0)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        await node.sandboxes.add(add("a"), Anyone())
        await node.sandboxes.delete(delete("a"))
        waiting = asyncio.ensure_future(node.sandboxes.add(add("b"), Anyone()))
        await asyncio.sleep(31.0)
        for assignment in node.allocator.serve_waiting(node.sandboxes._clock.now()):
            node.sandboxes.served(assignment)
        await waiting
        assert 30 < loop.time() < 32

    play(node, work)
    assert node.heard.waits == [31.0]


@pytest.mark.parametrize("how", ["patience", "hang up", "DEL", "stop"])
def test_a_wait_can_end_without_an_address(how: str) -> None:
    """Out of patience, hung up, deleted, or the daemon stops: the line is empty afterwards."""
    node = Node(1, add_wait_s=20.0)

    async def work() -> None:
        await node.sandboxes.add(add("a"), Anyone())
        await node.sandboxes.delete(delete("a"))
        caller = Anyone()
        waiting = asyncio.ensure_future(node.sandboxes.add(add("b"), caller))
        await asyncio.sleep(5.0)
        assert node.allocator.waiting == 1
        match how:
            case "hang up":
                caller.gone.set()
            case "DEL":
                await node.sandboxes.delete(delete("b"))
            case "stop":
                node.sandboxes.stop()
            case _:
                await asyncio.sleep(20.0)
        with pytest.raises(CniError) as error:
            await waiting
        assert error.value.code == Code.TRY_AGAIN_LATER
        assert node.allocator.waiting == 0

    play(node, work)
    assert (node.heard.refusals == [Cause.ALL_COOLING]) == (how == "patience")


def test_an_add_that_nobody_hears_is_undone() -> None:
    """The caller hung up while the kernel worked: for the runtime this ADD failed."""
    node = Node(2)

    async def work() -> None:
        caller = Anyone()
        caller.gone.set()
        with pytest.raises(CniError):
            await node.sandboxes.add(add("a"), caller)
        await node.sandboxes.add(add("b"), Anyone())
        await node.sandboxes.unheard(add("b"))

    play(node, work)
    assert not node.ledger.held


def test_a_repeated_add_that_nobody_hears_undoes_nothing() -> None:
    """The pod lives by its first ADD, whose answer was heard."""
    node = Node(2)

    async def work() -> None:
        await node.sandboxes.add(add("a"), Anyone())
        gone = Anyone()
        gone.gone.set()
        await node.sandboxes.add(add("a"), gone)
        await node.sandboxes.unheard(add("a"))

    play(node, work)
    assert len(node.ledger.held) == 1


def test_a_late_del_spares_the_next_sandbox_of_the_pod() -> None:
    """A StatefulSet's pod comes again under its name: the old sandbox's DEL leaves its link."""
    node = Node(3)

    async def work() -> None:
        await node.sandboxes.add(add("old", pod="web-0"), Anyone())
        await node.sandboxes.add(add("new", pod="web-0"), Anyone())
        link = node.sandboxes.holdings[SandboxKey("aws-cni", "new", "eth0")].host_link
        await node.sandboxes.delete(delete("old"))
        assert link in node.kernel.links

    play(node, work)


def test_an_add_needs_a_namespace_that_is_not_the_nodes_own() -> None:
    """Without one, or with the daemon's, the ADD is refused and nothing is touched."""
    node = Node(2)

    async def work() -> None:
        with pytest.raises(CniError, match="cannot be opened"):
            await node.sandboxes.add(add("a"), Caller())
        with (
            Path("/proc/self/ns/net").open("rb") as own,
            pytest.raises(CniError, match="the node's own"),
        ):
            await node.sandboxes.add(add("a"), Caller(own.fileno()))

    play(node, work)
    assert not node.ledger.held


def test_check_compares_ledger_result_and_kernel() -> None:
    """CHECK succeeds while all agree, and names what differs."""
    node = Node(2)

    async def work() -> None:
        result = await node.sandboxes.add(add("a"), Anyone())
        address = result.ips[0].address
        await node.sandboxes.check(check("a", str(address)), Anyone())
        with pytest.raises(CniError, match=r"prevResult has 10\.9\.9\.9/32"):
            await node.sandboxes.check(check("a", "10.9.9.9/32"), Anyone())
        with pytest.raises(CniError) as unknown:
            await node.sandboxes.check(check("b", str(address)), Anyone())
        assert unknown.value.code == Code.UNKNOWN_CONTAINER
        pod = node.kernel.pods.pop(next(iter(node.kernel.pods)))
        with pytest.raises(CniError, match=r"route 10\.0\.0"):
            await node.sandboxes.check(check("a", str(address)), Anyone())
        node.kernel.pods[pod.address] = pod

    play(node, work)


def test_gc_drops_what_the_runtime_no_longer_names() -> None:
    """Of this network alone, and nothing that is named."""
    node = Node(3)
    conf = NetConf("1.1.0", "aws-cni", "aws-cni", None, (Attachment("b", "eth0"),), {})

    async def work() -> None:
        for name in "abc":
            await node.sandboxes.add(add(name), Anyone())
        await node.sandboxes.collect(Gc(conf))

    play(node, work)
    assert [key.container_id for key in node.sandboxes.holdings] == ["b"]


def test_gc_goes_on_past_what_cannot_be_dropped() -> None:
    """As much as can be is removed, and the failure is told (CNI 1.1, GC)."""
    node = Node(4)
    conf = NetConf("1.1.0", "aws-cni", "aws-cni", None, (), {})

    async def work() -> None:
        for name in "abcd":
            await node.sandboxes.add(add(name), Anyone())
        node.kernel.fails = 2
        with pytest.raises(CniError, match="2 of 4 sandboxes"):
            await node.sandboxes.collect(Gc(conf))
        assert [key.container_id for key in node.sandboxes.holdings] == ["a", "b"]
        await node.sandboxes.collect(Gc(conf))

    play(node, work)
    assert not node.sandboxes.holdings


def test_a_command_that_is_cancelled_holds_nobody_up() -> None:
    """A stop may cancel a look for lost DELs while it waits its turn, or as its turn comes."""
    node = Node(10)

    async def work() -> None:
        await node.sandboxes.add(add("a"), Anyone())
        for rounds in range(6):
            deleting = [asyncio.ensure_future(node.sandboxes.delete(delete("a"))) for _ in range(3)]
            for _ in range(rounds):
                await asyncio.sleep(0)
            deleting[1].cancel()
            async with asyncio.timeout(10):
                await asyncio.gather(deleting[0], deleting[2])
                await node.sandboxes.add(add("a"), Anyone())
            assert not deleting[0].exception()

    play(node, work)


def test_status_tells_whether_an_add_could_be_served() -> None:
    """Fine with a free address; error 51 with its cause where none can come."""
    node = Node(1)

    async def work() -> None:
        node.sandboxes.status()
        await node.sandboxes.add(add("a"), Anyone())
        with pytest.raises(CniError) as error:
            node.sandboxes.status()
        assert error.value.code == Code.LIMITED_CONNECTIVITY
        assert error.value.details

    play(node, work)


@pytest.mark.parametrize("seed", range(50))
def test_any_storm_of_commands_leaves_the_books_in_agreement(  # noqa: C901 - a storm
    seed: int,
) -> None:
    """ADDs and DELs at once, with ledger and kernel failing now and then, and callers leaving."""
    rng = random.Random(seed)
    node = Node(6, add_wait_s=rng.choice([0.0, 10.0]))

    async def one(number: int) -> None:
        await asyncio.sleep(rng.uniform(0, 50))
        name = f"c{number % 8}"
        caller = Anyone()
        if rng.random() < 0.2:
            asyncio.get_running_loop().call_later(rng.uniform(0, 5), caller.gone.set)
        if rng.random() < 0.2:
            rng.choice([node.ledger, node.kernel]).fails = 1
        try:
            if rng.random() < 0.6:
                await node.sandboxes.add(add(name), caller)
            else:
                await node.sandboxes.delete(delete(name))
        except CniError:
            pass

    async def server() -> None:
        while True:
            await asyncio.sleep(1.0)
            for assignment in node.allocator.serve_waiting(node.sandboxes._clock.now()):
                node.sandboxes.served(assignment)

    async def work() -> None:
        serving = asyncio.ensure_future(server())
        await asyncio.gather(*(one(number) for number in range(60)))
        serving.cancel()
        # A DEL that failed left its sandbox; the runtime comes again.
        node.ledger.fails = node.kernel.fails = 0
        for key in list(node.sandboxes.holdings):
            await node.sandboxes.delete(delete(key.container_id))

    play(node, work)
