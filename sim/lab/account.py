"""The lab's account: `sim/vpc.py`, and beside it what only a real client asks for.

Tags, descriptions, MAC addresses, security groups, instance types, and the lagging metadata
copy of each instance. Nothing here waits or knows HTTP; time is the argument `now`, in seconds.
"""

import base64
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

from cni.allocator.model import Block, BlockKind, EniId
from cni.cloud.calls import InterfacesDescribed
from sim.cloud_numbers import CloudNumbers
from sim.ec2_error import Ec2Error
from sim.metadata import MetadataCopy
from sim.node_type import NodeType
from sim.streams import Draws
from sim.vpc import EniDescription, Vpc

TAGS_MAX = 50
"""Tags on one resource (EC2 user guide, "Tag restrictions")."""


@dataclass(frozen=True, slots=True)
class LabVpc:
    """What EC2 says of the VPC itself."""

    cidrs: tuple[IPv4Network, ...]
    vpc_id: str = "vpc-0000000000000001a"
    region: str = "us-west-2"
    owner_id: str = "123456789012"
    default_group: str = "sg-0000000000000000d"

    def zone(self, subnet_zone: str) -> str:
        """Return the availability zone of a subnet; one without a name gets the region's first.

        >>> LabVpc(()).zone("")
        'us-west-2a'
        """
        return subnet_zone or f"{self.region}a"


@dataclass(frozen=True, slots=True)
class LabInstance:
    """A running instance; the metadata copy is what it is shown of its own ENIs."""

    instance_id: str
    type: NodeType
    subnet_id: str
    zone: str
    groups: tuple[str, ...]
    metadata: MetadataCopy = field(compare=False)

    @property
    def access_key(self) -> str:
        """The access key of its role: EC2 tells by it who calls."""
        name = base64.b32encode(self.instance_id.encode()).decode().rstrip("=")
        return f"ASIA{name}"


@dataclass(frozen=True, slots=True)
class EniNote:
    """What `sim/vpc.py` does not keep of an ENI; outlives it, because metadata lags behind."""

    mac: str
    subnet_id: str
    groups: tuple[str, ...]
    description: str = ""
    interface_type: str = "interface"
    attached_at: float = 0.0
    link_at: float = 0.0


