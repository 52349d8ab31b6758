"""The pool keeps its books, its cooldown and its order of choice."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.allocator.model import Assignment, AttachedEni, BlockKind, EniId, Instant, SandboxKey
from cni.allocator.pool import Pool, free_blocks
from tests.allocator.fake_ec2 import sandbox

T0 = Instant(100.0)


def attached(index: int, first: str, count: int, length: int = 32) -> AttachedEni:
    """Return an ENI with `count` blocks from an address on."""
    start, step = int(IPv4Address(first)), 1 << (32 - length)
    blocks = tuple(IPv4Network((start + n * step, length)) for n in range(count))
    return AttachedEni(EniId(f"eni-{index}"), index, IPv4Address(f"10.9.0.{index}"), blocks)


def a_pool(kind: BlockKind = BlockKind.SECONDARY_IP, behaviour: Behaviour = NATIVE) -> Pool:
    """Return a pool of two ENIs: three secondary IPs each, or two prefixes each."""
    pool = Pool(kind, 9, 30.0, behaviour, seed=0)
    for index, first in enumerate(("10.0.0.0", "10.0.1.0")):
        count = 3 if kind is BlockKind.SECONDARY_IP else 2
        pool.add_eni(attached(index, first, count, kind.value), T0)
    pool.check()
    return pool


def take(pool: Pool, number: int, now: float = 100.0) -> Assignment:
    """Assign an address that must be there."""
    assignment = pool.take(sandbox(number), Instant(now))
    assert assignment is not None
    pool.check()
    return assignment


def back(pool: Pool, number: int, now: float) -> None:
    """Release an address."""
    pool.give_back(pool.held[sandbox(number)], Instant(now))
    pool.check()


@pytest.mark.parametrize("behaviour", [NATIVE, UPSTREAM])
@pytest.mark.parametrize("kind", BlockKind)
def test_an_address_still_cools_at_exactly_its_last_instant(
    kind: BlockKind, behaviour: Behaviour
) -> None:
    """Upstream compares with "not more than" the cooldown (data_store.go:243)."""
    pool = a_pool(kind, behaviour)
    everything = pool.total
    for number in range(everything):
        take(pool, number)
    back(pool, 0, 200.0)
    for now in (200.0, 215.0, 230.0):
        pool.thaw(Instant(now))
        assert pool.take(sandbox(99), Instant(now)) is None
    pool.thaw(Instant(230.000001))
    assert take(pool, 99, 230.1).address


def test_cooling_counts_as_available_for_upstream_alone() -> None:
    """NATIVE counts it only while it ends cooling before a refill could arrive."""
    for behaviour, now, available in (
        (UPSTREAM, 200.0, 6),
        (NATIVE, 200.0, 5),
        (NATIVE, 227.0, 5),
        (NATIVE, 228.5, 6),
    ):
        pool = a_pool(behaviour=behaviour)
        take(pool, 1)
        back(pool, 1, 200.0)
        pool.thaw(Instant(now))
        pool.check()
        assert pool.counts(Instant(now)).available == available
        assert pool.counts(Instant(now)).cooling == 1


def test_packed_fills_the_lowest_eni_and_spread_the_least_loaded() -> None:
    """With surplus ENIs empty; without, sandboxes share the ENIs evenly."""
    pool = a_pool()
    assert [take(pool, n).device_index for n in range(4)] == [0, 0, 0, 1]
    pool = a_pool()
    pool.packed = False
    assert [take(pool, n).device_index for n in range(4)] == [0, 1, 0, 1]


def test_the_address_free_longest_is_next() -> None:
    """A released address goes to the end of the queue."""
    pool = a_pool()
    first = take(pool, 1).address
    back(pool, 1, 101.0)
    pool.thaw(Instant(140.0))
    assert [str(take(pool, n, 140.0).address) for n in (2, 3)] == ["10.0.0.1", "10.0.0.2"]
    assert take(pool, 4, 140.0).address == first


@pytest.mark.parametrize(
    "name",
    ["assigned", "cooling", "free", "total", "available", "blocks_total", "blocks_free", "foreign"],
)
@pytest.mark.parametrize("kind", BlockKind)
def test_check_finds_a_lie_in_each_count(kind: BlockKind, name: str) -> None:
    """A counter that is off by one is named."""
    pool = a_pool(kind)
    take(pool, 1)
    take(pool, 2)
    back(pool, 1, 101.0)
    setattr(pool, name, getattr(pool, name) + 1)
    with pytest.raises(AssertionError):
        pool.check()


@pytest.mark.parametrize("kind", BlockKind)
def test_check_finds_a_lie_in_marks_and_enis(kind: BlockKind) -> None:
    """Ready bits, loads and the counts of ENIs and blocks are recomputed too."""

    def eni_count(pool: Pool) -> None:
        pool.enis[EniId("eni-0")].assigned += 1

    def eni_cooling(pool: Pool) -> None:
        pool.enis[EniId("eni-0")].cooling += 1

    def block_count(pool: Pool) -> None:
        next(iter(pool.enis[EniId("eni-1")].blocks.values())).assigned += 1

    def ready_bit(pool: Pool) -> None:
        pool._places.ready ^= 1

    def shelf_bit(pool: Pool) -> None:
        pool.enis[EniId("eni-1")].shelves.ready ^= 1

    def level(pool: Pool) -> None:
        pool._levels[3] ^= 1

    for lie in (eni_count, eni_cooling, block_count, ready_bit, shelf_bit, level):
        pool = a_pool(kind)
        take(pool, 1)
        lie(pool)
        with pytest.raises(AssertionError):
            pool.check()


@pytest.mark.parametrize("behaviour", [NATIVE, UPSTREAM])
@pytest.mark.parametrize("kind", BlockKind)
def test_a_withdrawn_block_serves_nobody_until_it_is_brought_back(
    kind: BlockKind, behaviour: Behaviour
) -> None:
    """Leaving means leaving, also for what cools in it; a failed removal brings it back."""
    pool = a_pool(kind, behaviour)
    held = take(pool, 1)
    back(pool, 1, 101.0)
    everything = pool.total
    going = [b for eni in pool.enis.values() for b in free_blocks(eni, spare_cooling=False)]
    cut = [until for block in going for until in pool.withdraw(block)]
    pool.check()
    assert cut == [131.0]
    assert (pool.total, pool.free, pool.cooling, pool.available) == (0, 0, 0, 0)
    assert pool.take(sandbox(2), T0) is None
    for block in going[1:]:
        pool.bring_back(block)
        pool.check()
    pool.drop_block(going[0])
    pool.check()
    assert pool.total == everything - kind.addresses
    assert held.address


@pytest.mark.parametrize("behaviour", [NATIVE, UPSTREAM])
@pytest.mark.parametrize("kind", BlockKind)
def test_a_vanished_block_is_kept_for_its_sandbox_alone(
    kind: BlockKind, behaviour: Behaviour
) -> None:
    """However often EC2 does not show it; after the DEL nobody gets its addresses."""
    pool = a_pool(kind, behaviour)
    held = take(pool, 1)
    block = pool.held[sandbox(1)].block
    everything = pool.total
    for _ in range(3):
        pool.vanish(block)
        pool.check()
    assert pool.total == everything - kind.addresses + 1
    other = pool.enis[EniId("eni-0" if held.eni_id == "eni-1" else "eni-1")]
    assert pool.add_blocks(other, [block.block]) == 0, "EC2 gave it again, but it is still held"
    back(pool, 1, 105.0)
    assert pool.total == everything - kind.addresses
    assert pool.cooling == 0
    assert pool.add_blocks(other, [block.block]) == 1
    pool.check()


def test_a_block_that_moved_is_free_once() -> None:
    """EC2 never has a block on two ENIs: the newest place is believed."""
    pool = a_pool()
    block = IPv4Network("10.0.0.1/32")
    pool.add_blocks(pool.enis[EniId("eni-1")], [block])
    pool.check()
    assert pool.total == 6
    assert block not in pool.enis[EniId("eni-0")].blocks


def test_an_eni_at_the_index_of_a_vanished_one_finds_a_place() -> None:
    """The vanished one stays for its sandbox; both are told apart."""
    pool = a_pool()
    for number in range(4):
        take(pool, number)
    for block in list(pool.enis[EniId("eni-1")].blocks.values()):
        pool.vanish(block)
    again = attached(1, "10.0.7.0", 2)
    pool.add_eni(AttachedEni(EniId("eni-new"), 1, again.primary_ip, again.blocks), T0)
    pool.check()
    assert take(pool, 50).eni_id == "eni-new"


def test_restore_tells_what_cannot_stand() -> None:
    """Each problem is one line; the rest is restored."""
    pool = a_pool()

    def earlier(number: int, address: str) -> Assignment:
        return Assignment(sandbox(number), IPv4Address(address), EniId("eni-0"), 0, Instant(1.0))

    assert pool.restore(earlier(1, "10.0.0.0")) is None
    assert "listed twice" in str(pool.restore(earlier(1, "10.0.0.1")))
    assert "two sandboxes" in str(pool.restore(earlier(2, "10.0.0.0")))
    assert "no attached ENI" in str(pool.restore(earlier(3, "192.0.2.1")))
    pool.restore_cooling(IPv4Address("10.0.0.2"), Instant(130.0))
    pool.check()
    assert (pool.assigned, pool.cooling, pool.free) == (1, 1, 4)
    assert pool.held[SandboxKey("net", "pod-1", "eth0")].until == float("-inf")


def test_a_sandbox_keeps_its_address_in_a_block_of_the_other_kind() -> None:
    """After a change of mode old addresses stay with their sandboxes and go with them."""
    pool = Pool(BlockKind.PREFIX, 9, 30.0, NATIVE, seed=0)
    pool.add_eni(attached(0, "10.0.0.0", 2), T0)
    held = Assignment(sandbox(1), IPv4Address("10.0.0.1"), EniId("eni-0"), 0, Instant(1.0))
    assert pool.restore(held) is None
    pool.check()
    assert (pool.total, pool.foreign) == (1, 2)
    assert pool.take(sandbox(2), T0) is None
    back(pool, 1, 110.0)
    assert pool.total == 0
