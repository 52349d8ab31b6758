"""What the pool is made of: addresses, the shelves they wait on, blocks and ENIs.

Plain holders of state for `pool.py`, which alone changes them.
"""

from collections import deque
from ipaddress import IPv4Address
from math import inf

from cni.allocator.model import Assignment, AttachedEni, Block, Instant
from cni.allocator.places import Places


class Slot:
    """One address: who holds it, or until when it cools."""

    __slots__ = ("address", "assignment", "block", "until")

    def __init__(self, address: IPv4Address, block: "PooledBlock") -> None:
        """Start free."""
        self.address = address
        self.block = block
        self.assignment: Assignment | None = None
        self.until = -inf


class Shelf:
    """A queue of free addresses at a place of an ENI."""

    __slots__ = ("bit", "eni", "place", "slots")

    def __init__(self, eni: "PooledEni", place: int) -> None:
        """Start empty."""
        self.eni = eni
        self.place = place
        self.bit = 1 << place
        self.slots: deque[Slot] = deque()


class PooledBlock:
    """A block on an ENI. A foreign one, of the kind this node does not ask for, serves nobody."""

    __slots__ = ("assigned", "block", "cooling", "eni", "foreign", "leaving", "shelf", "slots")

    def __init__(self, block: Block, eni: "PooledEni", *, foreign: bool) -> None:
        """Start without a sandbox."""
        self.block = block
        self.eni = eni
        self.foreign = foreign
        self.leaving = False
        self.assigned = 0
        self.cooling = 0
        self.shelf: Shelf | None = None
        self.slots: list[Slot] = []


class PooledEni:
    """An attached ENI: its blocks, and what is being done to it."""

    __slots__ = (
        "assigned",
        "attached_at",
        "bit",
        "blocks",
        "busy",
        "capacity",
        "cooling",
        "device_index",
        "eni_id",
        "leaving",
        "place",
        "primary_ip",
        "serving",
        "shelves",
        "suspect",
    )

    def __init__(self, eni: AttachedEni, attached_at: Instant, capacity: int) -> None:
        """Start without blocks."""
        self.eni_id = eni.eni_id
        self.device_index = eni.device_index
        self.primary_ip = eni.primary_ip
        self.attached_at = attached_at
        self.capacity = capacity
        self.blocks: dict[Block, PooledBlock] = {}
        self.shelves: Places[Shelf] = Places()
        self.assigned = 0
        self.cooling = 0
        self.serving = 0
        """Blocks in service: neither foreign nor leaving."""
        self.leaving = False
        self.busy = 0
        """Id of the action in flight on this ENI; 0 is none."""
        self.suspect = False
        """EC2 may see it differently: describe it before anything else is done to it."""
        self.place = -1
        self.bit = 0

    @property
    def room(self) -> int:
        """Blocks that can still be added."""
        return max(self.capacity - len(self.blocks), 0)

    @property
    def is_primary(self) -> bool:
        """Whether it is the instance's own ENI, which is never detached."""
        return self.device_index == 0
