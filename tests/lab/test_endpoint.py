"""The lab's EC2 answers an unchanged boto3 as EC2 would, moto being the witness where it can."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError
from moto import mock_aws
from moto.moto_api._internal import mock_random

from sim.buckets import BucketLimit
from sim.cloud_numbers import CloudNumbers, Delay
from sim.lab.faults import Answer, LabFault, LabRequest
from sim.node_type import explicit
from tests.lab.harness import (
    DEADLINE_S,
    GROUP,
    INSTANCE,
    SECRET,
    SESSION,
    SUBNET,
    Lab,
    in_a_lab,
    running_lab,
    until,
)


async def created(ec2: Any, **more: Any) -> dict[str, Any]:
    """Create an ENI through boto3."""
    answer = await asyncio.to_thread(ec2.create_network_interface, SubnetId=SUBNET, **more)
    eni: dict[str, Any] = answer["NetworkInterface"]
    return eni


async def attached(ec2: Any, index: int = 1, **more: Any) -> dict[str, Any]:
    """Create and attach an ENI; return what EC2 then shows of it."""
    eni_id = (await created(ec2, **more))["NetworkInterfaceId"]
    await asyncio.to_thread(
        ec2.attach_network_interface,
        NetworkInterfaceId=eni_id,
        InstanceId=INSTANCE,
        DeviceIndex=index,
    )
    return await shown(ec2, eni_id)


async def shown(ec2: Any, eni_id: str) -> dict[str, Any]:
    """Return one ENI as EC2 describes it."""
    answer = await asyncio.to_thread(ec2.describe_network_interfaces, NetworkInterfaceIds=[eni_id])
    (eni,) = answer["NetworkInterfaces"]
    return dict(eni)


def refusal(call: Callable[..., Any], **parameters: Any) -> tuple[str, int]:
    """Return the code and the HTTP status with which EC2 refuses a call."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


# A script that moto knows as well.


def life_of_an_eni(ec2: Any, subnet_id: str, instance_id: str) -> list[Any]:
    """Return every answer of an ENI's life, and the code of each refusal."""
    answers: list[Any] = []

    def ask(call: Callable[..., Any], **parameters: Any) -> Any:
        try:
            answer = call(**parameters)
        except ClientError as error:
            answer = error.response
        answers.append(answer)
        return answer

    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "a", "Value": "1"}]}]
    made = ask(
        ec2.create_network_interface,
        SubnetId=subnet_id,
        Description="aws-K8S-i-1",
        SecondaryPrivateIpAddressCount=2,
        TagSpecifications=tags,
    )
    eni_id = made["NetworkInterface"]["NetworkInterfaceId"]
    ask(ec2.create_tags, Resources=[eni_id], Tags=[{"Key": "b", "Value": "2"}])
    ask(ec2.create_tags, Resources=["eni-00000000000000099"], Tags=[{"Key": "b", "Value": "2"}])
    found = ask(
        ec2.attach_network_interface,
        NetworkInterfaceId=eni_id,
        InstanceId=instance_id,
        DeviceIndex=1,
    )
    change = {"AttachmentId": found["AttachmentId"], "DeleteOnTermination": True}
    ask(ec2.modify_network_interface_attribute, NetworkInterfaceId=eni_id, Attachment=change)
    for name, value in (
        ("attachment.instance-id", instance_id),
        ("tag:a", "1"),
        ("tag-key", "b"),
        ("tag-key", "c"),
        ("status", "in-use"),
        ("status", "available"),
        ("network-interface-id", eni_id),
        ("description", "aws-K8S-*"),
    ):
        # The second keeps other ENIs out; moto takes each name of a filter once only.
        filters = [{"Name": name, "Values": [value]}, {"Name": "tag:a", "Values": ["1"]}]
        ask(ec2.describe_network_interfaces, Filters=filters)
    ask(ec2.describe_instances, InstanceIds=[instance_id])
    ask(ec2.describe_instances, InstanceIds=["i-00000000000000099"])
    ask(ec2.describe_subnets, SubnetIds=[subnet_id])
    ask(ec2.describe_instance_types, InstanceTypes=["m5.large"])
    ask(ec2.describe_instance_types, InstanceTypes=["zz.large"])
    grown = ask(
        ec2.assign_private_ip_addresses,
        NetworkInterfaceId=eni_id,
        SecondaryPrivateIpAddressCount=1,
    )
    last = grown["AssignedPrivateIpAddresses"][-1]["PrivateIpAddress"]
    ask(ec2.unassign_private_ip_addresses, NetworkInterfaceId=eni_id, PrivateIpAddresses=[last])
    ask(ec2.detach_network_interface, AttachmentId=found["AttachmentId"])
    ask(ec2.detach_network_interface, AttachmentId=found["AttachmentId"])
    ask(ec2.delete_network_interface, NetworkInterfaceId=eni_id)
    ask(ec2.delete_network_interface, NetworkInterfaceId=eni_id)
    ask(ec2.create_network_interface, SubnetId="subnet-00000000000000099")
    ask(ec2.describe_network_interfaces, NetworkInterfaceIds=[eni_id])
    return answers