@dataclass(frozen=True, slots=True)
class NewEni:
    """What CreateNetworkInterface asks for; an empty token is no token."""

    subnet_id: str
    kind: BlockKind
    blocks: int
    token: str
    groups: tuple[str, ...]
    description: str
    interface_type: str
    tags: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A link that appears on a node, or vanishes from it, at an instant."""

    at: float
    attached: bool
    instance_id: str
    interface: EniDescription
    mac: str


class LabAccount:
    """The one door to the lab's state; methods refuse with EC2's own codes (`Ec2Error`)."""

    def __init__(self, vpc: Vpc, facts: LabVpc, numbers: CloudNumbers, draws: Draws) -> None:
        """Take a VPC without instances: those are launched here."""
        self.vpc = vpc
        self.facts = facts
        self._numbers = numbers
        self._draws = draws
        self._instances: dict[str, LabInstance] = {}
        self._notes: dict[EniId, EniNote] = {}
        self._tags: dict[str, dict[str, str]] = {}
        self._made_by_token: dict[str, NewEni] = {}
        self._without_token = itertools.count(1)
        self._groups = {facts.default_group}
        self._changes: list[LinkChange] = []

    # Instances

    def launch(
        self,
        instance_id: str,
        node_type: NodeType,
        subnet_id: str,
        groups: tuple[str, ...],
        now: float,
    ) -> EniDescription:
        """Start an instance and return its primary ENI, which its metadata shows at once."""
        interface = self.vpc.launch_instance(instance_id, node_type.shape, subnet_id, now)
        groups = groups or (self.facts.default_group,)
        self._groups.update(groups)
        zone = self.facts.zone(self.vpc.zone_of(instance_id))
        instance = LabInstance(instance_id, node_type, subnet_id, zone, groups, MetadataCopy())
        self._instances[instance_id] = instance
        self._notes[interface.eni_id] = EniNote(
            mac_of(interface.eni_id), subnet_id, groups, attached_at=now, link_at=now
        )
        instance.metadata.note(interface, now, now)
        return interface

    def terminate(self, instance_id: str, now: float) -> None:
        """Stop an instance for good; ENIs without delete-on-termination stay behind."""
        self.vpc.terminate_instance(instance_id, now)
        del self._instances[instance_id]

    def instance(self, instance_id: str) -> LabInstance:
        """Return a running instance."""
        if instance_id not in self._instances:
            raise Ec2Error(
                "InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist"
            )
        return self._instances[instance_id]

    @property
    def instances(self) -> tuple[LabInstance, ...]:
        """The running instances, by id."""
        return tuple(instance for _, instance in sorted(self._instances.items()))

    def caller_of(self, access_key: str) -> str:
        """Return the instance whose credentials these are, or "" for anybody else's."""
        for instance in self._instances.values():
            if instance.access_key == access_key:
                return instance.instance_id
        return ""

    def metadata_of(self, instance_id: str, now: float) -> InterfacesDescribed:
        """Return the ENIs that the instance's metadata shows by now."""
        return self.instance(instance_id).metadata.read(now)

    # ENIs

    def create(self, new: NewEni, now: float) -> EniDescription:
        """Make an ENI, or return the one that the same token made before."""
        unknown = [group for group in new.groups if group not in self._groups]
        if unknown:
            raise Ec2Error(
                "InvalidGroup.NotFound", f"The security group '{unknown[0]}' does not exist"
            )
        token = new.token or f"without a token/{next(self._without_token)}"
        # EC2 compares the whole request, where `sim/vpc.py` knows only a part of it.
        if self._made_by_token.get(token, new) != new:
            raise Ec2Error(
                "IdempotentParameterMismatch",
                f"Client token '{token}' was used for another request",
            )
        interface = self.vpc.create_network_interface(
            new.subnet_id, new.kind, new.blocks, token, now
        )
        if interface.eni_id not in self._notes:
            self._made_by_token[token] = new
            self._notes[interface.eni_id] = EniNote(
                mac_of(interface.eni_id),
                new.subnet_id,
                new.groups or (self.facts.default_group,),
                new.description,
                new.interface_type,
            )
            self.tag((interface.eni_id,), new.tags, now)
        return interface

    def attach(self, eni_id: EniId, instance_id: str, device_index: int, now: float) -> str:
        """Attach an ENI; its link appears after a while, and the metadata shows it after that."""
        instance = self.instance(instance_id)
        attachment_id = self.vpc.attach_network_interface(eni_id, instance_id, device_index, now)
        delay = self._numbers.eni_visible.at(self._draws.uniform("visible"))
        link_at = now + delay * self._draws.uniform("link")
        interface = self.eni(eni_id, now)
        note = replace(self._notes[eni_id], attached_at=now, link_at=link_at)
        self._notes[eni_id] = note
        instance.metadata.note(interface, now + delay, now)
        self._changes.append(LinkChange(link_at, True, instance_id, interface, note.mac))
        return attachment_id

    def detach(self, eni_id: EniId, attachment_id: str, now: float) -> None:
        """Begin to detach an ENI; link, attachment and metadata go in this order."""
        before = self.eni(eni_id, now)
        shortest, longest = self._numbers.detach_min_s, self._numbers.detach_max_s
        gone_at = now + shortest + (longest - shortest) * self._draws.uniform("detach")
        self.vpc.detach_network_interface(eni_id, attachment_id, now, gone_at=gone_at)
        attachment = before.attachment
        assert attachment is not None
        if attachment.gone_at < float("inf"):
            return
        instance_id = attachment.instance_id
        self._instances[instance_id].metadata.forget(eni_id, gone_at + self._lag(), now)
        mac = self._notes[eni_id].mac
        self._changes.append(LinkChange(gone_at, False, instance_id, before, mac))

    def assign(self, eni_id: EniId, kind: BlockKind, count: int, now: float) -> tuple[Block, ...]:
        """Add blocks to an ENI, which the metadata shows later."""
        blocks = self.vpc.assign_private_ip_addresses(eni_id, kind, count, now)
        self._copy(eni_id, now)
        return blocks

    def unassign(self, eni_id: EniId, blocks: Iterable[Block], now: float) -> None:
        """Take blocks from an ENI, which the metadata shows later."""
        self.vpc.unassign_private_ip_addresses(eni_id, blocks, now)
        self._copy(eni_id, now)

    def describe(self, eni_id: EniId, text: str | None, groups: tuple[str, ...]) -> None:
        """Set an ENI's description, where there is one, and its groups, where there are any."""
        note = self._notes[eni_id]
        self._notes[eni_id] = replace(
            note,
            description=note.description if text is None else text,
            groups=groups or note.groups,
        )

    def eni(self, eni_id: EniId, now: float) -> EniDescription:
        """Describe one ENI."""
        (interface,) = self.vpc.describe_network_interfaces((eni_id,), now)
        return interface

    def enis(self, now: float) -> tuple[EniDescription, ...]:
        """Describe every ENI of the account, by id."""
        return tuple(self.eni(eni_id, now) for eni_id in sorted(self.vpc.eni_ids))

    def note(self, eni_id: EniId) -> EniNote:
        """Return what the lab knows beside the VPC, also of an ENI that is gone."""
        return self._notes[eni_id]

    def pop_link_changes(self) -> tuple[LinkChange, ...]:
        """Return the links that appear or vanish because of what was done since the last time."""
        changes = tuple(self._changes)
        self._changes.clear()
        return changes

    # Tags

    def tag(self, resource_ids: Iterable[str], tags: Mapping[str, str], now: float) -> None:
        """Add tags to ENIs, instances and subnets, all or none."""
        resource_ids = tuple(resource_ids)
        for resource_id in resource_ids:
            self._require(resource_id, now)
            if len(self.tags_of(resource_id) | dict(tags)) > TAGS_MAX:
                raise Ec2Error(
                    "TagLimitExceeded", f"The maximum number of Tags is {TAGS_MAX} per resource."
                )
        for key in tags:
            if key.startswith("aws:"):
                raise Ec2Error(
                    "InvalidParameterValue",
                    f"Tag keys starting with 'aws:' are reserved for internal use: {key}",
                )
        for resource_id in resource_ids:
            self._tags.setdefault(resource_id, {}).update(tags)

    def tags_of(self, resource_id: str) -> dict[str, str]:
        """Return a copy of the tags of a resource."""
        return dict(self._tags.get(resource_id, {}))

    def _require(self, resource_id: str, now: float) -> None:
        """Refuse an id that names nothing."""
        if resource_id.startswith("eni-"):
            self.eni(EniId(resource_id), now)
        elif resource_id.startswith("i-"):
            self.instance(resource_id)
        elif resource_id not in {subnet.subnet_id for subnet in self.vpc.subnets}:
            raise Ec2Error("InvalidID", f"The ID '{resource_id}' is not valid")

    # Inside

    def _copy(self, eni_id: EniId, now: float) -> None:
        interface = self.eni(eni_id, now)
        if interface.attachment is not None:
            instance = self._instances[interface.attachment.instance_id]
            instance.metadata.note(interface, now + self._lag(), now)

    def _lag(self) -> float:
        return self._numbers.copy_lag.at(self._draws.uniform("copy_lag"))


def mac_of(eni_id: EniId) -> str:
    """Return an ENI's MAC address: locally administered, and one for each id.

    >>> mac_of(EniId("eni-0000000000000012c"))
    '02:00:00:00:01:2c'
    """
    number = int(eni_id.removeprefix("eni-"), 16) & 0xFFFFFFFFFF
    return ":".join(f"{byte:02x}" for byte in (2, *number.to_bytes(5, "big")))
