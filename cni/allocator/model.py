"""The values of the allocator: what a node has, and who holds what.

Nothing here decides or performs. Every value is immutable, so that it can cross threads,
be journalled, and be compared in tests.
"""

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple, NewType

Instant = NewType("Instant", float)
"""Seconds on the driver's monotonic clock; dies with its process."""

EniId = NewType("EniId", str)

Block = IPv4Network
"""What EC2 adds to an ENI in one piece: a secondary IP (/32) or a prefix (/28)."""


class BlockKind(Enum):
    """The kind of block a node asks for; the value is the length of its network mask."""

    SECONDARY_IP = 32
    PREFIX = 28

    @property
    def addresses(self) -> int:
        """Addresses in one block: 1 or 16; all of them can be held by sandboxes.

        >>> BlockKind.PREFIX.addresses
        16
        """
        return 1 << (32 - self.value)


class SandboxKey(NamedTuple):
    """What a runtime attaches, as the CNI names it: the same key is the same sandbox.

    A named tuple, as `Assignment` is: every pod makes one of each and looks its key up four
    times, and a tuple costs a third of a frozen dataclass to make and a quarter to hash.
    """

    network: str
    container_id: str
    ifname: str


@dataclass(frozen=True, slots=True)
class AttachedEni:
    """An ENI as EC2 shows it on this node; blocks do not include the primary address."""

    eni_id: EniId
    device_index: int
    primary_ip: IPv4Address
    blocks: tuple[Block, ...]


class Assignment(NamedTuple):
    """One address held by one sandbox, since an instant of the driver's clock."""

    sandbox: SandboxKey
    address: IPv4Address
    eni_id: EniId
    device_index: int
    since: Instant


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """What the instance type (and MAX_ENI, and the kubelet) allow.

    `enis` counts the primary ENI; `blocks_per_eni` is the addresses per ENI less the primary
    one, in both modes (a prefix takes the slot of one secondary IP); `pods` is max-pods.
    """

    enis: int
    blocks_per_eni: int
    pods: int


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """The pool in numbers, at one instant; unmanaged ENIs and ENI primaries are not in it.

    `available` is what the warm target sees: addresses no sandbox holds, with or without the
    cooling ones as the behaviour says. `blocks_free` are blocks of which no sandbox holds an
    address.
    """

    addresses_total: int
    assigned: int
    cooling: int
    available: int
    blocks_total: int
    blocks_free: int
    addresses_per_block: int
    blocks_per_eni: int
    enis: int


class PoolSize(NamedTuple):
    """What a node holds, whoever uses it: ENIs, blocks on them, and addresses in these.

    ENI primaries are not among the addresses; blocks of the other kind, and those about to
    leave, are.
    """

    enis: int
    blocks: int
    addresses: int