# Where moto and the lab differ, with the reason; everything else is alike.
DIFFER = {
    "CreateTags: Error": "moto tags what does not exist; EC2 and the lab refuse",
    "CreateTags: status": "as above",
    "DeleteOnTermination": "moto does not store it, and has it false for primary ENIs",
    "SecurityGroups": "moto's instance names no group where none was asked for",
    "Description": "moto describes primary ENIs; an EC2 that was not told has no text",
    "AssignedPrivateIpAddresses": "moto lists all addresses of the ENI; EC2 and the lab the new",
    "Tags": "moto leaves the empty list out",
}
OF_THE_RUN = {
    "AttachTime", "AttachmentId", "AvailabilityZone", "GroupId", "GroupName", "InstanceId",
    "MacAddress", "Message", "NetworkInterfaceId", "PrivateIpAddress", "ReservationId",
    "SubnetId", "VpcId",
}  # fmt: skip
"""Names, addresses and times: each side has its own, but both have one."""

SCRIPT_APIS = (
    "CreateNetworkInterface", "CreateTags", "CreateTags", "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute", *("DescribeNetworkInterfaces",) * 8, "DescribeInstances",
    "DescribeInstances", "DescribeSubnets", "DescribeInstanceTypes", "DescribeInstanceTypes",
    "AssignPrivateIpAddresses", "UnassignPrivateIpAddresses", "DetachNetworkInterface",
    "DetachNetworkInterface", "DeleteNetworkInterface", "DeleteNetworkInterface",
    "CreateNetworkInterface", "DescribeNetworkInterfaces",
)  # fmt: skip


def differences(moto: Any, lab: Any, name: str) -> set[str]:
    """Name what the lab answers otherwise; what only moto has, no client of ours reads."""
    if isinstance(moto, dict) and isinstance(lab, dict):
        found = lab.keys() - moto.keys()
        for key in lab.keys() & moto.keys() - {"ResponseMetadata"}:
            found |= differences(moto[key], lab[key], key)
        return found
    if isinstance(moto, list) and isinstance(lab, list) and len(moto) == len(lab):
        return set().union(*(differences(a, b, name) for a, b in zip(moto, lab, strict=True)))
    alike = type(moto) is type(lab) if name in OF_THE_RUN else moto == lab
    return set() if alike else {name}


def moto_answers() -> list[Any]:
    """Run the script against moto, in a VPC like the lab's.

    moto draws addresses at random and may draw one twice: with a seed it always draws the same.
    """
    mock_random.seed(1)
    with mock_aws():
        ec2 = SESSION.client("ec2", config=Config(retries={"total_max_attempts": 1}))
        vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.0.0.0/24")["Subnet"]
        image = ec2.describe_images()["Images"][0]["ImageId"]
        (instance,) = ec2.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            InstanceType="m5.large",
            SubnetId=subnet["SubnetId"],
        )["Instances"]
        return life_of_an_eni(ec2, subnet["SubnetId"], instance["InstanceId"])


