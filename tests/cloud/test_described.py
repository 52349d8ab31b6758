"""What EC2 describes is read, and what is ours is told from what is not, by tables."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from cni.allocator.model import BlockKind, EniId
from cni.cloud import calls
from cni.cloud.described import (
    DescribedEni,
    DescribedSubnet,
    NodeEnis,
    Standing,
    TypeLimits,
    eni_of,
    limits_of,
    sort_out,
    standing_of,
    usable_subnets,
)
from cni.cloud.identity import Identity
from cni.cloud.options import Ec2Options, ec2_options
from cni.cloud.pace import Pace, Share
from cni.cloud.requests import Asker, reply_of, request_of, token_of
from cni.cloud.tags import CLUSTER, CREATED_AT, INSTANCE_ID, NO_MANAGE, OWNER, read_additional

MINE, OTHER = "i-mine", "i-other"

ENI = DescribedEni(
    eni_id=EniId("eni-1"),
    status="in-use",
    interface_type="interface",
    mac="02:00:00:00:00:01",
    subnet_id="subnet-a",
    description="",
    primary_ip=IPv4Address("10.0.0.10"),
    blocks=(IPv4Network("10.0.0.11/32"),),
    device_index=1,
    network_card=0,
    instance_id=MINE,
    attachment_id="eni-attach-1",
    attachment_status="attached",
    tags={},
)

IDENTITY = Identity(
    instance_id=MINE,
    instance_type="m5.large",
    region="us-west-2",
    zone="us-west-2a",
    mac="02:00:00:00:00:01",
    vpc_id="vpc-1",
    subnet_id="subnet-a",
    security_group_ids=("sg-1", "sg-2"),
    vpc_cidrs=(IPv4Network("10.0.0.0/16"),),
    private_ip=IPv4Address("10.0.0.10"),
)
ASKER = Asker(IDENTITY, Ec2Options())


@pytest.mark.parametrize(
    ("changes", "with_untagged", "without_untagged"),
    [
        ({}, Standing.MANAGED, Standing.TAKEN),
        ({"tags": {INSTANCE_ID: MINE}}, Standing.MANAGED, Standing.MANAGED),
        ({"tags": {INSTANCE_ID: OTHER}}, Standing.MANAGED, Standing.TAKEN),
        ({"tags": {NO_MANAGE: "true"}}, Standing.TAKEN, Standing.TAKEN),
        ({"tags": {NO_MANAGE: "true", INSTANCE_ID: MINE}}, Standing.TAKEN, Standing.TAKEN),
        ({"tags": {NO_MANAGE: "false"}}, Standing.MANAGED, Standing.MANAGED),
        ({"tags": {NO_MANAGE: "True"}}, Standing.MANAGED, Standing.MANAGED),
        ({"device_index": 0, "tags": {NO_MANAGE: "true"}}, Standing.MANAGED, Standing.MANAGED),
        ({"device_index": 0, "interface_type": "efa"}, Standing.MANAGED, Standing.MANAGED),
        ({"interface_type": "trunk"}, Standing.TAKEN, Standing.TAKEN),
        ({"interface_type": "efa", "tags": {INSTANCE_ID: MINE}}, Standing.TAKEN, Standing.TAKEN),
        ({"interface_type": "efa-only", "primary_ip": None}, Standing.TAKEN, Standing.TAKEN),
        ({"primary_ip": None}, Standing.TAKEN, Standing.TAKEN),
        ({"attachment_status": "detaching"}, Standing.TAKEN, Standing.TAKEN),
        ({"attachment_status": "attaching"}, Standing.MANAGED, Standing.TAKEN),
        ({"network_card": 1}, Standing.ELSEWHERE, Standing.ELSEWHERE),
        ({"network_card": 1, "device_index": 0}, Standing.ELSEWHERE, Standing.ELSEWHERE),
        ({"device_index": -1}, Standing.ELSEWHERE, Standing.ELSEWHERE),
    ],
)
def test_which_enis_are_managed(
    changes: dict[str, Any], with_untagged: Standing, without_untagged: Standing
) -> None:
    """Tags, type, card and state decide, for either value of MANAGE_UNTAGGED_ENI."""
    eni = replace(ENI, **changes)

    assert standing_of(eni, MINE, manages_untagged=True) is with_untagged
    assert standing_of(eni, MINE, manages_untagged=False) is without_untagged


def test_the_enis_of_a_node_are_parted() -> None:
    """Managed ones come by device index; of the others the indices are taken, other cards' not."""
    primary = replace(ENI, eni_id=EniId("eni-0"), device_index=0)
    second = replace(ENI, device_index=2)
    trunk = replace(ENI, device_index=1, interface_type="trunk")
    far = replace(ENI, device_index=3, network_card=1)

    parted = sort_out([trunk, second, far, primary], MINE, manages_untagged=True)

    assert parted == NodeEnis((primary, second), frozenset({1}))


