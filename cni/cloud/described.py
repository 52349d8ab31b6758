"""What EC2 describes, read into values: ENIs and which of them are ours, subnets, type limits.

PURE: from boto3's dictionaries to values, and decisions about values. A dictionary without
what it must have raises KeyError or ValueError: an answer that cannot be read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from cni.allocator.model import AttachedEni, Block, EniId
from cni.cloud.calls import Interface
from cni.cloud.tags import INSTANCE_ID, NO_MANAGE, SUBNET_CLUSTER, SUBNET_ROLE

Shape = Mapping[str, Any]

DETACHED = -1
"""The device index of an ENI that hangs on no instance."""


@dataclass(frozen=True, slots=True)
class DescribedEni:
    """An ENI as EC2 describes it.

    Detached, its `device_index` is -1 and the names of instance and attachment are empty.
    `primary_ip` is None for an ENI that has no IPv4 address at all, as one for EFA only.
    """

    eni_id: EniId
    status: str
    interface_type: str
    mac: str
    subnet_id: str
    description: str
    primary_ip: IPv4Address | None
    blocks: tuple[Block, ...]
    device_index: int
    network_card: int
    instance_id: str
    attachment_id: str
    attachment_status: str
    tags: Mapping[str, str] = field(hash=False)

    @property
    def interface(self) -> Interface:
        """The ENI in the words of recipes; an attachment that is going has no name any more.

        Raises ValueError where the ENI has no IPv4 address.
        """
        if self.primary_ip is None:
            raise ValueError(f"{self.eni_id} has no IPv4 address")
        eni = AttachedEni(self.eni_id, self.device_index, self.primary_ip, self.blocks)
        return Interface(eni, "" if self.attachment_status == "detaching" else self.attachment_id)


def eni_of(shape: Shape) -> DescribedEni:
    """Read one of DescribeNetworkInterfaces' or CreateNetworkInterface's ENIs."""
    attachment: Shape = shape.get("Attachment") or {}
    singles = (
        IPv4Network(each["PrivateIpAddress"])
        for each in shape.get("PrivateIpAddresses", ())
        if not each["Primary"]
    )
    prefixes = (IPv4Network(each["Ipv4Prefix"]) for each in shape.get("Ipv4Prefixes", ()))
    address = shape.get("PrivateIpAddress")
    return DescribedEni(
        eni_id=EniId(shape["NetworkInterfaceId"]),
        status=shape["Status"],
        interface_type=shape.get("InterfaceType", "interface"),
        mac=shape.get("MacAddress", ""),
        subnet_id=shape["SubnetId"],
        description=shape.get("Description", ""),
        primary_ip=None if address is None else IPv4Address(address),
        blocks=(*singles, *prefixes),
        device_index=attachment.get("DeviceIndex", DETACHED),
        network_card=attachment.get("NetworkCardIndex", 0),
        instance_id=attachment.get("InstanceId", ""),
        attachment_id=attachment.get("AttachmentId", ""),
        attachment_status=attachment.get("Status", ""),
        tags=tags_of(shape.get("TagSet", ())),
    )


def tags_of(tags: Iterable[Shape]) -> dict[str, str]:
    """Read a list of tags."""
    return {tag["Key"]: tag.get("Value", "") for tag in tags}


# Which ENIs are ours


class Standing(Enum):
    """What an ENI of this node is to the allocator."""

    MANAGED = "its addresses are for pods, and it may be changed"
    TAKEN = "it takes its device index and nothing more"
    ELSEWHERE = "it is on another network card, or on no instance"


def standing_of(eni: DescribedEni, instance_id: str, *, manages_untagged: bool) -> Standing:
    """Tell what an ENI of this node is; the primary one is managed whatever its tags say.

    Source: amazon-vpc-cni-k8s, ipamd.go:260 for the tags, awsutils.go for trunk and EFA.
    """
    if eni.network_card != 0 or eni.device_index == DETACHED:
        return Standing.ELSEWHERE
    if eni.device_index == 0 and eni.primary_ip is not None:
        return Standing.MANAGED
    # A pod must get no address of an ENI that is leaving, or of one whose addresses have
    # another owner: the trunk of branch ENIs, a device for EFA.
    leaving = eni.attachment_status == "detaching"
    if leaving or eni.primary_ip is None or eni.interface_type != "interface":
        return Standing.TAKEN
    if NO_MANAGE in eni.tags:
        ours = eni.tags[NO_MANAGE] != "true"
    else:
        ours = manages_untagged or eni.tags.get(INSTANCE_ID) == instance_id
    return Standing.MANAGED if ours else Standing.TAKEN


@dataclass(frozen=True, slots=True)
class NodeEnis:
    """The ENIs of this node, by device index; `taken` are indices of ENIs that are not ours."""

    managed: tuple[DescribedEni, ...]
    taken: frozenset[int]


def sort_out(enis: Iterable[DescribedEni], instance_id: str, *, manages_untagged: bool) -> NodeEnis:
    """Part the ENIs of a node into those that are managed and indices that are taken."""
    standings = [
        (eni, standing_of(eni, instance_id, manages_untagged=manages_untagged))
        for eni in sorted(enis, key=lambda eni: eni.device_index)
    ]
    return NodeEnis(
        tuple(eni for eni, standing in standings if standing is Standing.MANAGED),
        frozenset(eni.device_index for eni, standing in standings if standing is Standing.TAKEN),
    )


# Subnets


@dataclass(frozen=True, slots=True)
class DescribedSubnet:
    """A subnet of this zone; `free` is EC2's AvailableIpAddressCount."""

    subnet_id: str
    free: int
    tags: Mapping[str, str] = field(hash=False)