def lab_answers() -> list[Any]:
    """Run the script against the lab."""

    async def run() -> list[Any]:
        async with running_lab() as lab:
            return await asyncio.to_thread(life_of_an_eni, lab.client(), SUBNET, INSTANCE)

    return asyncio.run(run())


def test_moto_and_the_lab_answer_alike() -> None:
    """One client cannot tell them apart, but for the differences that are listed."""
    found: set[str] = set()
    for api, moto, lab in zip(SCRIPT_APIS, moto_answers(), lab_answers(), strict=True):
        statuses = [each["ResponseMetadata"]["HTTPStatusCode"] for each in (moto, lab)]
        names = differences(moto, lab, api) | ({"status"} if len(set(statuses)) > 1 else set())
        found |= {f"{api}: {name}" if name in ("Error", "status") else name for name in names}

    assert found == set(DIFFER)


# What moto does not know.


def test_prefixes_go_through_the_wire() -> None:
    """Ipv4PrefixCount creates and assigns /28s, and Ipv4Prefixes gives them back."""

    async def script(lab: Lab) -> None:
        ec2 = lab.client()
        eni = await attached(ec2, Ipv4PrefixCount=2)
        assert len(eni["Ipv4Prefixes"]) == 2
        grown = await asyncio.to_thread(
            ec2.assign_private_ip_addresses,
            NetworkInterfaceId=eni["NetworkInterfaceId"],
            Ipv4PrefixCount=1,
        )
        (prefix,) = grown["AssignedIpv4Prefixes"]
        assert prefix["Ipv4Prefix"].endswith("/28")
        await asyncio.to_thread(
            ec2.unassign_private_ip_addresses,
            NetworkInterfaceId=eni["NetworkInterfaceId"],
            Ipv4Prefixes=[each["Ipv4Prefix"] for each in eni["Ipv4Prefixes"]],
        )
        left = await shown(ec2, eni["NetworkInterfaceId"])
        assert left["Ipv4Prefixes"] == [prefix]

    in_a_lab(script)


def test_a_token_makes_one_eni() -> None:
    """The same request again is the same ENI; another request with the token is refused."""

    async def script(lab: Lab) -> None:
        ec2 = lab.client()
        first = await created(ec2, ClientToken="t", Description="a")
        again = await created(ec2, ClientToken="t", Description="a")
        other = await created(ec2, ClientToken="u", Description="a")
        assert first["NetworkInterfaceId"] == again["NetworkInterfaceId"]
        assert first["NetworkInterfaceId"] != other["NetworkInterfaceId"]
        code = await asyncio.to_thread(
            refusal,
            ec2.create_network_interface,
            SubnetId=SUBNET,
            ClientToken="t",
            Description="b",
        )
        assert code == ("IdempotentParameterMismatch", 400)

    in_a_lab(script)


def test_delete_on_termination_decides_what_stays() -> None:
    """Of a dead instance's ENIs those without the mark stay behind, available."""

    async def script(lab: Lab) -> None:
        ec2 = lab.client()
        stays, goes = await attached(ec2, 1), await attached(ec2, 2)
        change = {
            "AttachmentId": goes["Attachment"]["AttachmentId"],
            "DeleteOnTermination": True,
        }
        await asyncio.to_thread(
            ec2.modify_network_interface_attribute,
            NetworkInterfaceId=goes["NetworkInterfaceId"],
            Attachment=change,
        )
        lab.cloud.terminate(INSTANCE)
        left = await asyncio.to_thread(ec2.describe_network_interfaces)
        (eni,) = left["NetworkInterfaces"]
        assert (eni["NetworkInterfaceId"], eni["Status"]) == (
            stays["NetworkInterfaceId"],
            "available",
        )

    in_a_lab(script)


