"""A daemon to look at: one that says what a test has put into it."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from cni.allocator.actions import CloudAction
from cni.allocator.model import (
    Assignment,
    AttachedEni,
    BlockKind,
    EniId,
    Instant,
    NodeLimits,
    PoolCounts,
    SandboxKey,
)
from cni.daemon.health import Health
from cni.daemon.looks import ActionsLook, PodLook, PoolLook
from cni.settings import Settings

FIRST = EniId("eni-0a")
SECOND = EniId("eni-0b")


def an_eni(eni_id: EniId, index: int, *blocks: str) -> AttachedEni:
    """Return an ENI with these blocks."""
    primary = IPv4Address(f"10.0.{index}.1")
    return AttachedEni(eni_id, index, primary, tuple(map(IPv4Network, blocks)))


def an_assignment(name: str, address: str, eni_id: EniId, index: int) -> Assignment:
    """Return the address of a container."""
    key = SandboxKey("aws-cni", name, "eth0")
    return Assignment(key, IPv4Address(address), eni_id, index, Instant(1.0))


def a_pool(
    enis: tuple[AttachedEni, ...] = (),
    assignments: tuple[Assignment, ...] = (),
    *,
    kind: BlockKind = BlockKind.SECONDARY_IP,
    total: int | None = None,
    cooling: int = 0,
    **more: object,
) -> PoolLook:
    """Return a pool whose counts fit its ENIs and assignments, unless told otherwise."""
    blocks = [block for eni in enis for block in eni.blocks]
    addresses = sum(block.num_addresses for block in blocks) if total is None else total
    counts = PoolCounts(
        addresses_total=addresses,
        assigned=len(assignments),
        cooling=cooling,
        available=addresses - len(assignments) - cooling,
        blocks_total=len(blocks),
        blocks_free=0,
        addresses_per_block=kind.addresses,
        blocks_per_eni=9,
        enis=len(enis),
    )
    limits = NodeLimits(enis=3, blocks_per_eni=9, pods=29)
    return PoolLook(counts, limits, kind, enis, assignments, **more)  # type: ignore[arg-type]


def a_pod(name: str, address: str, eni_id: EniId, index: int) -> PodLook:
    """Return a pod of the namespace `default`."""
    where = IPv4Address(address)
    return PodLook(
        "default", name, where, eni_id, index, "aws-cni", "eth0", "eni1234567890a", 1_700_000_000.5
    )


WELL = Health(live=True, ready=True, reasons=())


@dataclass
class LookedAt:
    """Stands where the daemon's agent stands."""

    the_pool: PoolLook = field(default_factory=a_pool)
    the_pods: tuple[PodLook, ...] = ()
    the_settings: Settings = field(default_factory=Settings)
    in_flight: tuple[CloudAction, ...] = ()
    last: tuple[str, ...] = ()
    the_health: Health = WELL
    breaks: bool = False

    def pool(self) -> PoolLook:
        if self.breaks:
            raise RuntimeError
        return self.the_pool

    def pods(self) -> tuple[PodLook, ...]:
        return self.the_pods

    def settings(self) -> Settings:
        return self.the_settings

    def actions(self) -> ActionsLook:
        return ActionsLook(self.in_flight, self.last)

    def health(self) -> Health:
        return self.the_health
