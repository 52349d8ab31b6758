"""Ec2 against the lab: real boto3, EC2's own answers and errors, and a network that fails."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import NoCredentialsError

from cni.allocator.actions import (
    ActionFailed,
    AddBlocks,
    AttachEni,
    BlocksAdded,
    BlocksRemoved,
    CloudAction,
    CloudOutcome,
    DescribeEnis,
    DetachEni,
    EniAttached,
    EniDetached,
    EnisDescribed,
    FailureReason,
    RemoveBlocks,
)
from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.allocator.model import BlockKind, EniId
from cni.cloud import calls
from cni.cloud.calls import Call, CallError
from cni.cloud.described import TypeLimits
from cni.cloud.ec2 import ACTIONS, Ec2, Timing
from cni.cloud.imds import Imds
from cni.cloud.options import Ec2Options
from cni.cloud.pace import Pace, Share
from cni.cloud.recipes import recipe_for
from cni.cloud.requests import Asker
from cni.cloud.tags import CLUSTER, CREATED_AT, INSTANCE_ID, NO_MANAGE, OWNER, missing_tags
from sim.buckets import BucketLimit
from sim.cloud_numbers import CloudNumbers, Delay
from sim.lab import actions as lab_actions
from sim.lab.account import NewEni
from sim.lab.faults import Answer, LabFault, LabRequest
from sim.node_type import explicit
from tests.lab.harness import INSTANCE, SECRET, SUBNET, Lab, Sleeps, in_a_lab, until

IPS, PREFIX = BlockKind.SECONDARY_IP, BlockKind.PREFIX
UNIX = 1_795_000_000.0
NOBODY = "http://127.0.0.1:1"
SHORT_S = 0.3
"""A time-out that is meant to run out."""
QUICK_S = 2.0
"""The same where a later attempt must be answered in time, on a busy machine too."""


@dataclass
class Node:
    """One node's daemon as far as EC2 goes, with everything it did."""

    lab: Lab
    ec2: Ec2
    imds: Imds
    asker: Asker
    sleeps: Sleeps
    heard: list[tuple[str, str]] = field(default_factory=list)

    async def answer(self, call: Call) -> calls.Reply:
        """Answer any call of a recipe; a pause is over at once, for lab and node alike."""
        match call:
            case calls.Pause(seconds):
                await self.lab.clock.advance(seconds)
                return calls.Done()
            case calls.ReadMetadata():
                return await self.imds.reply(call)
            case _:
                return await self.ec2.answer(call)

    async def perform(
        self, action: CloudAction, kind: BlockKind, behaviour: Behaviour = NATIVE
    ) -> CloudOutcome:
        """Run an action's recipe to its end, as the daemon's maintainer does."""
        recipe = recipe_for(action, kind, behaviour, "test")
        try:
            call = next(recipe)
            while True:
                try:
                    reply = await self.answer(call)
                except CallError as error:
                    call = recipe.throw(error)
                else:
                    call = recipe.send(reply)
        except StopIteration as done:
            outcome: CloudOutcome = done.value
            return outcome


async def node_of(
    lab: Lab,
    options: Ec2Options | None = None,
    pace: Pace | None = None,
    client: Any = None,
    **config: Any,
) -> Node:
    """Make a node on the lab's instance; its pace is unlimited unless given."""
    sleeps = Sleeps()
    imds = Imds(sleep=sleeps, endpoint=lab.imds_url)
    asker = Asker(await imds.identity(), options or Ec2Options())
    timing = Timing(now=lab.clock.now, sleep=sleeps, unix=lambda: UNIX, uniform=lambda: 0.5)
    client = client or lab.client(**config)
    ec2 = Ec2(lambda: client, asker, timing, pace=pace or Pace({}))
    node = Node(lab, ec2, imds, asker, sleeps)
    ec2._on_call = lambda api, _, code: node.heard.append((api, code))
    return node


def on_a_node(
    script: Callable[[Node], Any], *, node: dict[str, Any] | None = None, **lab: Any
) -> None:
    """Run a test's body on a node of a lab."""

    async def run(running: Lab) -> None:
        made = await node_of(running, **(node or {}))
        try:
            await script(made)
        finally:
            made.ec2.close()

    in_a_lab(run, **lab)


