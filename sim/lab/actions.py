"""The EC2 actions that the lab knows: EC2's parameters in, EC2's answer out.

Each takes effect in a `LabAccount` at one instant and refuses with EC2's own codes. A parameter
that EC2 has and the lab does not is refused as well, and never ignored: a client that relies on
it would find out on AWS only.
"""

from collections.abc import Callable, Mapping
from ipaddress import IPv4Network
from typing import Any

from cni.allocator.model import BlockKind, EniId
from sim.ec2_error import Ec2Error
from sim.lab.account import LabAccount, NewEni
from sim.lab.described import (
    ENI_FILTERS,
    INSTANCE_FILTERS,
    SUBNET_FILTERS,
    Shape,
    eni_shape,
    filtered,
    instance_shape,
    page_of,
    subnet_shape,
    type_shape,
)

Parameters = Mapping[str, Any]
Action = Callable[[LabAccount, Parameters, float], Shape]

_KINDS = {
    "SecondaryPrivateIpAddressCount": BlockKind.SECONDARY_IP,
    "Ipv4PrefixCount": BlockKind.PREFIX,
}


def _create(account: LabAccount, parameters: Parameters, now: float) -> Shape:
    kind, blocks = _counted(parameters)
    new = NewEni(
        subnet_id=parameters["SubnetId"],
        kind=kind,
        blocks=blocks,
        token=parameters.get("ClientToken", ""),
        groups=tuple(parameters.get("Groups", ())),
        description=parameters.get("Description", ""),
        interface_type=parameters.get("InterfaceType", "interface"),
        tags=_tags_of(parameters),
    )
    return {"NetworkInterface": eni_shape(account, account.create(new, now), now)}


def _attach(account: LabAccount, parameters: Parameters, now: float) -> Shape:
    eni_id, instance_id = EniId(parameters["NetworkInterfaceId"]), parameters["InstanceId"]
    attachment_id = account.attach(eni_id, instance_id, parameters["DeviceIndex"], now)
    return {"AttachmentId": attachment_id, "NetworkCardIndex": 0}


def _modify(account: LabAccount, parameters: Parameters, now: float) -> Shape:
    eni_id = EniId(parameters["NetworkInterfaceId"])
    account.eni(eni_id, now)
    if "Attachment" in parameters:
        change = parameters["Attachment"]
        account.vpc.modify_network_interface_attribute(
            eni_id,
            change["AttachmentId"],
            now,
            delete_on_termination=change["DeleteOnTermination"],
        )
    text = parameters.get("Description", {}).get("Value")
    account.describe(eni_id, text, tuple(parameters.get("Groups", ())))
    return {}


def _assign(account: LabAccount, parameters: Parameters, now: float) -> Shape:
    kind, count = _counted(parameters)
    eni_id = EniId(parameters["NetworkInterfaceId"])
    if not count:
        raise Ec2Error("InvalidParameterCombination", "You must say how many addresses to assign.")
    blocks = account.assign(eni_id, kind, count, now)
    if kind is BlockKind.PREFIX:
        shown = {"AssignedIpv4Prefixes": [{"Ipv4Prefix": str(block)} for block in blocks]}
    else:
        addresses = [{"PrivateIpAddress": str(block.network_address)} for block in blocks]
        shown = {"AssignedPrivateIpAddresses": addresses}
    return {"NetworkInterfaceId": eni_id, **shown}


def _unassign(account: LabAccount, parameters: Parameters, now: float) -> Shape:
    blocks = [
        *(IPv4Network(address) for address in parameters.get("PrivateIpAddresses", ())),
        *(IPv4Network(prefix) for prefix in parameters.get("Ipv4Prefixes", ())),
    ]
    if not blocks:
        raise Ec2Error("MissingParameter", "The request must contain addresses or prefixes.")
    account.unassign(EniId(parameters["NetworkInterfaceId"]), blocks, now)
    return {}


