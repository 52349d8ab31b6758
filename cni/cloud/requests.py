"""From a Call to the request that boto3 makes, and from boto3's answer to the Reply. PURE.

`Asker` is who asks: what a call does not say because every call of this node says the same.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from cni.allocator.model import Block, BlockKind, EniId
from cni.cloud import calls
from cni.cloud.calls import Call, Reply
from cni.cloud.described import Shape, eni_of, sort_out, subnet_of, usable_subnets
from cni.cloud.identity import Identity
from cni.cloud.options import Ec2Options
from cni.cloud.tags import CREATED_AT, description_of, timestamp, wanted_tags

TOKEN_LETTERS_MAX = 64
"""The length of a ClientToken (EC2 API reference, "Ensuring idempotency")."""

_COUNTS = {
    BlockKind.SECONDARY_IP: "SecondaryPrivateIpAddressCount",
    BlockKind.PREFIX: "Ipv4PrefixCount",
}


@dataclass(frozen=True, slots=True)
class Asker:
    """The node that asks, and what its user said."""

    identity: Identity
    options: Ec2Options

    @property
    def tags(self) -> dict[str, str]:
        """The tags that every managed ENI of this node has."""
        options = self.options
        return wanted_tags(self.identity.instance_id, options.cluster_name, options.additional_tags)


@dataclass(frozen=True, slots=True)
class Request:
    """One request by EC2's names: the action and its parameters."""

    api: str
    parameters: Mapping[str, Any]


def request_of(call: Call, asker: Asker, unix: float) -> Request:
    """Return the request for a call; `unix` is the time that a new ENI is tagged with.

    Raises ValueError for a call that is none to EC2.
    """
    return Request(call.api, _changing(call, asker, unix) or _describing(call, asker.identity))


def _changing(  # noqa: PLR0911 - a table with a row for each call
    call: Call, asker: Asker, unix: float
) -> dict[str, Any]:
    """Return the parameters of a call that changes something; none for any other."""
    match call:
        case calls.CreateNetworkInterface():
            return _creating(call, asker, unix)
        case calls.AttachNetworkInterface(eni_id, index):
            instance_id = asker.identity.instance_id
            place = {"InstanceId": instance_id, "DeviceIndex": index}
            return {"NetworkInterfaceId": eni_id, **place}
        case calls.ModifyNetworkInterfaceAttribute(eni_id, attachment_id):
            change = {"AttachmentId": attachment_id, "DeleteOnTermination": True}
            return {"NetworkInterfaceId": eni_id, "Attachment": change}
        case calls.AssignPrivateIpAddresses(eni_id, kind, count):
            return {"NetworkInterfaceId": eni_id, _COUNTS[kind]: count}
        case calls.UnassignPrivateIpAddresses(eni_id, blocks):
            return {"NetworkInterfaceId": eni_id, **_named(blocks)}
        case calls.DetachNetworkInterface(_, attachment_id):
            return {"AttachmentId": attachment_id}
        case calls.DeleteNetworkInterface(eni_id):
            return {"NetworkInterfaceId": eni_id}
        case _:
            return {}


def _describing(call: Call, identity: Identity) -> dict[str, Any]:
    """Return the parameters of a call that describes something."""
    match call:
        case calls.DescribeNetworkInterfaces(eni_ids) if eni_ids:
            return {"NetworkInterfaceIds": list(eni_ids)}
        case calls.DescribeNetworkInterfaces():
            return {"Filters": [only("attachment.instance-id", identity.instance_id)]}
        case calls.DescribeInstances():
            return {"InstanceIds": [identity.instance_id]}
        case calls.DescribeSubnets():
            where = only("vpc-id", identity.vpc_id), only("availability-zone", identity.zone)
            return {"Filters": list(where)}
        case _:
            raise ValueError(f"{call.api} is no request to EC2")


def only(name: str, value: str) -> dict[str, Any]:
    """Return a filter with one value."""
    return {"Name": name, "Values": [value]}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as EC2 takes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _creating(call: calls.CreateNetworkInterface, asker: Asker, unix: float) -> dict[str, Any]:
    identity = asker.identity
    tags = asker.tags | {CREATED_AT: timestamp(unix)}
    parameters: dict[str, Any] = {
        "SubnetId": call.subnet_id or identity.subnet_id,
        "Groups": list(identity.security_group_ids),
        "Description": description_of(identity.instance_id),
        "ClientToken": token_of(identity.instance_id, call.client_token),
        "TagSpecifications": [{"ResourceType": "network-interface", "Tags": tag_list(tags)}],
    }
    if call.blocks:
        parameters[_COUNTS[call.kind]] = call.blocks
    return parameters


