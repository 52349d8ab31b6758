"""Node types: limits by name or by hand, and what the kubelet leaves to pods."""

import pytest

from cni.allocator.model import BlockKind
from sim.node_type import NodeType, explicit, named
from sim.vpc import InstanceShape


@pytest.mark.parametrize(
    "found",
    [
        NodeType("m5.large", 3, 10, prefixes_allowed=True, vcpus=2, memory_mib=8192),
        NodeType("m4.4xlarge", 8, 30, prefixes_allowed=False, vcpus=16, memory_mib=65536),
        NodeType("c5.xlarge", 4, 15, prefixes_allowed=True, vcpus=4, memory_mib=8192),
        NodeType("t3.small", 3, 4, prefixes_allowed=True, vcpus=2, memory_mib=2048),
    ],
    ids=lambda found: found.name,
)
def test_named(found: NodeType) -> None:
    """A type has EC2's limits, and takes prefixes where its hypervisor is Nitro."""
    assert named(found.name) == found
    assert found.shape == InstanceShape(found.enis, found.ipv4_per_eni, found.prefixes_allowed)


def test_unknown_types_name_near_ones() -> None:
    """A typing error is answered with types that look like it, and with the way out."""
    with pytest.raises(LookupError, match=r"m5\.large") as refusal:
        named("m5.larg")
    assert "--max-enis" in str(refusal.value.args[0])


@pytest.mark.parametrize(
    ("node_type", "kind", "pods"),
    [
        (NodeType("m5.large", 3, 10), BlockKind.SECONDARY_IP, 29),  # 3 x 9 + 2
        (NodeType("m4.4xlarge", 8, 30), BlockKind.SECONDARY_IP, 234),  # 8 x 29 + 2
        (NodeType("p3dn", 15, 50, vcpus=96), BlockKind.SECONDARY_IP, 737),
        (NodeType("t3.nano", 2, 2), BlockKind.PREFIX, 34),  # 2 x 16 + 2
        (NodeType("m5.large", 3, 10, vcpus=2), BlockKind.PREFIX, 110),
        (NodeType("c5.9xlarge", 8, 30, vcpus=30), BlockKind.PREFIX, 110),
        (NodeType("c5.18xlarge", 15, 50, vcpus=72), BlockKind.PREFIX, 250),
    ],
)
def test_max_pods(node_type: NodeType, kind: BlockKind, pods: int) -> None:
    """Max-pods is what eni-max-pods.txt says; with prefixes at most 110, or 250 above 30 vCPUs."""
    assert node_type.max_pods(kind) == pods


@pytest.mark.parametrize(
    ("vcpus", "left"),
    [
        (0, 0),
        (1, 940),  # 6 % of the first core,
        (2, 1930),  # 1 % of the second,
        (4, 3920),  # 0.5 % of the third and fourth,
        (16, 15890),  # and 0.25 % of all others.
    ],
)
def test_allocatable_cpu(vcpus: int, left: int) -> None:
    """EKS keeps a falling share of each core for itself."""
    assert NodeType("x", 3, 10, vcpus=vcpus).allocatable_cpu_m() == left


def test_allocatable_memory() -> None:
    """EKS keeps 255 MiB, 11 for each pod that may come, and 100 for evictions; never below 0."""
    node_type = NodeType("x", 3, 10, memory_mib=8192)

    assert node_type.allocatable_memory_mib(29) == 8192 - 255 - 11 * 29 - 100
    assert node_type.allocatable_memory_mib(5000) == 0
    assert NodeType("x", 3, 10).allocatable_memory_mib(29) == 0


def test_explicit() -> None:
    """Limits given by hand count the primary address, and prefixes are allowed."""
    node_type = explicit(3, 10)

    assert node_type.addresses(BlockKind.SECONDARY_IP) == 27
    assert node_type.addresses(BlockKind.PREFIX) == 27 * 16
    assert node_type.shape == InstanceShape(3, 10, prefixes_allowed=True)


@pytest.mark.parametrize(
    ("enis", "addresses", "option"),
    [
        (0, 10, "max-enis"),
        (129, 10, "max-enis"),
        (3, 1, "ips-per-eni"),
        (3, 257, "ips-per-eni"),
        (-1, 10, "max-enis"),
    ],
)
def test_impossible_limits_are_refused(enis: int, addresses: int, option: str) -> None:
    """The refusal names the option, the value and what is allowed."""
    with pytest.raises(ValueError, match=f"--{option} .*: allowed are"):
        explicit(enis, addresses)
