"""ENIs, instances, subnets and instance types in the shape in which EC2 describes them.

Plain dictionaries with EC2's own names, which moto's serializer turns into EC2's XML. Filters
and pages are here too, since they read these shapes.
"""

import base64
import binascii
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any

import instance_limits
from sim.ec2_error import Ec2Error
from sim.lab.account import LabAccount, LabInstance
from sim.vpc import EniDescription, SubnetDescription

Shape = dict[str, Any]

PAGE_MIN, PAGE_MAX = 5, 1000
"""What MaxResults may be for DescribeNetworkInterfaces (EC2 API reference)."""

_RUNNING = {"Code": 16, "Name": "running"}


def eni_shape(account: LabAccount, interface: EniDescription, now: float) -> Shape:
    """Describe an ENI as DescribeNetworkInterfaces does."""
    note, facts = account.note(interface.eni_id), account.facts
    singles = [block for block in interface.blocks if block.prefixlen == 32]  # noqa: PLR2004 - a /32
    prefixes = [block for block in interface.blocks if block.prefixlen < 32]  # noqa: PLR2004 - as above
    addresses = (interface.primary_ip, *(block.network_address for block in singles))
    shape: Shape = {
        "NetworkInterfaceId": interface.eni_id,
        "SubnetId": interface.subnet_id,
        "VpcId": facts.vpc_id,
        "AvailabilityZone": zone_of(account, interface.subnet_id),
        "Description": note.description,
        "OwnerId": facts.owner_id,
        "RequesterManaged": False,
        "SourceDestCheck": True,
        "InterfaceType": note.interface_type,
        "Status": "available" if interface.attachment is None else "in-use",
        "MacAddress": note.mac,
        "PrivateIpAddress": str(interface.primary_ip),
        "PrivateIpAddresses": [
            {"PrivateIpAddress": str(address), "Primary": number == 0}
            for number, address in enumerate(addresses)
        ],
        "Groups": [{"GroupId": group, "GroupName": group} for group in note.groups],
        "TagSet": tag_shapes(account.tags_of(interface.eni_id)),
    }
    if prefixes:
        shape["Ipv4Prefixes"] = [{"Ipv4Prefix": str(block)} for block in prefixes]
    if interface.attachment is not None:
        shape["Attachment"] = attachment_shape(account, interface, now)
    return shape


def attachment_shape(account: LabAccount, interface: EniDescription, now: float) -> Shape:
    """Describe how an ENI hangs on its instance, and whether it is still coming or going."""
    attachment, note = interface.attachment, account.note(interface.eni_id)
    assert attachment is not None
    status = "attaching" if now < note.link_at else "attached"
    return {
        "AttachmentId": attachment.attachment_id,
        "AttachTime": datetime.fromtimestamp(note.attached_at, UTC),
        "DeleteOnTermination": attachment.delete_on_termination,
        "DeviceIndex": attachment.device_index,
        "NetworkCardIndex": 0,
        "InstanceId": attachment.instance_id,
        "InstanceOwnerId": account.facts.owner_id,
        "Status": "detaching" if attachment.gone_at < inf else status,
    }


def instance_shape(account: LabAccount, instance: LabInstance, now: float) -> Shape:
    """Describe an instance as DescribeInstances does, with all its ENIs."""
    enis = account.vpc.interfaces_of(instance.instance_id, now)
    return {
        "InstanceId": instance.instance_id,
        "InstanceType": instance.type.name,
        "State": _RUNNING,
        "PrivateIpAddress": str(enis[0].primary_ip),
        "SubnetId": instance.subnet_id,
        "VpcId": account.facts.vpc_id,
        "Placement": {"AvailabilityZone": instance.zone},
        "SecurityGroups": [{"GroupId": group, "GroupName": group} for group in instance.groups],
        "NetworkInterfaces": [eni_shape(account, eni, now) for eni in enis],
        "Tags": tag_shapes(account.tags_of(instance.instance_id)),
    }


def subnet_shape(account: LabAccount, subnet: SubnetDescription) -> Shape:
    """Describe a subnet as DescribeSubnets does."""
    return {
        "SubnetId": subnet.subnet_id,
        "VpcId": account.facts.vpc_id,
        "CidrBlock": str(subnet.cidr),
        "AvailabilityZone": account.facts.zone(subnet.zone),
        "AvailableIpAddressCount": subnet.free,
        "OwnerId": account.facts.owner_id,
        "State": "available",
        "Tags": tag_shapes(account.tags_of(subnet.subnet_id)),
    }


def type_shape(name: str) -> Shape:
    """Describe an instance type as DescribeInstanceTypes does, as far as limits go."""
    try:
        limits = instance_limits.get(name)
    except instance_limits.UnknownInstanceType as error:
        raise Ec2Error(
            "InvalidInstanceType", f"The following supplied instance types do not exist: [{name}]"
        ) from error
    cards = limits.sources[0].enis_by_card or (limits.enis,)
    return {
        "InstanceType": name,
        "BareMetal": limits.bare_metal,
        "Hypervisor": limits.hypervisor,
        "VCpuInfo": {"DefaultVCpus": limits.vcpus or 0},
        "MemoryInfo": {"SizeInMiB": limits.memory_mib or 0},
        "NetworkInfo": {
            "MaximumNetworkInterfaces": sum(cards),
            "MaximumNetworkCards": len(cards),
            "DefaultNetworkCardIndex": limits.default_network_card,
            "Ipv4AddressesPerInterface": limits.ipv4_per_eni,
            "NetworkCards": [
                {"NetworkCardIndex": number, "MaximumNetworkInterfaces": enis}
                for number, enis in enumerate(cards)
            ],
        },
    }