def create(blocks: int = 0, kind: BlockKind = IPS, token: str = "t") -> Call:  # noqa: S107 - a ClientToken
    """Return the call that makes an ENI."""
    return calls.CreateNetworkInterface(kind, blocks, token)


def put_eni(lab: Lab, *, index: int | None = None, **changes: Any) -> EniId:
    """Make an ENI behind the node's back, attached if it has an index."""
    account, now = lab.cloud.account, lab.clock.now()
    new = NewEni(SUBNET, IPS, 0, "", (), "", "interface", {})
    eni_id = account.create(replace(new, **changes), now).eni_id
    if index is not None:
        account.attach(eni_id, INSTANCE, index, now)
    return eni_id


# Recipes, end to end


@pytest.mark.parametrize("behaviour", [NATIVE, UPSTREAM], ids=["native", "upstream"])
@pytest.mark.parametrize("kind", [IPS, PREFIX])
def test_the_life_of_an_eni(kind: BlockKind, behaviour: Behaviour) -> None:
    """Every action's recipe runs through boto3 and ends as the pool expects."""

    async def script(node: Node) -> None:
        attached = await node.perform(AttachEni(1, 1, 3, ""), kind, behaviour)
        assert isinstance(attached, EniAttached), attached
        eni = attached.eni
        assert (len(eni.blocks), eni.device_index, attached.short) == (3, 1, None)
        assert {block.prefixlen for block in eni.blocks} == {kind.value}
        added = await node.perform(AddBlocks(2, eni.eni_id, 2, ""), kind, behaviour)
        assert isinstance(added, BlocksAdded), added
        assert len(added.blocks) == 2
        removed = RemoveBlocks(3, eni.eni_id, eni.blocks[:2], "")
        assert await node.perform(removed, kind, behaviour) == BlocksRemoved(
            3, eni.eni_id, eni.blocks[:2]
        )
        described = await node.perform(DescribeEnis(4, ""), kind, behaviour)
        assert isinstance(described, EnisDescribed)
        assert [each.eni_id for each in described.enis] == [node.lab.primary.eni_id, eni.eni_id]
        assert set(described.enis[1].blocks) == {eni.blocks[2], *added.blocks}
        gone = await node.perform(DetachEni(5, eni.eni_id, ""), kind, behaviour)
        assert gone == EniDetached(5, eni.eni_id)
        assert node.lab.cloud.account.vpc.eni_count == 1
        assert [who for who, *_ in node.lab.detached] == [INSTANCE]

    slow = replace(
        CloudNumbers.instant(), eni_visible=Delay(1.5, 0.0), detach_min_s=1.0, detach_max_s=2.5
    )
    on_a_node(script, numbers=slow)


def test_mixed_blocks_go_in_requests_of_their_own() -> None:
    """A node that changed its mode gives secondary IPs and prefixes back."""

    async def script(node: Node) -> None:
        eni_id = node.lab.primary.eni_id
        blocks = ()
        for kind in BlockKind:
            added = await node.perform(AddBlocks(1, eni_id, 1, ""), kind)
            assert isinstance(added, BlocksAdded)
            blocks += added.blocks
        outcome = await node.perform(RemoveBlocks(2, eni_id, blocks, ""), PREFIX)
        assert outcome == BlocksRemoved(2, eni_id, blocks)

    on_a_node(script)


def test_a_nearly_dry_subnet() -> None:
    """NATIVE takes what there is, and the pool hears why it is less."""

    async def script(node: Node) -> None:
        outcome = await node.perform(AttachEni(1, 1, 9, ""), IPS)
        assert isinstance(outcome, EniAttached)
        assert (len(outcome.eni.blocks), outcome.short) == (4, FailureReason.SUBNET_FULL)

    # A /28 has eleven usable addresses; the node's primary ENI has one of them.
    on_a_node(script, subnets=((SUBNET, "10.0.0.0/28", 3),))


# Errors: what EC2 refuses by itself


