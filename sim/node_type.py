"""What kind of node: an instance type by name, or limits given by hand.

Limits come from `instance_limits`; what the kubelet keeps for itself, and how many pods it
allows, follow the rules of EKS's own node images.
"""

from dataclasses import dataclass

import instance_limits
from cni.allocator.model import BlockKind
from sim.vpc import InstanceShape


@dataclass(frozen=True, slots=True)
class NodeType:
    """An instance type as far as it matters here; 0 vCPUs or MiB: not known, no limit."""

    name: str
    enis: int
    ipv4_per_eni: int
    prefixes_allowed: bool = True
    vcpus: int = 0
    memory_mib: int = 0

    @property
    def shape(self) -> InstanceShape:
        """What EC2 enforces."""
        return InstanceShape(self.enis, self.ipv4_per_eni, self.prefixes_allowed)

    def addresses(self, kind: BlockKind) -> int:
        """Addresses pods can have at most, over all ENIs.

        >>> NodeType("t3.small", 3, 4).addresses(BlockKind.PREFIX)
        144
        """
        return self.enis * (self.ipv4_per_eni - 1) * kind.addresses

    def max_pods(self, kind: BlockKind) -> int:
        """Return the kubelet's max-pods as EKS sets it, host-network pods included."""
        return instance_limits.max_pods(
            self.addresses(kind), self.vcpus, prefix_mode=kind is BlockKind.PREFIX
        )

    def allocatable_cpu_m(self) -> int:
        """CPU left for pods, millicores: EKS keeps 6 % of the first core, then less and less."""
        kept = sum(
            share
            for core in range(self.vcpus)
            for share in [60.0 if core == 0 else 10.0 if core == 1 else 5.0 if core < 4 else 2.5]  # noqa: PLR2004 - the steps of that rule
        )
        return int(self.vcpus * 1000 - kept)

    def allocatable_memory_mib(self, max_pods: int) -> int:
        """Memory left for pods, MiB: EKS keeps 255 MiB, 11 for each pod, and 100 for evictions."""
        return max(self.memory_mib - 255 - 11 * max_pods - 100, 0) if self.memory_mib else 0


def named(instance_type: str) -> NodeType:
    """Look an instance type up; raises UnknownInstanceType with near matches."""
    limits = instance_limits.get(instance_type)
    return NodeType(
        name=limits.instance_type,
        enis=limits.enis,
        ipv4_per_eni=limits.ipv4_per_eni,
        prefixes_allowed=limits.prefixes,
        vcpus=limits.vcpus or 0,
        memory_mib=limits.memory_mib or 0,
    )


def explicit(max_enis: int, ips_per_eni: int) -> NodeType:
    """Take limits given by hand; `ips_per_eni` counts the primary address; prefixes are allowed.

    Raises ValueError for limits no instance type can have.
    """
    if not 1 <= max_enis <= 128:  # noqa: PLR2004 - EC2's device indices end at 127
        raise ValueError(f"--max-enis {max_enis}: allowed are 1 to 128")
    if not 2 <= ips_per_eni <= 256:  # noqa: PLR2004 - EC2's largest types have 64
        raise ValueError(f"--ips-per-eni {ips_per_eni}: allowed are 2 to 256, primary included")
    return NodeType(f"{max_enis} ENIs x {ips_per_eni} addresses", max_enis, ips_per_eni)
