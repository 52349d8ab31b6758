"""What the daemon shows of itself: plain values, taken at one instant, changed by nobody.

Metrics and introspection read these alone, so that neither needs to know the allocator, and
looking costs the ADD path nothing: a look is taken when somebody asks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol

from cni.allocator.actions import CloudAction
from cni.allocator.model import (
    Assignment,
    AttachedEni,
    Block,
    BlockKind,
    EniId,
    NodeLimits,
    PoolCounts,
)
from cni.daemon.health import Health
from cni.settings import Settings


@dataclass(frozen=True, slots=True)
class PoolLook:
    """The pool at one instant.

    `taken` counts the device indices of ENIs that are not ours to manage, `waiting` the ADDs in
    line, `holdings` the entries of the ledger. `subnets` names each ENI's subnet and
    `free_in_subnets` counts what EC2 last said is free there; both hold what is known.
    """

    counts: PoolCounts
    limits: NodeLimits
    kind: BlockKind
    enis: tuple[AttachedEni, ...]
    assignments: tuple[Assignment, ...]
    taken: int = 0
    waiting: int = 0
    holdings: int = 0
    in_doubt: bool = False
    """Whether EC2 may differ from this, and is to be asked."""

    subnets: Mapping[EniId, str] = field(default_factory=dict)
    free_in_subnets: Mapping[str, int] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """Addresses that an ADD can have now."""
        return self.counts.addresses_total - self.counts.assigned - self.counts.cooling

    @property
    def leaving(self) -> int:
        """Addresses on our ENIs that no ADD can have any more: their block is about to go."""
        attached = sum(block.num_addresses for eni in self.enis for block in eni.blocks)
        return max(attached - self.counts.addresses_total, 0)

    @property
    def enis_max(self) -> int:
        """ENIs the node can have of ours."""
        return self.limits.enis - self.taken

    @property
    def addresses_max(self) -> int:
        """Addresses the node can have on them."""
        return self.enis_max * self.limits.blocks_per_eni * self.kind.addresses


@dataclass(frozen=True, slots=True)
class PodLook:
    """Who holds an address; names are empty where the runtime told none."""

    namespace: str
    name: str
    address: IPv4Address
    eni_id: EniId
    device_index: int
    network: str
    ifname: str
    host_link: str
    since_unix: float


@dataclass(frozen=True, slots=True)
class ActionsLook:
    """Actions whose outcome is still to come, oldest first; and the last outcomes, newest last."""

    in_flight: tuple[CloudAction, ...]
    last: tuple[str, ...]


class Looks(Protocol):
    """Who can be looked at: the daemon's agent. Called on its event loop; none of it waits."""

    def pool(self) -> PoolLook:
        """Return the pool with its ENIs."""
        ...

    def pods(self) -> tuple[PodLook, ...]:
        """Return who holds an address, oldest first."""
        ...

    def settings(self) -> Settings:
        """Return the settings in effect."""
        ...

    def actions(self) -> ActionsLook:
        """Return what is asked of EC2 and what became of it."""
        ...

    def health(self) -> Health:
        """Return what a probe is to be told."""
        ...


def assigned_by_block(look: PoolLook) -> dict[Block, list[Assignment]]:
    """Sort the assignments by the block of their address; every block of the pool has its list.

    Numbers are compared, not networks: a node may hold more than 700 blocks, and this runs on
    the event loop with every scrape.
    """
    by_block: dict[Block, list[Assignment]] = {}
    by_number: dict[tuple[int, int], list[Assignment]] = {}
    for eni in look.enis:
        for block in eni.blocks:
            held = by_block.setdefault(block, [])
            by_number[int(block.network_address), block.prefixlen] = held
    masks = {length: -1 << (32 - length) for _, length in by_number}
    for assignment in look.assignments:
        number = int(assignment.address)
        for length, mask in masks.items():
            held_there = by_number.get((number & mask, length))
            if held_there is not None:
                held_there.append(assignment)
                break
    return by_block