def test_attaching_and_detaching_take_their_time() -> None:
    """States pass through attaching and detaching, and links follow them, not the calls."""

    async def script(lab: Lab) -> None:
        ec2 = lab.client()
        eni = await attached(ec2)
        eni_id = eni["NetworkInterfaceId"]
        mac = eni["MacAddress"]
        assert (eni["Status"], eni["Attachment"]["Status"]) == ("in-use", "attaching")
        assert lab.attached == []
        await lab.clock.advance(5)
        assert lab.attached == [(INSTANCE, eni_id, mac)]
        assert (await shown(ec2, eni_id))["Attachment"]["Status"] == "attached"
        attachment_id = eni["Attachment"]["AttachmentId"]
        for _ in range(2):
            await asyncio.to_thread(ec2.detach_network_interface, AttachmentId=attachment_id)
        assert (await shown(ec2, eni_id))["Attachment"]["Status"] == "detaching"
        assert lab.detached == []
        refused = await asyncio.to_thread(
            refusal, ec2.delete_network_interface, NetworkInterfaceId=eni_id
        )
        assert refused == ("InvalidParameterValue", 400)
        await lab.clock.advance(3)
        assert lab.detached == [(INSTANCE, eni_id, mac)]
        assert (await shown(ec2, eni_id))["Status"] == "available"

    slow = replace(
        CloudNumbers.instant(), eni_visible=Delay(5.0, 0.0), detach_min_s=2.0, detach_max_s=3.0
    )
    in_a_lab(script, numbers=slow)


def test_the_effect_comes_halfway() -> None:
    """While a call is under way its effect is there before its answer, as in sim/cloud.py."""

    async def script(lab: Lab) -> None:
        call = asyncio.create_task(created(lab.client()))
        await until(lambda: lab.clock.sleeping == 1)
        assert lab.cloud.account.vpc.eni_count == 1
        await lab.clock.advance(1)
        await until(lambda: lab.clock.sleeping == 1)
        assert lab.cloud.account.vpc.eni_count == 2
        assert not call.done()
        await lab.clock.advance(1)
        await call
        (record,) = lab.cloud.calls
        assert (record.end - record.start, record.code) == (2.0, "")

    latencies = {"CreateNetworkInterface": Delay(2.0, 0.0)}
    in_a_lab(script, numbers=replace(CloudNumbers.instant(), latencies=latencies))


def test_buckets_refuse_and_refill() -> None:
    """Beyond the bucket EC2 says RequestLimitExceeded with HTTP 503; time fills it again."""

    async def script(lab: Lab) -> None:
        ec2 = lab.client()
        await created(ec2)
        code = await asyncio.to_thread(refusal, ec2.create_network_interface, SubnetId=SUBNET)
        assert code == ("RequestLimitExceeded", 503)
        await lab.clock.advance(1)
        await created(ec2)

    buckets = {"CreateNetworkInterface": BucketLimit(1, 1)}
    in_a_lab(script, numbers=replace(CloudNumbers.instant(), buckets=buckets))