@dataclass(frozen=True)
class Refused:
    """A call, the lab in which EC2 refuses it, and what the allocator hears."""

    call: Callable[[EniId], Call]
    code: str
    reason: FailureReason
    lab: dict[str, Any] = field(default_factory=dict)
    before: Callable[[Lab], object] = lambda _: None


FULL = {"subnets": ((SUBNET, "10.0.0.0/28", 10),)}
# Without free blocks: the /28 in the middle holds one of the other tenants' 240 addresses.
BROKEN = {"subnets": ((SUBNET, "10.0.0.0/24", 240),)}
SMALL = {"node_type": explicit(1, 3)}
GONE = EniId("eni-00000000000000099")

REFUSED = {
    "create: subnet full": Refused(
        lambda _: create(),
        "InsufficientFreeAddressesInSubnet",
        FailureReason.SUBNET_FULL,
        FULL,
    ),
    "assign: subnet full": Refused(
        lambda eni: calls.AssignPrivateIpAddresses(eni, IPS, 1),
        "InsufficientFreeAddressesInSubnet",
        FailureReason.SUBNET_FULL,
        FULL,
    ),
    "assign: no /28": Refused(
        lambda eni: calls.AssignPrivateIpAddresses(eni, PREFIX, 1),
        "InsufficientCidrBlocks",
        FailureReason.NO_FREE_PREFIX,
        BROKEN,
    ),
    "create: no /28": Refused(
        lambda _: create(1, PREFIX),
        "InvalidParameterValue",
        FailureReason.NO_FREE_PREFIX_UNNAMED,
        BROKEN,
    ),
    "attach: too many ENIs": Refused(
        lambda _: calls.AttachNetworkInterface(EniId("eni-00000000000000002"), 1),
        "AttachmentLimitExceeded",
        FailureReason.ENI_LIMIT,
        SMALL,
        put_eni,
    ),
    "assign: too many addresses": Refused(
        lambda eni: calls.AssignPrivateIpAddresses(eni, IPS, 3),
        "PrivateIpAddressLimitExceeded",
        FailureReason.ENI_FULL,
        SMALL,
    ),
    "assign: denied": Refused(
        lambda eni: calls.AssignPrivateIpAddresses(eni, IPS, 1),
        "UnauthorizedOperation",
        FailureReason.DENIED,
        before=lambda lab: lab.cloud.denied.add("AssignPrivateIpAddresses"),
    ),
    "assign: no such ENI": Refused(
        lambda _: calls.AssignPrivateIpAddresses(GONE, IPS, 1),
        "InvalidNetworkInterfaceID.NotFound",
        FailureReason.ENI_GONE,
    ),
    "describe: no such ENI": Refused(
        lambda _: calls.DescribeNetworkInterfaces((GONE,)),
        "InvalidNetworkInterfaceID.NotFound",
        FailureReason.ENI_GONE,
    ),
    "delete: no such ENI": Refused(
        lambda _: calls.DeleteNetworkInterface(GONE),
        "InvalidNetworkInterfaceID.NotFound",
        FailureReason.ENI_GONE,
    ),
    "detach: no such attachment": Refused(
        lambda eni: calls.DetachNetworkInterface(eni, "eni-attach-99"),
        "InvalidAttachmentID.NotFound",
        FailureReason.ENI_GONE,
    ),
    "modify: no such attachment": Refused(
        lambda eni: calls.ModifyNetworkInterfaceAttribute(eni, "eni-attach-99"),
        "InvalidAttachmentID.NotFound",
        FailureReason.ENI_GONE,
    ),
    "delete: in use": Refused(
        calls.DeleteNetworkInterface, "InvalidParameterValue", FailureReason.OTHER
    ),
    "create: no such subnet": Refused(
        lambda _: calls.CreateNetworkInterface(IPS, 1, "t", "subnet-x"),
        "InvalidSubnetID.NotFound",
        FailureReason.OTHER,
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_every_refusal_has_its_reason(case: Refused) -> None:
    """EC2's code reaches the allocator as the reason it acts on, after one attempt."""

    async def script(node: Node) -> None:
        case.before(node.lab)
        with pytest.raises(CallError) as caught:
            await node.ec2.answer(case.call(node.lab.primary.eni_id))
        assert (caught.value.code, caught.value.reason) == (case.code, case.reason)
        assert [code for _, code in node.lab.codes] == [case.code]
        assert [code for _, code in node.heard] == [case.code]
        assert node.sleeps == []

    on_a_node(script, **case.lab)


# Attempts


def test_throttling_is_repeated_with_growing_pauses() -> None:
    """Three attempts in all, as the SDK's standard mode; the last refusal is told."""

    async def script(node: Node) -> None:
        call = calls.AssignPrivateIpAddresses(node.lab.primary.eni_id, IPS, 1)
        with pytest.raises(CallError) as caught:
            await node.ec2.answer(call)
        assert caught.value.reason is FailureReason.THROTTLED
        assert node.heard == [("AssignPrivateIpAddresses", "RequestLimitExceeded")] * 3
        # Half of one second, then half of two: `uniform` is 0.5 here.
        assert node.sleeps == [0.5, 1.0]

    buckets = {"AssignPrivateIpAddresses": BucketLimit(1, 0.0)}
    drained = replace(CloudNumbers.instant(), buckets=buckets)

    async def drain(node: Node) -> None:
        await node.ec2.answer(calls.AssignPrivateIpAddresses(node.lab.primary.eni_id, IPS, 1))
        node.heard.clear()
        await script(node)

    on_a_node(drain, numbers=drained)


def test_throttling_that_ends_is_no_failure() -> None:
    """A second attempt that EC2 accepts is a success; the hook heard of both."""

    async def script(node: Node) -> None:
        faults = [LabFault("RequestLimitExceeded")]
        node.lab.cloud.faults = lambda _: faults.pop() if faults else None
        await node.ec2.answer(create())
        assert [code for _, code in node.heard] == ["RequestLimitExceeded", ""]

    on_a_node(script)


LOST = {
    "silent": (LabFault(answer=Answer.NOTHING), "RequestTimeout"),
    "reset": (LabFault(answer=Answer.RESET), "ConnectionClosedError"),
    "garbled": (LabFault(answer=Answer.GARBLED), "UnreadableAnswer"),
    "page of a proxy": (LabFault(answer=Answer.GARBLED, http_status=502), "502"),
    "500": (LabFault("InternalError"), "InternalError"),
    "503": (LabFault("Unavailable"), "Unavailable"),
    "unknown 5xx": (LabFault("SomethingNew", http_status=500), "SomethingNew"),
}
# Asked again after a lost answer, each would do what was done already, or be refused for it.
ONCE = {
    "assign": lambda eni: calls.AssignPrivateIpAddresses(eni, IPS, 1),
    "detach": lambda _: calls.DetachNetworkInterface(
        EniId("eni-2"), "eni-attach-00000000000000002"
    ),
    "attach": lambda _: calls.AttachNetworkInterface(EniId("eni-00000000000000003"), 2),
}


@pytest.mark.parametrize(("fault", "code"), LOST.values(), ids=LOST.keys())
@pytest.mark.parametrize("call", ONCE.values(), ids=ONCE.keys())
def test_a_lost_answer_is_not_asked_for_again(
    call: Callable[[EniId], Call], fault: LabFault, code: str
) -> None:
    """One attempt, whose outcome is unknown: it took effect here, and a second would double it."""

    async def script(node: Node) -> None:
        put_eni(node.lab, index=1)
        put_eni(node.lab)
        node.lab.cloud.faults = lambda _: replace(fault, takes_effect=True)
        with pytest.raises(CallError) as caught:
            await node.ec2.answer(call(node.lab.primary.eni_id))
        assert caught.value.reason is FailureReason.UNKNOWN_OUTCOME
        assert caught.value.code == code
        assert "\n" not in str(caught.value)
        assert len(node.lab.cloud.calls) == len(node.heard) == 1

    quick = {"read_timeout": SHORT_S} if fault.answer is Answer.NOTHING else {}
    on_a_node(script, node=quick)


def test_an_unassign_without_an_answer_is_not_repeated() -> None:
    """Repeated, it would be refused for blocks that are gone, and look like a failure."""

    async def script(node: Node) -> None:
        eni_id = node.lab.primary.eni_id
        added = await node.ec2.answer(calls.AssignPrivateIpAddresses(eni_id, IPS, 1))
        assert isinstance(added, calls.BlocksAssigned)
        node.heard.clear()
        node.lab.cloud.faults = lambda _: LabFault("InternalError", takes_effect=True)
        with pytest.raises(CallError) as caught:
            await node.ec2.answer(calls.UnassignPrivateIpAddresses(eni_id, added.blocks))
        assert caught.value.reason is FailureReason.UNKNOWN_OUTCOME
        assert node.heard == [("UnassignPrivateIpAddresses", "InternalError")]

    on_a_node(script)


@pytest.mark.parametrize(("fault", "code"), LOST.values(), ids=LOST.keys())
def test_a_create_is_repeated_with_its_token(fault: LabFault, code: str) -> None:
    """The first attempt made the ENI and its answer was lost; the second returns the same one."""

    async def script(node: Node) -> None:
        faults = [replace(fault, takes_effect=True)]
        node.lab.cloud.faults = lambda _: faults.pop() if faults else None
        reply = await node.ec2.answer(create(2))
        assert isinstance(reply, calls.InterfaceCreated)
        assert len(reply.blocks) == 2
        assert node.lab.cloud.account.vpc.eni_count == 2
        assert [each for _, each in node.heard] == [code, ""]

    quick = {"read_timeout": QUICK_S} if fault.answer is Answer.NOTHING else {}
    on_a_node(script, node=quick)


def test_a_description_is_asked_for_three_times() -> None:
    """Reading is safe to repeat, and an EC2 that stays silent is told after three attempts."""

    async def script(node: Node) -> None:
        node.lab.cloud.faults = lambda _: LabFault("InternalError")
        with pytest.raises(CallError) as caught:
            await node.ec2.answer(calls.DescribeNetworkInterfaces())
        assert caught.value.reason is FailureReason.UNKNOWN_OUTCOME
        assert len(node.heard) == 3

    on_a_node(script)


# Errors: what never reaches EC2


def test_nobody_listens() -> None:
    """A refused connection sent nothing: it is tried again and is no unknown outcome."""

    async def script(lab: Lab) -> None:
        lab.url = NOBODY
        node = await node_of(lab)
        with pytest.raises(CallError) as caught:
            await node.ec2.answer(calls.AssignPrivateIpAddresses(lab.primary.eni_id, IPS, 1))
        assert (caught.value.code, caught.value.reason) == (
            "EndpointConnectionError",
            FailureReason.OTHER,
        )
        assert len(node.heard) == 3
        node.ec2.close()

    in_a_lab(script)


def without_credentials(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Hide whatever credentials the machine has."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))


async def connected(lab: Lab, timeout_s: float = 10.0) -> Ec2:
    """Make an Ec2 as the daemon does, for the lab's endpoint."""
    identity = await Imds(sleep=Sleeps(), endpoint=lab.imds_url).identity()
    timing = Timing(now=lab.clock.now, sleep=Sleeps(), unix=lambda: UNIX, uniform=lambda: 0.5)
    return Ec2.connect(identity, Ec2Options(endpoint_url=lab.url, timeout_s=timeout_s), timing)


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message says what to give the node, and no request leaves it."""
    without_credentials(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    async def script(lab: Lab) -> None:
        ec2 = await connected(lab)
        with pytest.raises(CallError, match="IAM role") as caught:
            await ec2.answer(create())
        assert (caught.value.code, caught.value.reason) == (
            "NoCredentials",
            FailureReason.DENIED,
        )
        assert isinstance(caught.value.__cause__, NoCredentialsError)
        assert not lab.cloud.calls
        ec2.close()

    in_a_lab(script)


def test_connect_finds_credentials_in_the_metadata(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a bare node boto3 takes the role's credentials, and EC2 knows which instance calls."""
    without_credentials(monkeypatch, tmp_path)

    async def script(lab: Lab) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", lab.imds_url)
        ec2 = await connected(lab)
        await ec2.answer(create())
        (record,) = lab.cloud.calls
        assert (record.api, record.caller, record.code) == (
            "CreateNetworkInterface",
            INSTANCE,
            "",
        )
        ec2.close()

    in_a_lab(script)


def test_credentials_may_come_late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A client that was made without credentials is made anew: the node recovers by itself."""
    without_credentials(monkeypatch, tmp_path)

    async def script(lab: Lab) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", NOBODY)
        ec2 = await connected(lab)
        with pytest.raises(CallError, match="NoCredentials"):
            await ec2.answer(create())
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", lab.imds_url)
        await ec2.answer(create())
        assert [record.caller for record in lab.cloud.calls] == [INSTANCE]
        ec2.close()

    in_a_lab(script)


def test_the_sdk_itself_asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`connect` leaves no attempt to the SDK, which would repeat a late assign."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")

    async def script(lab: Lab) -> None:
        ec2 = await connected(lab, SHORT_S)
        lab.cloud.faults = lambda _: LabFault(answer=Answer.NOTHING, takes_effect=True)
        with pytest.raises(CallError):
            await ec2.answer(calls.AssignPrivateIpAddresses(lab.primary.eni_id, IPS, 1))
        assert len(lab.cloud.calls) == 1
        ec2.close()

    in_a_lab(script)


# Whose ENIs


def test_an_eni_is_born_with_its_tags() -> None:
    """Tags, description and groups are there from the first instant; restarts find none missing."""

    async def script(node: Node) -> None:
        created = await node.ec2.answer(create())
        assert isinstance(created, calls.InterfaceCreated)
        tags = node.lab.cloud.account.tags_of(created.eni_id)
        assert tags == {
            "team": "net",
            INSTANCE_ID: INSTANCE,
            CLUSTER: "blue",
            OWNER: "amazon-vpc-cni",
            CREATED_AT: "2026-11-18T11:06:40Z",
        }
        note = node.lab.cloud.account.note(created.eni_id)
        assert note.description == f"aws-K8S-{INSTANCE}"
        assert note.groups == node.asker.identity.security_group_ids
        assert missing_tags(tags, node.ec2.wanted_tags) == {}

    options = Ec2Options(cluster_name="blue", additional_tags={"team": "net"})
    on_a_node(script, node={"options": options})


def test_what_is_not_ours_only_takes_its_index() -> None:
    """Unmanaged, trunk and leaving ENIs are in no description, and their indices are taken."""

    async def script(node: Node) -> None:
        lab = node.lab
        mine = put_eni(lab, index=1)
        put_eni(lab, index=2, tags={NO_MANAGE: "true"})
        put_eni(lab, index=3, interface_type="trunk")
        leaving = put_eni(lab, index=4)
        attachment = lab.cloud.account.eni(leaving, lab.clock.now()).attachment
        assert attachment is not None
        lab.cloud.account.detach(leaving, attachment.attachment_id, lab.clock.now())

        enis = await node.ec2.managed_enis()
        assert [each.eni_id for each in enis.managed] == [lab.primary.eni_id, mine]
        assert enis.taken == {2, 3, 4}
        described = await node.perform(DescribeEnis(1, ""), IPS)
        assert isinstance(described, EnisDescribed)
        assert [each.eni_id for each in described.enis] == [lab.primary.eni_id, mine]
        taken = await node.ec2.answer(calls.DescribeInstances())
        assert taken == calls.InstanceDescribed((0, 1, 2, 3, 4))

    slow = replace(CloudNumbers.instant(), detach_min_s=5.0, detach_max_s=5.0)
    on_a_node(script, numbers=slow, node_type=explicit(6, 10))


def test_untagged_enis_may_be_left_alone() -> None:
    """With MANAGE_UNTAGGED_ENI=false only the primary ENI and those with our tag are managed."""

    async def script(node: Node) -> None:
        put_eni(node.lab, index=1)
        mine = put_eni(node.lab, index=2)
        await node.ec2.tag_eni(mine, node.ec2.wanted_tags)
        enis = await node.ec2.managed_enis()
        assert [each.eni_id for each in enis.managed] == [node.lab.primary.eni_id, mine]
        assert enis.taken == {1}

    on_a_node(script, node={"options": Ec2Options(manages_untagged=False)})


def test_an_eni_that_is_detaching_is_waited_for() -> None:
    """A detach that was asked for before is not asked for again: the recipe goes on to delete."""

    async def script(node: Node) -> None:
        lab = node.lab
        eni_id = put_eni(lab, index=1)
        attachment = lab.cloud.account.eni(eni_id, lab.clock.now()).attachment
        assert attachment is not None
        await node.ec2.answer(calls.DetachNetworkInterface(eni_id, attachment.attachment_id))
        lab.cloud.calls.clear()
        outcome = await node.perform(DetachEni(1, eni_id, ""), IPS)
        assert outcome == EniDetached(1, eni_id)
        assert "DetachNetworkInterface" not in [api for api, _ in lab.codes]
        assert lab.cloud.account.vpc.eni_count == 1

    slow = replace(CloudNumbers.instant(), detach_min_s=5.0, detach_max_s=5.0)
    on_a_node(script, numbers=slow)


def test_subnets_are_chosen_by_tag_and_room() -> None:
    """The roomiest subnet that may take an ENI comes first, and an attach goes there."""

    async def script(node: Node) -> None:
        node.lab.cloud.account.tag(("subnet-b",), {"kubernetes.io/role/cni": "1"}, 0.0)
        reply = await node.ec2.answer(calls.DescribeSubnets())
        assert reply == calls.SubnetsDescribed(
            (calls.UsableSubnet("subnet-b", 507), calls.UsableSubnet(SUBNET, 250, own=True))
        )
        outcome = await node.perform(AttachEni(1, 1, 1, ""), IPS, UPSTREAM)
        assert isinstance(outcome, EniAttached)
        assert node.lab.cloud.account.note(outcome.eni.eni_id).subnet_id == "subnet-b"

    subnets = (
        (SUBNET, "10.0.0.0/24", 0),
        ("subnet-b", "10.0.2.0/23", 0),
        ("subnet-c", "10.0.4.0/22", 0),
    )
    on_a_node(script, subnets=subnets)


def test_without_discovery_nobody_is_asked() -> None:
    """With ENABLE_SUBNET_DISCOVERY=false the primary ENI's subnet is the only one."""

    async def script(node: Node) -> None:
        reply = await node.ec2.answer(calls.DescribeSubnets())
        assert reply == calls.SubnetsDescribed((calls.UsableSubnet(SUBNET, 0, own=True),))
        assert node.heard == []

    on_a_node(script, node={"options": Ec2Options(discovers_subnets=False)})


def test_leaked_candidates_come_page_by_page() -> None:
    """Detached ENIs of this cluster with our tag, however many, and no others."""

    async def script(node: Node) -> None:
        ours = {INSTANCE_ID: "i-dead", CLUSTER: "blue"}
        leaked = [put_eni(node.lab, tags=ours) for _ in range(1003)]
        put_eni(node.lab, tags={INSTANCE_ID: "i-dead", CLUSTER: "red"})
        put_eni(node.lab, tags={CLUSTER: "blue"})
        put_eni(node.lab, index=1, tags=ours)
        found = await node.ec2.leaked_candidates()
        assert [each.eni_id for each in found] == leaked
        assert len(node.heard) == 2
        assert found[0].tags == ours

    options = Ec2Options(cluster_name="blue")
    on_a_node(script, node={"options": options}, subnets=((SUBNET, "10.0.0.0/20", 0),))


def test_limits_of_a_type_can_be_asked_for() -> None:
    """A type that is too new for the table is known to EC2; a wrong name is an error."""

    async def script(node: Node) -> None:
        limits = await node.ec2.describe_instance_type("p4d.24xlarge")
        assert limits == TypeLimits("p4d.24xlarge", 15, 50, prefixes_allowed=True)
        with pytest.raises(CallError, match="InvalidInstanceType"):
            await node.ec2.describe_instance_type("zz.large")

    on_a_node(script)


# The funnel


def test_actions_are_all_that_is_ever_asked() -> None:
    """The node's role is written from ACTIONS: what is used must be there, and no more."""

    async def script(node: Node) -> None:
        await node.perform(AttachEni(1, 1, 1, ""), IPS, UPSTREAM)
        eni = (await node.ec2.managed_enis()).managed[1]
        added = await node.perform(AddBlocks(2, eni.eni_id, 1, ""), IPS)
        assert isinstance(added, BlocksAdded)
        await node.perform(RemoveBlocks(3, eni.eni_id, added.blocks, ""), IPS)
        await node.perform(DetachEni(4, eni.eni_id, ""), IPS)
        orphan = put_eni(node.lab)
        await node.ec2.tag_eni(orphan, {"a": "b"})
        await node.ec2.delete_eni(orphan)
        await node.ec2.leaked_candidates()
        await node.ec2.describe_instance_type("m5.large")
        assert {api for api, _ in node.heard} == ACTIONS == lab_actions.ACTIONS
        assert {code for _, code in node.heard} == {""}

    on_a_node(script)


def test_calls_run_side_by_side() -> None:
    """A slow attach delays no assign: both are under way at once."""

    async def script(node: Node) -> None:
        eni_id = node.lab.primary.eni_id
        both = asyncio.gather(
            node.ec2.answer(create()),
            node.ec2.answer(calls.AssignPrivateIpAddresses(eni_id, IPS, 1)),
        )
        await until(lambda: node.lab.clock.sleeping == 2)
        await node.lab.clock.advance(1)
        await until(lambda: node.lab.clock.sleeping == 2)
        await node.lab.clock.advance(1)
        await both

    latencies = {
        "CreateNetworkInterface": Delay(2.0, 0.0),
        "AssignPrivateIpAddresses": Delay(2.0, 0.0),
    }
    on_a_node(script, numbers=replace(CloudNumbers.instant(), latencies=latencies))


def test_a_node_that_runs_wild_is_slowed_down() -> None:
    """Beyond its share a request waits on the node, before EC2 would refuse the others'."""

    async def script(node: Node) -> None:
        for number in range(4):
            await node.ec2.answer(create(token=f"{number}"))
        assert node.sleeps == [1.0, 2.0]
        assert {code for _, code in node.heard} == {""}

    pace = Pace({"CreateNetworkInterface": Share(2, 1.0)})
    on_a_node(script, node={"pace": pace})


def test_an_answer_that_makes_no_sense_is_an_unknown_outcome() -> None:
    """What is missing in an answer says nothing of what EC2 did."""

    class Odd:
        """A client whose EC2 answers with nothing in it."""

        def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
            return lambda **_: {}

    async def script(node: Node) -> None:
        for call in (
            create(),
            calls.AttachNetworkInterface(GONE, 1),
            calls.AssignPrivateIpAddresses(GONE, IPS, 1),
            calls.AssignPrivateIpAddresses(GONE, PREFIX, 1),
            calls.DescribeNetworkInterfaces(),
            calls.DescribeInstances(),
            calls.DescribeSubnets(),
        ):
            with pytest.raises(CallError, match="cannot be read") as caught:
                await node.ec2.answer(call)
            assert caught.value.reason is FailureReason.UNKNOWN_OUTCOME

    on_a_node(script, node={"client": Odd()})


def test_a_failure_in_the_middle_leaves_nothing_behind() -> None:
    """Whichever request fails first and for good: no ENI is left detached, unless unknown."""

    async def script(node: Node) -> None:
        # Another action is another token: one that is used up names the ENI it made.
        for number, api in enumerate(("AttachNetworkInterface", "ModifyNetworkInterfaceAttribute")):
            refused: list[LabRequest] = []

            def fault(
                request: LabRequest, api: str = api, refused: list[LabRequest] = refused
            ) -> LabFault | None:
                if request.api != api:
                    return None
                refused.append(request)
                return LabFault("UnauthorizedOperation")

            node.lab.cloud.faults = fault
            outcome = await node.perform(AttachEni(number, 1, 2, api), IPS)
            assert isinstance(outcome, ActionFailed)
            assert outcome.reason is FailureReason.DENIED
            assert len(refused) == 1
            assert node.lab.cloud.account.vpc.eni_count == 1

    on_a_node(script)