def tag_shapes(tags: Mapping[str, str]) -> list[Shape]:
    """List tags by key."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def zone_of(account: LabAccount, subnet_id: str) -> str:
    """Return the availability zone of a subnet."""
    (zone,) = (subnet.zone for subnet in account.vpc.subnets if subnet.subnet_id == subnet_id)
    return account.facts.zone(zone)


# Filters: name, and the values of a shape that it looks at. None: EC2 has no such filter.

_Values = Callable[[Shape], Iterable[object]]


def _of(*path: str) -> _Values:
    """Look at one value, which may not be there."""

    def values(shape: Shape) -> Iterable[object]:
        value: object = shape
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                return ()
            value = value[key]
        return (value,)

    return values


def _each(name: str, key: str) -> _Values:
    """Look at one value of each entry of a list."""
    return lambda shape: [entry[key] for entry in shape.get(name, ())]


ENI_FILTERS: Mapping[str, _Values] = {
    "addresses.private-ip-address": _each("PrivateIpAddresses", "PrivateIpAddress"),
    "attachment.attachment-id": _of("Attachment", "AttachmentId"),
    "attachment.device-index": _of("Attachment", "DeviceIndex"),
    "attachment.instance-id": _of("Attachment", "InstanceId"),
    "attachment.status": _of("Attachment", "Status"),
    "availability-zone": _of("AvailabilityZone"),
    "description": _of("Description"),
    "group-id": _each("Groups", "GroupId"),
    "interface-type": _of("InterfaceType"),
    "mac-address": _of("MacAddress"),
    "network-interface-id": _of("NetworkInterfaceId"),
    "private-ip-address": _of("PrivateIpAddress"),
    "status": _of("Status"),
    "subnet-id": _of("SubnetId"),
    "tag-key": _each("TagSet", "Key"),
    "vpc-id": _of("VpcId"),
}

SUBNET_FILTERS: Mapping[str, _Values] = {
    "availability-zone": _of("AvailabilityZone"),
    "cidr-block": _of("CidrBlock"),
    "state": _of("State"),
    "subnet-id": _of("SubnetId"),
    "tag-key": _each("Tags", "Key"),
    "vpc-id": _of("VpcId"),
}

INSTANCE_FILTERS: Mapping[str, _Values] = {
    "instance-id": _of("InstanceId"),
    "instance-state-name": _of("State", "Name"),
    "instance-type": _of("InstanceType"),
    "subnet-id": _of("SubnetId"),
    "tag-key": _each("Tags", "Key"),
    "vpc-id": _of("VpcId"),
}


def filtered(
    shapes: Iterable[Shape], filters: Sequence[Shape], known: Mapping[str, _Values]
) -> list[Shape]:
    """Keep what every filter lets through; the values of one filter are alternatives.

    `*` and `?` stand for any text and any character, as in EC2. Ec2Error for an unknown filter.
    """
    return [shape for shape in shapes if all(_passes(shape, each, known) for each in filters)]


def _passes(shape: Shape, each: Shape, known: Mapping[str, _Values]) -> bool:
    name: str = each["Name"]
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        tags: list[Shape] = shape.get("TagSet") or shape.get("Tags") or []
        found: Iterable[object] = [tag["Value"] for tag in tags if tag["Key"] == key]
    elif name in known:
        found = known[name](shape)
    else:
        raise Ec2Error("InvalidParameterValue", f"The filter '{name}' is invalid")
    texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in found]
    patterns = [_pattern(value) for value in each.get("Values", ())]
    return any(pattern.match(text) for text in texts for pattern in patterns)


def _pattern(value: str) -> re.Pattern[str]:
    """Compile a filter's value; square brackets mean nothing to EC2, unlike to a shell."""
    return re.compile(fnmatch.translate(value.replace("[", "[[]")))


def page_of(
    shapes: list[Shape], key: str, size: int | None, token: str | None
) -> tuple[list[Shape], str | None]:
    """Return one page of what is sorted by `key`, and the token of the next one.

    A token names the last entry shown, so that what is deleted meanwhile shifts no page.
    """
    if token is not None:
        after = _read_token(token)
        shapes = [shape for shape in shapes if shape[key] > after]
    if size is None:
        return shapes, None
    if not PAGE_MIN <= size <= PAGE_MAX:
        raise Ec2Error(
            "InvalidParameterValue",
            f"Value ( {size} ) for parameter maxResults is invalid. "
            f"Expecting a value between {PAGE_MIN} and {PAGE_MAX}.",
        )
    page = shapes[:size]
    if len(page) == len(shapes):
        return page, None
    return page, base64.urlsafe_b64encode(str(page[-1][key]).encode()).decode()


def _read_token(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Ec2Error("InvalidNextToken", f"The token '{token}' is invalid") from error