def subnet_of(shape: Shape) -> DescribedSubnet:
    """Read one of DescribeSubnets' subnets."""
    return DescribedSubnet(
        shape["SubnetId"], shape["AvailableIpAddressCount"], tags_of(shape.get("Tags", ()))
    )


def usable_subnets(
    subnets: Iterable[DescribedSubnet], primary_id: str, cluster_name: str
) -> tuple[str, ...]:
    """Choose the subnets that may take an ENI, the one with most free addresses first.

    One tagged `kubernetes.io/role/cni` = 0 never may; the primary ENI's else always; any other
    needs the tag and, where it names clusters, this one. Source: awsutils.go:1223, :1260.
    """
    usable = [subnet for subnet in subnets if _may_take(subnet, primary_id, cluster_name)]
    usable.sort(key=lambda subnet: (-subnet.free, subnet.subnet_id != primary_id, subnet.subnet_id))
    return tuple(subnet.subnet_id for subnet in usable)


def _may_take(subnet: DescribedSubnet, primary_id: str, cluster_name: str) -> bool:
    role = subnet.tags.get(SUBNET_ROLE)
    if role == "0":
        return False
    if subnet.subnet_id == primary_id:
        return True
    clusters = {key for key in subnet.tags if key.startswith(SUBNET_CLUSTER)}
    return role is not None and (not clusters or f"{SUBNET_CLUSTER}{cluster_name}" in clusters)


# Instance types


@dataclass(frozen=True, slots=True)
class TypeLimits:
    """What an instance type allows on its default network card; addresses count the primary."""

    instance_type: str
    enis: int
    ipv4_per_eni: int
    prefixes_allowed: bool


def limits_of(shape: Shape) -> TypeLimits:
    """Read one of DescribeInstanceTypes' types.

    MaximumNetworkInterfaces adds up all network cards, and a node uses one of them.
    """
    network: Shape = shape["NetworkInfo"]
    cards: list[Shape] = network.get("NetworkCards") or [{}]
    default = network.get("DefaultNetworkCardIndex", 0)
    enis = next(
        (
            card["MaximumNetworkInterfaces"]
            for card in cards
            if card.get("NetworkCardIndex", 0) == default and "MaximumNetworkInterfaces" in card
        ),
        network["MaximumNetworkInterfaces"],
    )
    return TypeLimits(
        shape["InstanceType"],
        enis,
        network["Ipv4AddressesPerInterface"],
        bool(shape.get("BareMetal")) or shape.get("Hypervisor") == "nitro",
    )