def _detach(account: LabAccount, parameters: Parameters, now: float) -> Shape:
    attachment_id = parameters["AttachmentId"]
    for interface in account.enis(now):
        attachment = interface.attachment
        if attachment is not None and attachment.attachment_id == attachment_id:
            account.detach(interface.eni_id, attachment_id, now)
            return {}
    raise Ec2Error(
        "InvalidAttachmentID.NotFound", f"The attachment '{attachment_id}' does not exist."
    )


def _delete(account: LabAccount, parameters: Parameters, now: float) -> Shape:
    account.vpc.delete_network_interface(EniId(parameters["NetworkInterfaceId"]), now)
    return {}


def _tag(account: LabAccount, parameters: Parameters, now: float) -> Shape:
    account.tag(parameters["Resources"], _pairs(parameters["Tags"]), now)
    return {}


def _describe_enis(account: LabAccount, parameters: Parameters, now: float) -> Shape:
    ids = parameters.get("NetworkInterfaceIds")
    size = parameters.get("MaxResults")
    if ids is not None and size is not None:
        raise Ec2Error(
            "InvalidParameterCombination",
            "The parameter NetworkInterfaceIds cannot be used with the parameter MaxResults",
        )
    found = account.enis(now) if ids is None else [account.eni(EniId(each), now) for each in ids]
    shapes = [eni_shape(account, interface, now) for interface in found]
    shapes = filtered(shapes, parameters.get("Filters", ()), ENI_FILTERS)
    page, token = page_of(shapes, "NetworkInterfaceId", size, parameters.get("NextToken"))
    answer: Shape = {"NetworkInterfaces": page}
    return answer if token is None else answer | {"NextToken": token}


def _describe_instances(account: LabAccount, parameters: Parameters, now: float) -> Shape:
    ids = parameters.get("InstanceIds")
    found = account.instances if ids is None else [account.instance(each) for each in ids]
    shapes = [instance_shape(account, instance, now) for instance in found]
    shapes = filtered(shapes, parameters.get("Filters", ()), INSTANCE_FILTERS)
    owner = account.facts.owner_id
    return {
        "Reservations": [
            {"ReservationId": f"r-{number:017x}", "OwnerId": owner, "Instances": [shape]}
            for number, shape in enumerate(shapes, 1)
        ]
    }


def _describe_types(account: LabAccount, parameters: Parameters, now: float) -> Shape:  # noqa: ARG001 - as every action
    names = parameters.get("InstanceTypes")
    if names is None:
        raise Ec2Error("UnsupportedOperation", "The lab describes instance types by name only.")
    return {"InstanceTypes": [type_shape(name) for name in names]}


def _describe_subnets(account: LabAccount, parameters: Parameters, now: float) -> Shape:  # noqa: ARG001 - as every action
    # EC2 promises no order; the order of ids is one that no client may rely on.
    found = sorted(account.vpc.describe_subnets(), key=lambda subnet: subnet.subnet_id)
    ids = parameters.get("SubnetIds")
    for missing in set(ids or ()) - {subnet.subnet_id for subnet in found}:
        raise Ec2Error("InvalidSubnetID.NotFound", f"The subnet ID '{missing}' does not exist")
    shapes = [
        subnet_shape(account, subnet) for subnet in found if ids is None or subnet.subnet_id in ids
    ]
    return {"Subnets": filtered(shapes, parameters.get("Filters", ()), SUBNET_FILTERS)}


def _counted(parameters: Parameters) -> tuple[BlockKind, int]:
    """Return how many blocks of which kind are wanted: EC2 takes one kind in a request."""
    given = [name for name in _KINDS if name in parameters]
    if len(given) > 1:
        raise Ec2Error(
            "InvalidParameterCombination", f"You may specify only one of {', '.join(given)}."
        )
    if not given:
        return BlockKind.SECONDARY_IP, 0
    (name,) = given
    if parameters[name] < 1:
        raise Ec2Error("InvalidParameterValue", f"Value ({parameters[name]}) for {name} is invalid")
    return _KINDS[name], parameters[name]