REFUSALS: list[tuple[str, dict[str, Any], tuple[str, int]]] = [
    ("create_network_interface", {"SubnetId": "subnet-x"}, ("InvalidSubnetID.NotFound", 400)),
    (
        "create_network_interface",
        {"SubnetId": SUBNET, "Groups": ["sg-x"]},
        ("InvalidGroup.NotFound", 400),
    ),
    (
        "create_network_interface",
        {"SubnetId": SUBNET, "SecondaryPrivateIpAddressCount": 250},
        ("InsufficientFreeAddressesInSubnet", 400),
    ),
    (
        "create_network_interface",
        {"SubnetId": SUBNET, "Ipv4PrefixCount": 15},
        ("InvalidParameterValue", 400),
    ),
    (
        "create_network_interface",
        {"SubnetId": SUBNET, "Ipv4PrefixCount": 1, "SecondaryPrivateIpAddressCount": 1},
        ("InvalidParameterCombination", 400),
    ),
    (
        "create_network_interface",
        {"SubnetId": SUBNET, "Ipv6AddressCount": 1},
        ("UnsupportedOperation", 400),
    ),
    ("create_network_interface", {"SubnetId": SUBNET, "DryRun": True}, ("DryRunOperation", 412)),
    (
        "describe_network_interfaces",
        {"Filters": [{"Name": "colour", "Values": ["red"]}]},
        ("InvalidParameterValue", 400),
    ),
    (
        "describe_network_interfaces",
        {"NetworkInterfaceIds": ["eni-1"], "MaxResults": 5},
        ("InvalidParameterCombination", 400),
    ),
    ("describe_network_interfaces", {"MaxResults": 1001}, ("InvalidParameterValue", 400)),
    (
        "describe_network_interfaces",
        {"MaxResults": 5, "NextToken": "x"},
        ("InvalidNextToken", 400),
    ),
    (
        "attach_network_interface",
        {"NetworkInterfaceId": "eni-1", "InstanceId": "i-9", "DeviceIndex": 1},
        ("InvalidInstanceID.NotFound", 400),
    ),
    (
        "attach_network_interface",
        {"NetworkInterfaceId": "eni-99", "InstanceId": INSTANCE, "DeviceIndex": 1},
        ("InvalidNetworkInterfaceID.NotFound", 400),
    ),
    (
        "detach_network_interface",
        {"AttachmentId": "eni-attach-99"},
        ("InvalidAttachmentID.NotFound", 400),
    ),
    (
        "create_tags",
        {"Resources": [SUBNET], "Tags": [{"Key": "aws:x", "Value": ""}]},
        ("InvalidParameterValue", 400),
    ),
    (
        "create_tags",
        {"Resources": [SUBNET], "Tags": [{"Key": f"{n}", "Value": ""} for n in range(51)]},
        ("TagLimitExceeded", 400),
    ),
    ("create_vpc", {"CidrBlock": "10.1.0.0/16"}, ("InvalidAction", 400)),
]


def test_refusals_have_ec2s_codes_and_change_nothing() -> None:
    """Every refusal reaches boto3 as the ClientError that EC2 causes."""

    async def script(lab: Lab) -> None:
        ec2 = lab.client()
        for method, parameters, expected in REFUSALS:
            code = await asyncio.to_thread(refusal, getattr(ec2, method), **parameters)
            assert code == expected, (method, parameters)
        assert lab.cloud.account.vpc.eni_count == 1
        assert [record.code for record in lab.cloud.calls] == [each[2][0] for each in REFUSALS]

    in_a_lab(script)


def test_limits_of_the_instance_type_hold() -> None:
    """Too many ENIs, and too many addresses on one, have a code each; index 0 stays."""

    async def script(lab: Lab) -> None:
        ec2 = lab.client()
        eni = await attached(ec2)
        spare = (await created(ec2))["NetworkInterfaceId"]
        attach = {"NetworkInterfaceId": spare, "InstanceId": INSTANCE, "DeviceIndex": 2}
        assert await asyncio.to_thread(refusal, ec2.attach_network_interface, **attach) == (
            "AttachmentLimitExceeded",
            400,
        )
        grow = {"NetworkInterfaceId": eni["NetworkInterfaceId"]}
        assert await asyncio.to_thread(
            refusal, ec2.assign_private_ip_addresses, SecondaryPrivateIpAddressCount=4, **grow
        ) == ("PrivateIpAddressLimitExceeded", 400)
        primary = await shown(ec2, lab.primary.eni_id)
        assert await asyncio.to_thread(
            refusal,
            ec2.detach_network_interface,
            AttachmentId=primary["Attachment"]["AttachmentId"],
        ) == ("OperationNotPermitted", 400)

    in_a_lab(script, node_type=explicit(2, 4))


def test_pages_follow_each_other() -> None:
    """A paginator sees every ENI once, five at a time, whatever is deleted meanwhile."""

    async def script(lab: Lab) -> None:
        ec2 = lab.client()
        made = [(await created(ec2))["NetworkInterfaceId"] for _ in range(11)]

        def read() -> list[str]:
            seen = []
            pages = ec2.get_paginator("describe_network_interfaces").paginate(
                PaginationConfig={"PageSize": 5}
            )
            for number, page in enumerate(pages):
                seen += [eni["NetworkInterfaceId"] for eni in page["NetworkInterfaces"]]
                if number == 0:
                    ec2.delete_network_interface(NetworkInterfaceId=made[0])
            return seen

        assert await asyncio.to_thread(read) == [lab.primary.eni_id, *made]

    in_a_lab(script)