def test_an_eni_is_read_from_ec2s_shape() -> None:
    """Blocks leave the primary address out; a detached ENI has neither index nor names."""
    shape = {
        "NetworkInterfaceId": "eni-1",
        "Status": "in-use",
        "MacAddress": "02:00:00:00:00:01",
        "SubnetId": "subnet-a",
        "PrivateIpAddress": "10.0.0.10",
        "PrivateIpAddresses": [
            {"PrivateIpAddress": "10.0.0.11", "Primary": False},
            {"PrivateIpAddress": "10.0.0.10", "Primary": True},
        ],
        "Attachment": {
            "AttachmentId": "eni-attach-1",
            "DeviceIndex": 1,
            "InstanceId": MINE,
            "Status": "attached",
        },
        "Ipv4Prefixes": [{"Ipv4Prefix": "10.0.0.32/28"}],
        "TagSet": [{"Key": "k"}],
    }
    blocks = (*ENI.blocks, IPv4Network("10.0.0.32/28"))

    assert eni_of(shape) == replace(ENI, blocks=blocks, tags={"k": ""})
    del shape["Attachment"]
    detached = eni_of(shape | {"Status": "available"})
    assert (detached.device_index, detached.instance_id, detached.attachment_id) == (-1, "", "")


def test_an_attachment_that_is_going_has_no_name() -> None:
    """A recipe must not detach again what is detaching already: it waits and deletes."""
    assert ENI.interface.attachment_id == "eni-attach-1"
    assert replace(ENI, attachment_status="detaching").interface.attachment_id == ""


@pytest.mark.parametrize(
    ("subnets", "cluster", "expected"),
    [
        ([("a", 5, {})], "", "a"),
        ([("a", 5, {}), ("b", 9, {})], "", "a"),
        ([("a", 5, {}), ("b", 9, {"kubernetes.io/role/cni": "1"})], "", "ba"),
        ([("a", 9, {}), ("b", 9, {"kubernetes.io/role/cni": "1"})], "", "ab"),
        ([("a", 5, {}), ("b", 9, {"kubernetes.io/role/cni": ""})], "", "ba"),
        ([("a", 5, {}), ("b", 9, {"kubernetes.io/role/cni": "0"})], "", "a"),
        ([("a", 5, {"kubernetes.io/role/cni": "0"})], "", ""),
        (
            [
                ("a", 1, {"cni.networking.k8s.aws/cluster/x": ""}),
                ("b", 2, {"kubernetes.io/role/cni": "1", "cni.networking.k8s.aws/cluster/x": ""}),
                ("c", 3, {"kubernetes.io/role/cni": "1", "cni.networking.k8s.aws/cluster/y": ""}),
                ("d", 4, {"cni.networking.k8s.aws/cluster/x": ""}),
            ],
            "x",
            "ba",
        ),
        (
            [("b", 2, {"kubernetes.io/role/cni": "1", "cni.networking.k8s.aws/cluster/x": ""})],
            "",
            "",
        ),
    ],
)
def test_which_subnets_may_take_an_eni(
    subnets: list[tuple[str, int, dict[str, str]]], cluster: str, expected: str
) -> None:
    """The primary ENI's subnet needs no tag; others need one, and room decides the order."""
    described = [DescribedSubnet(*subnet) for subnet in subnets]

    assert usable_subnets(described, "a", cluster) == tuple(expected)


