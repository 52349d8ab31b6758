"""The pool: ENIs, their blocks, and the state of every address; it chooses, and never decides.

An address is *free*, *assigned*, *cooling* (released less than the cooldown ago) or *leaving*
(its block is about to be removed). Counts are kept up to date with every change, since a
sweep asks for them a million times; `check()` recomputes each of them.

Free addresses stand in *shelves*: one for each ENI where blocks are secondary IPs, one for each
block where they are prefixes. A shelf is a queue, and a bit in its ENI tells that it is not
empty, so that choosing and returning cost the same on a full node as on an empty one.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from math import inf

from cni.allocator.behaviour import Behaviour, Order
from cni.allocator.model import (
    Assignment,
    AttachedEni,
    Block,
    BlockKind,
    EniId,
    Instant,
    PoolCounts,
    PoolSize,
    SandboxKey,
)
from cni.allocator.places import Dice, Places
from cni.allocator.shelves import PooledBlock, PooledEni, Shelf, Slot


class Pool:
    """All addresses on attached ENIs, with the one way to choose among them."""

    def __init__(
        self,
        kind: BlockKind,
        blocks_per_eni: int,
        cooldown_s: float,
        behaviour: Behaviour,
        seed: int,
    ) -> None:
        """Start without ENIs; `seed` shuffles choices where the behaviour does."""
        self.kind = kind
        self.per_block = kind.addresses
        self.blocks_per_eni = blocks_per_eni
        self.cooldown_s = cooldown_s
        self.behaviour = behaviour
        self.dice = Dice(seed)
        self.packed = True
        """Whether PACKED packs now (the pool has surplus) or spreads over ENIs."""
        self.enis: dict[EniId, PooledEni] = {}
        self.held: dict[SandboxKey, Slot] = {}
        self.total = 0
        self.assigned = 0
        self.cooling = 0
        self.free = 0
        self.blocks_total = 0
        self.blocks_free = 0
        self.foreign = 0
        """Blocks of the kind this node does not ask for: they go when nobody holds of them."""
        self.available = 0
        """Addresses no sandbox holds; cooling ones only if the behaviour counts all of them."""
        self.thaw_at = inf
        """The next instant after which `thaw` changes anything."""
        self._cooling: deque[Slot] = deque()
        self._lead_s = behaviour.refill_lead_s
        self._counts_cooling = behaviour.cooling_is_available
        self._shuffles = behaviour.order is Order.SHUFFLED
        self._places: Places[PooledEni] = Places()
        self._orphans: list[PooledBlock] = []
        """Blocks that vanished from EC2 while sandboxes hold of them."""
        self._levels = [0] * (blocks_per_eni * self.per_block + 2)
        self._lowest_level = 0

    # ENIs and blocks.

    def add_eni(self, eni: AttachedEni, attached_at: Instant) -> PooledEni:
        """Take in an attached ENI and its blocks."""
        pooled = PooledEni(eni, attached_at, self.blocks_per_eni)
        if not self._shuffles:
            # The place may be taken by an ENI that vanished from EC2 but not from its sandboxes.
            self._place_eni(pooled, self._places.free_from(pooled.device_index))
        elif self._places.full:
            for moved in [*self._places.spread(), pooled]:
                self._place_eni(moved, self._places.free_place())
        else:
            self._place_eni(pooled, self._places.free_place())
        self.enis[eni.eni_id] = pooled
        self.add_blocks(pooled, eni.blocks)
        return pooled

    def _place_eni(self, eni: PooledEni, place: int) -> None:
        eni.place = place
        eni.bit = 1 << place
        self._places.put(eni, place)
        if eni.shelves.ready:
            self._places.ready |= eni.bit

    def add_blocks(self, eni: PooledEni, blocks: Iterable[Block]) -> int:
        """Take in blocks that EC2 shows on an ENI; return how many were new."""
        new = 0
        wanted = self.kind.value
        for block in blocks:
            if block not in eni.blocks and self._is_free_elsewhere(block, eni):
                pooled = PooledBlock(block, eni, foreign=block.prefixlen != wanted)
                eni.blocks[block] = pooled
                self.foreign += pooled.foreign
                if not pooled.foreign:
                    pooled.slots = self._slots_in(block, pooled)
                    self._shelve(pooled)
                    size = len(eni.blocks) * self.per_block + 2
                    self._levels.extend([0] * (size - len(self._levels)))
                new += 1
        return new

    def _slots_in(self, block: Block, pooled: PooledBlock) -> list[Slot]:
        # The block's own object: a fleet holds millions of them, and one each is enough.
        address = block.network_address
        if self.per_block == 1:
            return [Slot(address, pooled)]
        first = int(address)
        return [Slot(IPv4Address(first + n), pooled) for n in range(self.per_block)]

    def _is_free_elsewhere(self, block: Block, eni: PooledEni) -> bool:
        """Whether no sandbox holds of a block since before EC2 took it and gave it to `eni`."""
        for other in self.enis.values():
            if other is not eni and block in other.blocks:
                # Nobody told that the other ENI lost it, but EC2 never has a block twice.
                self.vanish(other.blocks[block])
        return not any(block.overlaps(orphan.block) for orphan in self._orphans)

    def _shelve(self, block: PooledBlock) -> None:
        """Put a block that holds nothing into service."""
        eni = block.eni
        block.shelf = shelf = self._shelf_for(eni)
        eni.serving += 1
        self.blocks_total += 1
        self.blocks_free += 1
        self.total += self.per_block
        self.available += self.per_block
        self.free += self.per_block
        shelf.slots.extend(block.slots)
        self._mark_ready(shelf)

    def _shelf_for(self, eni: PooledEni) -> Shelf:
        shelves = eni.shelves
        only = shelves.at[0] if self.per_block == 1 else None
        if only is not None:
            return only
        if self._shuffles and shelves.full:
            for moved in shelves.spread():
                moved.place = shelves.free_place()
                moved.bit = 1 << moved.place
                shelves.put(moved, moved.place)
                if moved.slots:
                    shelves.ready |= moved.bit
        place = shelves.free_place()
        shelf = Shelf(eni, place)
        shelves.put(shelf, place)
        return shelf

    def withdraw(self, block: PooledBlock) -> list[float]:
        """Take a block out of service before it is removed; no sandbox may hold of it.

        Return until when its cooling addresses would have cooled.
        """
        assert block.assigned == 0, block.block
        block.leaving = True
        cut: list[float] = []
        if block.foreign:
            return cut
        shelf = block.shelf
        assert shelf is not None
        for slot in block.slots:
            if slot.until > -inf:
                cut.append(slot.until)
                self._forget_cooling(slot)
        kept = self.per_block - len(cut)
        self.free -= kept
        self.total -= self.per_block
        if self._counts_cooling:
            self.available -= self.per_block
        else:
            self.available -= kept
        block.eni.serving -= 1
        self.blocks_total -= 1
        self.blocks_free -= 1
        if self.kind is BlockKind.PREFIX:
            shelf.slots.clear()
        elif not cut:
            shelf.slots.remove(block.slots[0])
        self._close_shelf(block)
        return cut

    def _forget_cooling(self, slot: Slot) -> None:
        """Drop a cooling address of a block that leaves."""
        self._cooling.remove(slot)
        slot.until = -inf
        slot.block.cooling -= 1
        slot.block.eni.cooling -= 1
        self.cooling -= 1

    def vanish(self, block: PooledBlock) -> None:
        """Believe EC2, which does not show the block: nobody gets its addresses any more.

        A sandbox that holds one keeps it until its DEL; the block is forgotten then.
        """
        if block.assigned == 0:
            if not block.leaving:
                self.withdraw(block)
            self.drop_block(block)
            return
        if block.leaving:
            # It vanished before, and a sandbox still holds of it.
            return
        holders = [slot for slot in block.slots if slot.assignment is not None]
        others = [slot for slot in block.slots if slot.assignment is None]
        if not block.foreign:
            for slot in others:
                if slot.until > -inf:
                    self._forget_cooling(slot)
                    self.available -= self._counts_cooling
                else:
                    assert block.shelf is not None
                    block.shelf.slots.remove(slot)
                    self.free -= 1
                    self.available -= 1
            self.total -= len(others)
            block.eni.serving -= 1
            self.blocks_total -= 1
            self._close_shelf(block)
        block.slots = holders
        block.leaving = True
        self._orphans.append(block)

    def _close_shelf(self, block: PooledBlock) -> None:
        """Take a block's emptied shelf away; secondary IPs share theirs, which stays."""
        shelf = block.shelf
        assert shelf is not None
        if not shelf.slots:
            self._mark_empty(shelf)
        if self.kind is BlockKind.PREFIX:
            shelf.eni.shelves.remove(shelf.place)
        block.shelf = None

    def bring_back(self, block: PooledBlock) -> None:
        """Put a withdrawn block into service again: EC2 kept it."""
        block.leaving = False
        if not block.foreign:
            self._shelve(block)

    def drop_block(self, block: PooledBlock) -> None:
        """Forget a withdrawn block: EC2 took it."""
        del block.eni.blocks[block.block]
        if block in self._orphans:
            self._orphans.remove(block)
        self.foreign -= block.foreign

    def drop_eni(self, eni: PooledEni) -> None:
        """Forget an ENI whose blocks are withdrawn or vanished."""
        self._places.remove(eni.place)
        del self.enis[eni.eni_id]

    def in_order(self, enis: list[PooledEni]) -> list[PooledEni]:
        """Return some ENIs in the order of choice: shuffled anew, or by device index.

        The dice are rolled only where there is a choice, so that a look at the pool which finds
        nothing to do leaves no trace: such looks may be skipped.
        """
        if len(enis) < 2:  # noqa: PLR2004 - one is no choice
            return enis
        if self._shuffles:
            chosen = {eni.eni_id for eni in enis}
            return [eni for eni in self._places.in_ring(self.dice) if eni.eni_id in chosen]
        return sorted(enis, key=lambda eni: eni.device_index)

    # Addresses.

    def thaw(self, now: Instant) -> None:
        """Move on what has cooled: an address is still cooling at exactly its last instant."""
        cooling = self._cooling
        while cooling and cooling[0].until < now:
            slot = cooling.popleft()
            slot.until = -inf
            block = slot.block
            shelf = block.shelf
            assert shelf is not None
            block.cooling -= 1
            shelf.eni.cooling -= 1
            self.cooling -= 1
            self.free += 1
            if not self._counts_cooling:
                self.available += 1
            slots = shelf.slots
            if not slots:
                slots.append(slot)
                self._mark_ready(shelf)
            elif self._shuffles:
                # Upstream takes an address it has seen before it takes a fresh one of the
                # prefix (`data_store.go:1499`).
                slots.appendleft(slot)
            else:
                slots.append(slot)
        self.thaw_at = cooling[0].until if cooling else inf

    def soon_free(self, now: Instant) -> int:
        """Return how many cooling addresses end cooling before a refill could arrive."""
        lead = now + self._lead_s
        soon = 0
        for slot in self._cooling:
            if slot.until >= lead:
                break
            soon += 1
        return soon

    def cooling_until(self) -> tuple[tuple[IPv4Address, Instant], ...]:
        """Return the addresses that cool, each with its last instant, oldest first."""
        return tuple((slot.address, Instant(slot.until)) for slot in self._cooling)

    def cooled_at(self, eni: PooledEni) -> float:
        """Return the last instant at which an address of the ENI still cools; -inf: none does."""
        waits = (slot.until for slot in self._cooling if slot.block.eni is eni)
        return max(waits, default=-inf) if eni.cooling else -inf

    def take(self, sandbox: SandboxKey, now: Instant) -> Assignment | None:
        """Assign the address of choice to a sandbox that holds none; None where none is free."""
        places = self._places
        if not places.ready:
            return None
        if self._shuffles:
            eni = places.at[places.shuffled(self.dice)]
            assert eni is not None
            shelves = eni.shelves
            shelf = shelves.at[shelves.shuffled(self.dice) if self.per_block > 1 else 0]
        else:
            eni = places.at[places.lowest() if self.packed else self._least_loaded()]
            assert eni is not None
            shelves = eni.shelves
            shelf = shelves.at[shelves.lowest()]
        assert shelf is not None
        return self._hand_out(shelf.slots.popleft(), shelf, sandbox, now)

    def _hand_out(self, slot: Slot, shelf: Shelf, sandbox: SandboxKey, now: Instant) -> Assignment:
        eni = shelf.eni
        if not self._shuffles:
            level = eni.assigned
            self._levels[level] ^= eni.bit
            self._levels[level + 1] |= eni.bit
        eni.assigned += 1
        if not shelf.slots:
            self._mark_empty(shelf)
        block = slot.block
        if block.assigned == 0:
            self.blocks_free -= 1
        block.assigned += 1
        self.assigned += 1
        self.free -= 1
        self.available -= 1
        slot.assignment = assignment = Assignment(
            sandbox, slot.address, eni.eni_id, eni.device_index, now
        )
        self.held[sandbox] = slot
        return assignment

    def _least_loaded(self) -> int:
        """Return the place of the ready ENI with the fewest sandboxes, the lowest of equals."""
        levels = self._levels
        level = self._lowest_level
        while not (mask := levels[level]):
            level += 1
        self._lowest_level = level
        return (mask & -mask).bit_length() - 1

    def give_back(self, slot: Slot, now: Instant) -> Assignment:
        """Release an assigned address into its cooldown."""
        assignment = slot.assignment
        assert assignment is not None
        slot.assignment = None
        block = slot.block
        eni = block.eni
        if not self._shuffles and self._places.ready & eni.bit:
            self._levels[eni.assigned] ^= eni.bit
            self._levels[eni.assigned - 1] |= eni.bit
            if eni.assigned - 1 < self._lowest_level:  # noqa: PLR1730, a call to min() costs more here
                self._lowest_level = eni.assigned - 1
        eni.assigned -= 1
        block.assigned -= 1
        self.assigned -= 1
        del self.held[assignment.sandbox]
        if block.foreign or block.leaving:
            # A block that vanished, or of the other kind: nobody gets its addresses again.
            self.total -= 1
            if block.leaving and block.assigned == 0:
                self.drop_block(block)
            return assignment
        if block.assigned == 0:
            self.blocks_free += 1
        self.start_cooling(slot, Instant(now + self.cooldown_s))
        self.available += self._counts_cooling
        return assignment

    def start_cooling(self, slot: Slot, until: Instant) -> None:
        """Let an address cool until that instant; releases come in order of time."""
        slot.until = until
        slot.block.cooling += 1
        slot.block.eni.cooling += 1
        self.cooling += 1
        self._cooling.append(slot)
        if self.thaw_at == inf:
            self.thaw_at = until

    def _mark_ready(self, shelf: Shelf) -> None:
        eni = shelf.eni
        shelves = eni.shelves
        if not shelves.ready:
            self._places.ready |= eni.bit
            if not self._shuffles:
                self._levels[eni.assigned] |= eni.bit
                self._lowest_level = min(self._lowest_level, eni.assigned)
        shelves.ready |= shelf.bit

    def _mark_empty(self, shelf: Shelf) -> None:
        eni = shelf.eni
        shelves = eni.shelves
        if not shelves.ready & shelf.bit:
            return
        shelves.ready &= ~shelf.bit
        if not shelves.ready:
            self._places.ready &= ~eni.bit
            if not self._shuffles:
                self._levels[eni.assigned] &= ~eni.bit

    # After a restart.

    def restore(self, assignment: Assignment) -> str | None:
        """Give a sandbox the address it held before a restart; tell what is wrong, or None."""
        if assignment.sandbox in self.held:
            return f"{assignment.sandbox} is listed twice: its second address is dropped"
        slot = self._slot_of(assignment.address)
        if slot is None:
            return f"{assignment.address} is on no attached ENI: its assignment is dropped"
        if slot.assignment is not None:
            return f"{assignment.address} is listed for two sandboxes: the second is dropped"
        if slot.block.foreign:
            slot.assignment = assignment
            slot.block.assigned += 1
            slot.block.eni.assigned += 1
            self.assigned += 1
            self.total += 1
            self.held[assignment.sandbox] = slot
            return None
        shelf = slot.block.shelf
        assert shelf is not None
        shelf.slots.remove(slot)
        self._hand_out(slot, shelf, assignment.sandbox, assignment.since)
        return None

    def restore_cooling(self, address: IPv4Address, until: Instant) -> None:
        """Let an address cool on after a restart; call in order of `until`."""
        slot = self._slot_of(address)
        if slot is None or slot.assignment is not None or slot.block.foreign:
            return
        shelf = slot.block.shelf
        assert shelf is not None
        shelf.slots.remove(slot)
        if not shelf.slots:
            self._mark_empty(shelf)
        self.free -= 1
        if not self._counts_cooling:
            self.available -= 1
        self.start_cooling(slot, until)

    def _slot_of(self, address: IPv4Address) -> Slot | None:
        """Find an address by its block; a foreign block makes its slot when it is needed."""
        for eni in self.enis.values():
            for block in eni.blocks.values():
                if address in block.block:
                    for slot in block.slots:
                        if slot.address == address:
                            return slot
                    slot = Slot(address, block)
                    block.slots.append(slot)
                    return slot
        return None

    # Looking.

    def counts(self, now: Instant) -> PoolCounts:
        """Return the pool in numbers at an instant, up to which it has been thawed."""
        soon = 0 if self._counts_cooling else self.soon_free(now)
        return PoolCounts(
            addresses_total=self.total,
            assigned=self.assigned,
            cooling=self.cooling,
            available=self.available + soon,
            blocks_total=self.blocks_total,
            blocks_free=self.blocks_free,
            addresses_per_block=self.per_block,
            blocks_per_eni=self.blocks_per_eni,
            enis=sum(not eni.leaving for eni in self.enis.values()),
        )

    def size(self) -> PoolSize:
        """Return how much there is, in use or not."""
        blocks = sum(len(eni.blocks) for eni in self.enis.values())
        addresses = blocks * self.per_block
        if self.foreign:
            addresses = sum(1 << (32 - b.prefixlen) for e in self.enis.values() for b in e.blocks)
        return PoolSize(len(self.enis), blocks, addresses)

    @property
    def stranded(self) -> tuple[int, int]:
        """ENIs and addresses that EC2 does not show any more while sandboxes hold them."""
        enis = {block.eni.eni_id for block in self._orphans if block.eni.leaving}
        return len(enis), sum(block.assigned for block in self._orphans)

    def rest(self, blocks: int) -> PoolCounts:
        """Return the counts if an ENI with so many blocks, none of them in use, went."""
        size = blocks * self.per_block
        return PoolCounts(
            addresses_total=self.total - size,
            assigned=self.assigned,
            cooling=self.cooling,
            available=self.available - size,
            blocks_total=self.blocks_total - blocks,
            blocks_free=self.blocks_free - blocks,
            addresses_per_block=self.per_block,
            blocks_per_eni=self.blocks_per_eni,
            enis=sum(not eni.leaving for eni in self.enis.values()) - 1,
        )

    def check(self) -> None:
        """Recompute every count and mark from the slots; AssertionError names the first lie."""
        blocks = [block for eni in self.enis.values() for block in eni.blocks.values()]
        serving = [block for block in blocks if not block.foreign and not block.leaving]
        slots = [slot for block in blocks for slot in block.slots]
        held = [slot for slot in slots if slot.assignment is not None]
        cooling = [slot for slot in slots if slot.until > -inf]
        shelved = [slot for block in serving for slot in block.slots]
        free = [slot for slot in shelved if slot.assignment is None and slot.until == -inf]
        strangers = sum(slot.block.foreign or slot.block.leaving for slot in held)
        _same("assigned", self.assigned, len(held))
        _same("held", len(self.held), len(held))
        _same("cooling", self.cooling, len(cooling))
        _same("cooling queue", len(self._cooling), len(cooling))
        _same("free", self.free, len(free))
        _same("total", self.total, len(shelved) + strangers)
        _same("balance", self.total, self.assigned + self.cooling + self.free)
        _same("blocks_total", self.blocks_total, len(serving))
        held_addresses = sum(block.block.num_addresses for block in blocks)
        _same("size", self.size(), PoolSize(len(self.enis), len(blocks), held_addresses))
        _same("foreign", self.foreign, sum(block.foreign for block in blocks))
        _same("blocks_free", self.blocks_free, sum(b.assigned == 0 for b in serving))
        counted = len(cooling) if self._counts_cooling else 0
        _same("available", self.available, len(free) + counted)
        _same("addresses", len({slot.address for slot in slots}), len(slots))
        for sandbox, slot in self.held.items():
            assert slot.assignment is not None, sandbox
            _same("sandbox", slot.assignment.sandbox, sandbox)
        for eni in self.enis.values():
            self._check_eni(eni)

    def _check_eni(self, eni: PooledEni) -> None:
        blocks = list(eni.blocks.values())
        serving = sum(not block.foreign and not block.leaving for block in blocks)
        _same(f"{eni.eni_id} serving", eni.serving, serving)
        _same(f"{eni.eni_id} assigned", eni.assigned, sum(b.assigned for b in blocks))
        _same(f"{eni.eni_id} cooling", eni.cooling, sum(b.cooling for b in blocks))
        for block in blocks:
            held = sum(slot.assignment is not None for slot in block.slots)
            _same(f"{block.block} assigned", block.assigned, held)
        for shelf in eni.shelves:
            ready = bool(eni.shelves.ready & shelf.bit)
            _same(f"{eni.eni_id} shelf {shelf.place}", ready, bool(shelf.slots))
        ready = bool(self._places.ready & eni.bit)
        _same(f"{eni.eni_id} ready", ready, bool(eni.shelves.ready))
        if not self._shuffles:
            marks = [n for n, mask in enumerate(self._levels) if mask & eni.bit]
            _same(f"{eni.eni_id} level", marks, [eni.assigned] if ready else [])


def _same(what: str, kept: object, counted: object) -> None:
    assert kept == counted, f"{what}: kept {kept}, counted {counted}"


def eni_as_attached(eni: PooledEni) -> AttachedEni:
    """Return the ENI as a value, blocks in order of address."""
    return AttachedEni(eni.eni_id, eni.device_index, eni.primary_ip, tuple(sorted(eni.blocks)))


def free_blocks(eni: PooledEni, *, spare_cooling: bool) -> Iterator[PooledBlock]:
    """Yield blocks of an ENI that no sandbox holds an address of, newest first."""
    for block in reversed(eni.blocks.values()):
        if not block.leaving and block.assigned == 0:
            if spare_cooling and block.cooling:
                continue
            yield block