def _tags_of(parameters: Parameters) -> Mapping[str, str]:
    """Return the tags for the new ENI; EC2 takes those of its own type of resource only."""
    tags: dict[str, str] = {}
    for specification in parameters.get("TagSpecifications", ()):
        if specification.get("ResourceType") != "network-interface":
            raise Ec2Error(
                "InvalidParameterValue",
                f"'{specification.get('ResourceType')}' is not a valid taggable resource type.",
            )
        tags |= _pairs(specification.get("Tags", ()))
    return tags


def _pairs(tags: Any) -> dict[str, str]:  # noqa: ANN401 - parsed by moto
    return {tag["Key"]: tag.get("Value", "") for tag in tags}


_COUNTS = frozenset(_KINDS)
_FILTERED = frozenset({"Filters"})

# Action, the parameters it cannot do without, and those that it takes as well.
_ROWS: tuple[tuple[str, Action, frozenset[str], frozenset[str]], ...] = (
    (
        "CreateNetworkInterface",
        _create,
        frozenset({"SubnetId"}),
        frozenset({"ClientToken", "Description", "Groups", "InterfaceType", "TagSpecifications"})
        | _COUNTS,
    ),
    (
        "AttachNetworkInterface",
        _attach,
        frozenset({"DeviceIndex", "InstanceId", "NetworkInterfaceId"}),
        frozenset(),
    ),
    (
        "ModifyNetworkInterfaceAttribute",
        _modify,
        frozenset({"NetworkInterfaceId"}),
        frozenset({"Attachment", "Description", "Groups"}),
    ),
    ("AssignPrivateIpAddresses", _assign, frozenset({"NetworkInterfaceId"}), _COUNTS),
    (
        "UnassignPrivateIpAddresses",
        _unassign,
        frozenset({"NetworkInterfaceId"}),
        frozenset({"Ipv4Prefixes", "PrivateIpAddresses"}),
    ),
    ("DetachNetworkInterface", _detach, frozenset({"AttachmentId"}), frozenset({"Force"})),
    ("DeleteNetworkInterface", _delete, frozenset({"NetworkInterfaceId"}), frozenset()),
    ("CreateTags", _tag, frozenset({"Resources", "Tags"}), frozenset()),
    (
        "DescribeNetworkInterfaces",
        _describe_enis,
        frozenset(),
        frozenset({"MaxResults", "NetworkInterfaceIds", "NextToken"}) | _FILTERED,
    ),
    ("DescribeInstances", _describe_instances, frozenset(), frozenset({"InstanceIds"}) | _FILTERED),
    ("DescribeInstanceTypes", _describe_types, frozenset(), frozenset({"InstanceTypes"})),
    ("DescribeSubnets", _describe_subnets, frozenset(), frozenset({"SubnetIds"}) | _FILTERED),
)

ACTIONS: frozenset[str] = frozenset(name for name, _, _, _ in _ROWS)
"""The EC2 actions that the lab knows."""

_BY_NAME = {row[0]: row for row in _ROWS}


def take_effect(account: LabAccount, api: str, parameters: Parameters, now: float) -> Shape:
    """Let one action take effect and return its answer; Ec2Error where EC2 refuses."""
    _, action, required, optional = _BY_NAME[api]
    for name in sorted(required - parameters.keys()):
        raise Ec2Error("MissingParameter", f"The request must contain the parameter {name}")
    for name in sorted(parameters.keys() - required - optional - {"DryRun"}):
        raise Ec2Error("UnsupportedOperation", f"The lab's {api} does not know {name}.")
    if parameters.get("DryRun"):
        raise Ec2Error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    return action(account, parameters, now)


def bucket_of(api: str, parameters: Parameters) -> str:
    """Name the request bucket, as `sim/cloud.py` does: ids are no filter.

    >>> bucket_of("DescribeNetworkInterfaces", {"NetworkInterfaceIds": ["eni-1"]})
    'DescribeNetworkInterfaces unfiltered'
    """
    halved = api in ("DescribeInstances", "DescribeNetworkInterfaces")
    if halved and not parameters.keys() & {"Filters", "MaxResults"}:
        return f"{api} unfiltered"
    return api