@pytest.mark.parametrize(
    ("network", "enis"),
    [
        ({"MaximumNetworkInterfaces": 3}, 3),
        (
            {
                "MaximumNetworkInterfaces": 64,
                "DefaultNetworkCardIndex": 1,
                "NetworkCards": [
                    {"NetworkCardIndex": 0, "MaximumNetworkInterfaces": 4},
                    {"NetworkCardIndex": 1, "MaximumNetworkInterfaces": 2},
                ],
            },
            2,
        ),
    ],
)
def test_limits_are_those_of_the_default_network_card(network: dict[str, Any], enis: int) -> None:
    """MaximumNetworkInterfaces adds up all cards, of which a node uses one."""
    shape = {
        "InstanceType": "x",
        "Hypervisor": "nitro",
        "NetworkInfo": network | {"Ipv4AddressesPerInterface": 10},
    }

    assert limits_of(shape) == TypeLimits("x", enis, 10, prefixes_allowed=True)


# Requests


def test_a_create_says_whose_the_eni_is() -> None:
    """Description, groups and tags are set with the call, so that no ENI is ever nameless."""
    options = Ec2Options(cluster_name="c", additional_tags={"team": "net", INSTANCE_ID: "x"})
    call = calls.CreateNetworkInterface(BlockKind.PREFIX, 2, "t-1-2")

    request = request_of(call, Asker(IDENTITY, options), 1_795_000_000.0)

    (tags,) = request.parameters["TagSpecifications"]
    assert tags["ResourceType"] == "network-interface"
    assert {tag["Key"]: tag["Value"] for tag in tags["Tags"]} == {
        "team": "net",
        INSTANCE_ID: MINE,
        CLUSTER: "c",
        OWNER: "amazon-vpc-cni",
        CREATED_AT: "2026-11-18T11:06:40Z",
    }
    assert {**request.parameters, "TagSpecifications": []} == {
        "SubnetId": "subnet-a",
        "Groups": ["sg-1", "sg-2"],
        "Description": f"aws-K8S-{MINE}",
        "ClientToken": f"{MINE}/t-1-2",
        "Ipv4PrefixCount": 2,
        "TagSpecifications": [],
    }


def test_a_create_without_blocks_or_cluster() -> None:
    """No count is asked for where none is wanted, and no cluster named where none is known."""
    call = calls.CreateNetworkInterface(BlockKind.SECONDARY_IP, 0, "t", "subnet-b")

    parameters = request_of(call, ASKER, 0.0).parameters

    assert not {"SecondaryPrivateIpAddressCount", "Ipv4PrefixCount"} & parameters.keys()
    assert parameters["SubnetId"] == "subnet-b"
    keys = [tag["Key"] for tag in parameters["TagSpecifications"][0]["Tags"]]
    assert sorted(keys) == sorted([INSTANCE_ID, CREATED_AT])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            calls.UnassignPrivateIpAddresses(EniId("eni-1"), (IPv4Network("10.0.0.11/32"),)),
            {"NetworkInterfaceId": "eni-1", "PrivateIpAddresses": ["10.0.0.11"]},
        ),
        (
            calls.UnassignPrivateIpAddresses(EniId("eni-1"), (IPv4Network("10.0.0.32/28"),)),
            {"NetworkInterfaceId": "eni-1", "Ipv4Prefixes": ["10.0.0.32/28"]},
        ),
        (
            calls.DescribeNetworkInterfaces(),
            {"Filters": [{"Name": "attachment.instance-id", "Values": [MINE]}]},
        ),
        (
            calls.DescribeNetworkInterfaces((EniId("eni-1"),)),
            {"NetworkInterfaceIds": ["eni-1"]},
        ),
        (calls.DescribeInstances(), {"InstanceIds": [MINE]}),
    ],
)
def test_requests(call: calls.Call, expected: dict[str, Any]) -> None:
    """Each call has EC2's own parameters; the rest of the table runs against the lab."""
    request = request_of(call, ASKER, 0.0)

    assert (request.api, request.parameters) == (call.api, expected)