@pytest.mark.parametrize("takes_effect", [False, True])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (LabFault("InternalError"), ClientError),
        (LabFault("Unavailable", http_status=503), ClientError),
        (LabFault(answer=Answer.NOTHING), ReadTimeoutError),
        (LabFault(answer=Answer.RESET), ConnectionClosedError),
        (LabFault(answer=Answer.GARBLED), ResponseParserError),
    ],
    ids=["500", "503", "silent", "reset", "garbled"],
)
def test_faults_happen_before_or_after_the_effect(
    fault: LabFault, error: type[Exception], *, takes_effect: bool
) -> None:
    """What the client sees says nothing of whether the ENI was made; the lab knows both."""

    async def script(lab: Lab) -> None:
        silent = fault.answer is Answer.NOTHING
        ec2 = lab.client(read_timeout=0.2 if silent else DEADLINE_S)
        with pytest.raises(error):
            await created(ec2)
        assert lab.cloud.account.vpc.eni_count == 1 + takes_effect
        (record,) = lab.cloud.calls
        assert record.code == (fault.code or fault.answer.name)

    in_a_lab(script, faults=lambda _: replace(fault, takes_effect=takes_effect))


def test_a_fault_may_be_slowness_alone() -> None:
    """A delay without a code is a slow success."""

    async def script(lab: Lab) -> None:
        call = asyncio.create_task(created(lab.client()))
        for _ in range(2):
            await until(lambda: lab.clock.sleeping == 1)
            await lab.clock.advance(3)
        assert (await call)["Status"] == "available"

    in_a_lab(script, faults=lambda _: LabFault(delay_s=6.0))


def test_who_calls_is_known_by_the_credentials() -> None:
    """The metadata's credentials name the instance; a request without any is refused."""

    async def script(lab: Lab) -> None:
        asked: list[LabRequest] = []
        lab.cloud.faults = asked.append
        key = lab.cloud.account.instance(INSTANCE).access_key
        own = SESSION.client(
            "ec2", endpoint_url=lab.url, aws_access_key_id=key, aws_secret_access_key=SECRET
        )
        await asyncio.to_thread(own.describe_subnets)
        unsigned = lab.client(signature_version=UNSIGNED)
        assert await asyncio.to_thread(refusal, unsigned.describe_subnets) == (
            "AuthFailure",
            401,
        )
        assert [(each.api, each.caller) for each in asked] == [
            ("DescribeSubnets", INSTANCE),
            ("DescribeSubnets", ""),
        ]

    in_a_lab(script)


def test_a_permission_can_be_taken_away() -> None:
    """A denied API answers UnauthorizedOperation with HTTP 403 and changes nothing."""

    async def script(lab: Lab) -> None:
        lab.cloud.denied.add("CreateNetworkInterface")
        code = await asyncio.to_thread(
            refusal, lab.client().create_network_interface, SubnetId=SUBNET
        )
        assert code == ("UnauthorizedOperation", 403)
        assert lab.cloud.account.vpc.eni_count == 1

    in_a_lab(script)


def test_several_instances_share_a_vpc() -> None:
    """Each has its own ENIs, and neither sees the other's behind its filter."""

    async def script(lab: Lab) -> None:
        ec2 = lab.client()
        other = lab.cloud.launch("i-other", explicit(3, 4), SUBNET)
        await attached(ec2)
        for instance_id, count in ((INSTANCE, 2), ("i-other", 1)):
            filters = [{"Name": "attachment.instance-id", "Values": [instance_id]}]
            found = await asyncio.to_thread(ec2.describe_network_interfaces, Filters=filters)
            assert len(found["NetworkInterfaces"]) == count
        assert lab.cloud.mac_of(other) != lab.cloud.mac_of(lab.primary)
        assert (await shown(ec2, lab.primary.eni_id))["Groups"][0]["GroupId"] == GROUP

    in_a_lab(script)