def token_of(instance_id: str, token: str) -> str:
    """Return a ClientToken for the whole account, in which two nodes may well number alike.

    >>> token_of("i-1", "boot-7-4")
    'i-1/boot-7-4'
    """
    text = f"{instance_id}/{token}"
    return text if len(text) <= TOKEN_LETTERS_MAX else hashlib.sha256(text.encode()).hexdigest()


def _named(blocks: tuple[Block, ...]) -> dict[str, list[str]]:
    """Name blocks of one kind; EC2 wants the two kinds in requests of their own."""
    if all(block.prefixlen == BlockKind.SECONDARY_IP.value for block in blocks):
        return {"PrivateIpAddresses": [str(block.network_address) for block in blocks]}
    return {"Ipv4Prefixes": [str(block) for block in blocks]}


def reply_of(call: Call, answer: Shape, asker: Asker) -> Reply:  # noqa: PLR0911 - a table with a row for each call
    """Read EC2's answer to a call; KeyError or ValueError where it makes no sense."""
    match call:
        case calls.CreateNetworkInterface():
            eni = eni_of(answer["NetworkInterface"]).interface.eni
            return calls.InterfaceCreated(eni.eni_id, eni.primary_ip, eni.blocks)
        case calls.AttachNetworkInterface():
            return calls.InterfaceAttached(answer["AttachmentId"])
        case calls.AssignPrivateIpAddresses(_, kind):
            return calls.BlocksAssigned(_assigned(answer, kind))
        case calls.DescribeNetworkInterfaces(eni_ids):
            return _interfaces(eni_ids, answer, asker)
        case calls.DescribeInstances():
            return calls.InstanceDescribed(_indices(answer))
        case calls.DescribeSubnets():
            return _subnets(answer, asker)
        case _:
            return calls.Done()


def _assigned(answer: Shape, kind: BlockKind) -> tuple[Block, ...]:
    if kind is BlockKind.PREFIX:
        return tuple(IPv4Network(each["Ipv4Prefix"]) for each in answer["AssignedIpv4Prefixes"])
    addresses = answer["AssignedPrivateIpAddresses"]
    return tuple(IPv4Network(each["PrivateIpAddress"]) for each in addresses)


def _interfaces(
    eni_ids: tuple[EniId, ...], answer: Shape, asker: Asker
) -> calls.InterfacesDescribed:
    """Read ENIs: by id as they are, and of the node the managed ones only.

    An ENI that hangs on another instance is no business of ours: its attachment has no name.
    """
    enis = [eni_of(shape) for shape in answer["NetworkInterfaces"]]
    mine = asker.identity.instance_id
    if not eni_ids:
        enis = list(sort_out(enis, mine, manages_untagged=asker.options.manages_untagged).managed)
    enis.sort(key=lambda eni: eni.device_index)
    return calls.InterfacesDescribed(
        tuple(
            eni.interface if eni.instance_id == mine else calls.Interface(eni.interface.eni, "")
            for eni in enis
        )
    )


def _subnets(answer: Shape, asker: Asker) -> calls.SubnetsDescribed:
    """Read the subnets that may take an ENI."""
    subnets = [subnet_of(shape) for shape in answer["Subnets"]]
    free = {subnet.subnet_id: subnet.free for subnet in subnets}
    own = asker.identity.subnet_id
    usable = usable_subnets(subnets, own, asker.options.cluster_name)
    return calls.SubnetsDescribed(
        tuple(calls.UsableSubnet(name, free[name], own=name == own) for name in usable)
    )


def _indices(answer: Shape) -> tuple[int, ...]:
    """Read the device indices that are taken on the first network card."""
    attachments = [
        eni["Attachment"]
        for reservation in answer["Reservations"]
        for instance in reservation["Instances"]
        for eni in instance.get("NetworkInterfaces", ())
    ]
    return tuple(
        sorted(each["DeviceIndex"] for each in attachments if not each.get("NetworkCardIndex", 0))
    )
