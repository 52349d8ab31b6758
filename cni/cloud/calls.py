"""One EC2 or metadata request each, as values: a driver answers a call with a reply.

Class and field names follow EC2's API, so that counts by API name need no table. A call says
nothing of who makes it: the driver knows its own instance, subnet, security groups and tags.
Source of the calls and their order: amazon-vpc-cni-k8s `pkg/awsutils/awsutils.go`.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import ClassVar

from cni.allocator.actions import FailureReason
from cni.allocator.model import AttachedEni, Block, BlockKind, EniId


@dataclass(frozen=True, slots=True)
class DescribeSubnets:
    """Which subnets of this zone may take an ENI, with their free addresses."""

    api: ClassVar[str] = "DescribeSubnets"


@dataclass(frozen=True, slots=True)
class CreateNetworkInterface:
    """Create an ENI with `blocks` blocks of `kind` beside its primary address.

    The same `client_token` never makes a second ENI. `subnet_id` None: the subnet of the
    node's primary ENI.
    """

    api: ClassVar[str] = "CreateNetworkInterface"
    kind: BlockKind
    blocks: int
    client_token: str
    subnet_id: str | None = None


@dataclass(frozen=True, slots=True)
class DescribeInstances:
    """Which device indices of this instance are taken."""

    api: ClassVar[str] = "DescribeInstances"


@dataclass(frozen=True, slots=True)
class AttachNetworkInterface:
    """Attach an ENI to this instance at a device index."""

    api: ClassVar[str] = "AttachNetworkInterface"
    eni_id: EniId
    device_index: int


@dataclass(frozen=True, slots=True)
class ModifyNetworkInterfaceAttribute:
    """Set delete-on-termination on an attachment."""

    api: ClassVar[str] = "ModifyNetworkInterfaceAttribute"
    eni_id: EniId
    attachment_id: str


@dataclass(frozen=True, slots=True)
class AssignPrivateIpAddresses:
    """Add `count` blocks of `kind`, of EC2's choice: all of them or none."""

    api: ClassVar[str] = "AssignPrivateIpAddresses"
    eni_id: EniId
    kind: BlockKind
    count: int


@dataclass(frozen=True, slots=True)
class UnassignPrivateIpAddresses:
    """Give blocks of one kind back: all of them or none."""

    api: ClassVar[str] = "UnassignPrivateIpAddresses"
    eni_id: EniId
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class DescribeNetworkInterfaces:
    """Describe ENIs by id; an empty tuple means every ENI attached to this instance."""

    api: ClassVar[str] = "DescribeNetworkInterfaces"
    eni_ids: tuple[EniId, ...] = ()


@dataclass(frozen=True, slots=True)
class DetachNetworkInterface:
    """Detach an ENI from this instance, not forced."""

    api: ClassVar[str] = "DetachNetworkInterface"
    eni_id: EniId
    attachment_id: str


@dataclass(frozen=True, slots=True)
class DeleteNetworkInterface:
    """Delete a detached ENI; its addresses go back to the subnet."""

    api: ClassVar[str] = "DeleteNetworkInterface"
    eni_id: EniId


@dataclass(frozen=True, slots=True)
class ReadMetadata:
    """Which ENIs, with which blocks, the instance metadata shows: a lagging copy of EC2."""

    api: ClassVar[str] = "ReadMetadata"


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait in the driver's time: `seconds`, and a random share of up to `jitter` more."""

    api: ClassVar[str] = "Pause"
    seconds: float
    jitter: float = 0.0


Call = (
    DescribeSubnets
    | CreateNetworkInterface
    | DescribeInstances
    | AttachNetworkInterface
    | ModifyNetworkInterfaceAttribute
    | AssignPrivateIpAddresses
    | UnassignPrivateIpAddresses
    | DescribeNetworkInterfaces
    | DetachNetworkInterface
    | DeleteNetworkInterface
    | ReadMetadata
    | Pause
)

MUTATING: frozenset[str] = frozenset(
    call.api
    for call in (
        CreateNetworkInterface,
        AttachNetworkInterface,
        ModifyNetworkInterfaceAttribute,
        AssignPrivateIpAddresses,
        UnassignPrivateIpAddresses,
        DetachNetworkInterface,
        DeleteNetworkInterface,
    )
)
"""The APIs that change something, by name: the scarce ones, since an account shares their rate."""


@dataclass(frozen=True, slots=True)
class UsableSubnet:
    """A subnet that may take an ENI; `own` marks the one of the node's primary ENI.

    `free` is EC2's AvailableIpAddressCount, which tells nothing of whole /28s.
    """

    subnet_id: str
    free: int
    own: bool = False


@dataclass(frozen=True, slots=True)
class SubnetsDescribed:
    """The subnets of this zone that may take an ENI, the one with most free addresses first."""

    subnets: tuple[UsableSubnet, ...]


@dataclass(frozen=True, slots=True)
class InterfaceCreated:
    """A new ENI, not attached yet."""

    eni_id: EniId
    primary_ip: IPv4Address
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class InstanceDescribed:
    """Device indices that are taken on this instance, ascending."""

    device_indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InterfaceAttached:
    """The name of the attachment that detaching needs."""

    attachment_id: str


@dataclass(frozen=True, slots=True)
class BlocksAssigned:
    """The blocks that EC2 chose."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Interface:
    """An ENI as EC2 describes it; `attachment_id` is empty where it is detached."""

    eni: AttachedEni
    attachment_id: str


@dataclass(frozen=True, slots=True)
class InterfacesDescribed:
    """ENIs by device index; metadata and EC2 answer alike, each with its own age."""

    interfaces: tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The call took effect and has nothing to tell."""


Reply = (
    SubnetsDescribed
    | InterfaceCreated
    | InstanceDescribed
    | InterfaceAttached
    | BlocksAssigned
    | InterfacesDescribed
    | Done
)


class CallError(Exception):
    """A call failed for good: the SDK's own retries are used up."""

    def __init__(self, reason: FailureReason, code: str, message: str = "") -> None:
        """Carry the reason to act on, and EC2's code and message for people."""
        super().__init__(f"{code}: {message}" if message else code)
        self.reason = reason
        self.code = code