@pytest.mark.parametrize("call", [calls.ReadMetadata(), calls.Pause(1.0)])
def test_what_is_no_call_to_ec2_is_no_request(call: calls.Call) -> None:
    """Pauses and metadata are the driver's."""
    with pytest.raises(ValueError, match="is no request to EC2"):
        request_of(call, ASKER, 0.0)


def test_an_eni_of_another_instance_is_not_ours_to_detach() -> None:
    """Described by id, an ENI that hangs elsewhere has an attachment without a name."""
    shape = {
        "NetworkInterfaceId": "eni-1",
        "Status": "in-use",
        "SubnetId": "subnet-a",
        "PrivateIpAddress": "10.0.0.10",
        "Attachment": {"AttachmentId": "a", "DeviceIndex": 1, "InstanceId": OTHER},
    }
    call = calls.DescribeNetworkInterfaces((EniId("eni-1"),))

    reply = reply_of(call, {"NetworkInterfaces": [shape]}, ASKER)

    assert isinstance(reply, calls.InterfacesDescribed)
    assert [each.attachment_id for each in reply.interfaces] == [""]


def test_a_token_fits() -> None:
    """EC2 takes 64 letters: longer ones are replaced by a digest, the same for the same text."""
    long = "x" * 60

    assert len(token_of(MINE, long)) == 64
    assert token_of(MINE, long) == token_of(MINE, long) != token_of(OTHER, long)


# What a user says


def test_additional_tags() -> None:
    """Keys that are ours, or that EC2 would refuse, are dropped with a warning each."""
    text = '{"a": "1", "node.k8s.amazonaws.com/x": "1", "aws:b": "1", "c": 3, "": "1"}'

    tags, warnings = read_additional(text)

    assert tags == {"a": "1"}
    assert len(warnings) == 4
    for word in ("node.k8s.amazonaws.com/x", "aws:b", "'c'", "''"):
        assert any(word in warning for warning in warnings), word


@pytest.mark.parametrize("text", ["[]", "x", '"a"'])
def test_tags_that_are_no_object_are_refused(text: str) -> None:
    """What cannot be read is refused, not ignored."""
    with pytest.raises(ValueError, match=r"ADDITIONAL_ENI_TAGS|Expecting value"):
        read_additional(text)


def test_options_come_from_the_settings() -> None:
    """Every variable that concerns EC2 has its place, and its default is upstream's."""
    assert ec2_options({}) == Ec2Options()
    given = {
        "ADDITIONAL_ENI_TAGS": '{"a": "1"}',
        "AWS_EC2_ENDPOINT": "http://127.0.0.1:1",
        "CLUSTER_NAME": "c",
        "ENABLE_SUBNET_DISCOVERY": "false",
        "HTTP_TIMEOUT": "30",
        "MANAGE_UNTAGGED_ENI": "false",
        "VPC_CNI_VERSION": "v1",
    }
    assert ec2_options(given) == Ec2Options(
        cluster_name="c",
        additional_tags={"a": "1"},
        manages_untagged=False,
        discovers_subnets=False,
        timeout_s=30.0,
        endpoint_url="http://127.0.0.1:1",
        version="v1",
    )


def test_pace() -> None:
    """A burst goes at once, the rest in turn; an idle node saves no more than its burst."""
    pace = Pace({"A": Share(3, 2.0)})

    assert [pace.reserve("A", 0.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert [pace.reserve("A", 1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert [pace.reserve("B", 0.0) for _ in range(4)] == [0.0] * 4
