"""Recipes make the calls of upstream and ours, in order, and clean up what they cannot finish."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

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
    LookedElsewhere,
    LookElsewhere,
    RemoveBlocks,
)
from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.allocator.model import BlockKind, EniId
from cni.cloud.calls import (
    AssignPrivateIpAddresses,
    CallError,
    CreateNetworkInterface,
    Pause,
    SubnetsDescribed,
    UnassignPrivateIpAddresses,
)
from cni.cloud.recipes import recipe_for
from tests.allocator.fake_ec2 import PRIMARY, FakeEc2, Fault, run

ATTACH = AttachEni(7, 1, 4, "a test")
IPS = BlockKind.SECONDARY_IP


def perform(
    action: CloudAction, ec2: FakeEc2, behaviour: Behaviour = NATIVE, kind: BlockKind = IPS
) -> CloudOutcome:
    """Run an action's recipe to its end."""
    return run(recipe_for(action, kind, behaviour, "token"), ec2)


def apis(ec2: FakeEc2) -> list[str]:
    """Return the APIs called, in order, pauses left out."""
    return [call.api for call in ec2.calls if not isinstance(call, Pause)]


def with_two_enis(blocks: int = 3) -> tuple[FakeEc2, EniId]:
    """Return an EC2 with a second ENI attached."""
    ec2 = FakeEc2()
    return ec2, ec2.attach_stranger(1, IPS, blocks)


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (
            UPSTREAM,
            [
                "DescribeSubnets",
                "CreateNetworkInterface",
                "DescribeInstances",
                "AttachNetworkInterface",
                "ModifyNetworkInterfaceAttribute",
                "ReadMetadata",
            ],
        ),
        (
            NATIVE,
            [
                "CreateNetworkInterface",
                "AttachNetworkInterface",
                "ModifyNetworkInterfaceAttribute",
                "ReadMetadata",
            ],
        ),
    ],
)
def test_attach(behaviour: Behaviour, expected: list[str]) -> None:
    """The create call asks for the blocks; no assign follows (ipamd, awsutils.go:978)."""
    ec2 = FakeEc2()
    outcome = perform(ATTACH, ec2, behaviour)
    assert isinstance(outcome, EniAttached)
    assert apis(ec2) == expected
    assert (len(outcome.eni.blocks), outcome.eni.device_index, outcome.short) == (4, 1, None)
    assert outcome.eni in ec2.attached()


@pytest.mark.parametrize("behaviour", [UPSTREAM, NATIVE])
@pytest.mark.parametrize(
    ("api", "cleans_up"),
    [
        ("AttachNetworkInterface", ["DeleteNetworkInterface"]),
        ("ModifyNetworkInterfaceAttribute", ["DetachNetworkInterface", "DeleteNetworkInterface"]),
    ],
)
def test_a_failed_attach_leaves_no_eni(
    behaviour: Behaviour, api: str, cleans_up: list[str]
) -> None:
    """An ENI that cannot be used is deleted at once, and the failure is told."""
    ec2 = FakeEc2()
    ec2.faults.append(Fault(api, FailureReason.DENIED))
    outcome = perform(ATTACH, ec2, behaviour)
    assert outcome == ActionFailed(ATTACH, FailureReason.DENIED)
    assert apis(ec2)[-len(cleans_up) - 1 :] == [api, *cleans_up]
    assert list(ec2.interfaces) == [PRIMARY]


def test_an_eni_that_never_shows_is_cleaned_up() -> None:
    """The metadata is polled as often as the behaviour says, then the ENI goes."""
    for behaviour, polls in ((UPSTREAM, 12), (NATIVE, 105)):
        ec2 = FakeEc2(metadata_shows=False)
        outcome = perform(ATTACH, ec2, behaviour)
        assert isinstance(outcome, ActionFailed)
        assert outcome.reason is FailureReason.NOT_VISIBLE
        assert ec2.counts["ReadMetadata"] == polls
        assert list(ec2.interfaces) == [PRIMARY]


def test_the_polls_of_upstream_take_162_s_at_most() -> None:
    """Pauses double from 100 ms to 60 s, each with up to 15 % more (awsutils.go:2125)."""
    ec2 = FakeEc2(metadata_shows=False)
    perform(ATTACH, ec2, UPSTREAM)
    pauses = [call for call in ec2.calls if isinstance(call, Pause) and call.jitter]
    assert sum(pause.seconds for pause in pauses) == pytest.approx(162.3)
    assert pauses[0] == Pause(0.1, 0.15)
    assert max(pause.seconds for pause in pauses) == 60


def test_an_unreadable_metadata_is_read_again() -> None:
    """One failed read does not abandon an ENI that is attached."""
    ec2 = FakeEc2()
    ec2.faults.append(Fault("ReadMetadata", FailureReason.OTHER))
    assert isinstance(perform(ATTACH, ec2), EniAttached)


def test_an_attach_without_an_answer_is_not_deleted() -> None:
    """It may have taken effect: a description tells."""
    ec2 = FakeEc2()
    ec2.faults.append(Fault("AttachNetworkInterface", FailureReason.UNKNOWN_OUTCOME, True))
    outcome = perform(ATTACH, ec2)
    assert isinstance(outcome, ActionFailed)
    assert "DeleteNetworkInterface" not in apis(ec2)
    assert len(ec2.attached()) == 2


def test_create_takes_less_where_the_subnet_has_less() -> None:
    """NATIVE halves, with a token for each count; upstream gives up at once."""
    ec2 = FakeEc2(subnet_free=3)
    outcome = perform(ATTACH, ec2)
    assert isinstance(outcome, EniAttached)
    assert (len(outcome.eni.blocks), outcome.short) == (2, FailureReason.SUBNET_FULL)
    tokens = [c.client_token for c in ec2.calls if isinstance(c, CreateNetworkInterface)]
    assert len(set(tokens)) == 2
    ec2 = FakeEc2(subnet_free=3)
    assert isinstance(perform(ATTACH, ec2, UPSTREAM), ActionFailed)
    assert ec2.counts["CreateNetworkInterface"] == 1


@pytest.mark.parametrize(("behaviour", "counts"), [(UPSTREAM, [10, 1]), (NATIVE, [10, 5, 2])])
def test_add_in_a_nearly_dry_subnet(behaviour: Behaviour, counts: list[int]) -> None:
    """Upstream asks again for exactly one; NATIVE halves while that can help."""
    ec2 = FakeEc2(subnet_free=2)
    outcome = perform(AddBlocks(3, PRIMARY, 10, ""), ec2, behaviour)
    asked = [call.count for call in ec2.calls if isinstance(call, AssignPrivateIpAddresses)]
    assert asked == counts
    assert isinstance(outcome, BlocksAdded)
    assert (len(outcome.blocks), outcome.short) == (counts[-1], FailureReason.SUBNET_FULL)


def test_add_with_another_error() -> None:
    """Upstream asks again for one whatever the error; NATIVE leaves that to the allocator."""
    for behaviour, calls in ((UPSTREAM, 2), (NATIVE, 1)):
        ec2 = FakeEc2()
        ec2.faults.extend([Fault("AssignPrivateIpAddresses", FailureReason.THROTTLED)] * 2)
        action = AddBlocks(3, PRIMARY, 10, "")
        assert perform(action, ec2, behaviour) == ActionFailed(action, FailureReason.THROTTLED)
        assert ec2.counts["AssignPrivateIpAddresses"] == calls


@pytest.mark.parametrize("behaviour", [UPSTREAM, NATIVE])
def test_a_full_eni_is_read_again(behaviour: Behaviour) -> None:
    """PrivateIpAddressLimitExceeded means that EC2 has more there than we know of."""
    ec2 = FakeEc2(blocks_per_eni=4)
    there = ec2.put_on(PRIMARY, IPS, 4)
    outcome = perform(AddBlocks(3, PRIMARY, 2, ""), ec2, behaviour)
    assert outcome == BlocksAdded(3, PRIMARY, tuple(there), FailureReason.ENI_FULL)
    assert apis(ec2) == ["AssignPrivateIpAddresses", "DescribeNetworkInterfaces"]


def test_remove() -> None:
    """Prefixes and secondary IPs go in calls of their own."""
    ec2 = FakeEc2()
    mixed = (*ec2.put_on(PRIMARY, IPS, 2), *ec2.put_on(PRIMARY, BlockKind.PREFIX, 1))
    outcome = perform(RemoveBlocks(3, PRIMARY, mixed, ""), ec2)
    assert outcome == BlocksRemoved(3, PRIMARY, mixed)
    gone = [c.blocks for c in ec2.calls if isinstance(c, UnassignPrivateIpAddresses)]
    assert gone == [mixed[2:], mixed[:2]]


@pytest.mark.parametrize(("behaviour", "settle"), [(UPSTREAM, 2.0), (NATIVE, 3.0)])
def test_detach(behaviour: Behaviour, settle: float) -> None:
    """Describe for the attachment's name, detach, let it settle, delete."""
    ec2, eni_id = with_two_enis()
    assert perform(DetachEni(3, eni_id, ""), ec2, behaviour) == EniDetached(3, eni_id)
    assert [call.api for call in ec2.calls] == [
        "DescribeNetworkInterfaces",
        "DetachNetworkInterface",
        "Pause",
        "DeleteNetworkInterface",
    ]
    assert ec2.calls[2] == Pause(settle)


@pytest.mark.parametrize(
    "api", ["DescribeNetworkInterfaces", "DetachNetworkInterface", "DeleteNetworkInterface"]
)
def test_what_is_gone_is_detached(api: str) -> None:
    """NotFound, at whichever step, is what we wanted."""
    ec2, eni_id = with_two_enis()
    ec2.faults.append(Fault(api, FailureReason.ENI_GONE))
    assert perform(DetachEni(3, eni_id, ""), ec2) == EniDetached(3, eni_id)


def test_an_eni_whose_attachment_is_gone_is_deleted_all_the_same() -> None:
    """A detach that took effect though its answer was lost must not leave the ENI to a sweep."""
    ec2, eni_id = with_two_enis()
    ec2.faults.append(Fault("DetachNetworkInterface", FailureReason.ENI_GONE, takes_effect=True))
    assert perform(DetachEni(3, eni_id, ""), ec2) == EniDetached(3, eni_id)
    assert list(ec2.interfaces) == [PRIMARY]


def test_an_attach_finds_another_index_where_its_own_is_taken() -> None:
    """An ENI that somebody else attached since the start must not stop the node from growing."""
    ec2, _ = with_two_enis()
    outcome = perform(ATTACH, ec2)
    assert isinstance(outcome, EniAttached)
    assert outcome.eni.device_index == 2
    assert apis(ec2)[1:4] == [
        "AttachNetworkInterface",
        "DescribeInstances",
        "AttachNetworkInterface",
    ]


def test_another_error_of_an_attach_is_told_as_it_is() -> None:
    """Asking for the indices is worth one try, and never hides why the attach failed."""
    for fault in ((), (Fault("DescribeInstances", FailureReason.DENIED),)):
        ec2 = FakeEc2()
        ec2.faults.append(Fault("AttachNetworkInterface", FailureReason.OTHER))
        ec2.faults.extend(fault)
        assert perform(ATTACH, ec2) == ActionFailed(ATTACH, FailureReason.OTHER)
        assert ec2.counts["AttachNetworkInterface"] == 1
        assert list(ec2.interfaces) == [PRIMARY]


def test_an_eni_that_ec2_does_not_know_yet_is_attached_a_little_later() -> None:
    """EC2 is eventually consistent; taken at its word, the ENI would be leaked."""
    ec2 = FakeEc2()
    ec2.faults.append(Fault("AttachNetworkInterface", FailureReason.ENI_GONE))
    assert isinstance(perform(ATTACH, ec2), EniAttached)


def test_delete_is_tried_again() -> None:
    """EC2 refuses for some seconds after a detach; what never goes is left to the sweep."""
    for times, tries in ((3, 4), (99, 12)):
        ec2, eni_id = with_two_enis()
        ec2.faults.extend([Fault("DeleteNetworkInterface", FailureReason.OTHER)] * times)
        assert perform(DetachEni(3, eni_id, ""), ec2) == EniDetached(3, eni_id)
        assert ec2.counts["DeleteNetworkInterface"] == tries


def test_describe() -> None:
    """One call shows every ENI of the instance."""
    ec2, _ = with_two_enis()
    assert perform(DescribeEnis(3, ""), ec2) == EnisDescribed(3, ec2.attached())
    assert apis(ec2) == ["DescribeNetworkInterfaces"]


@pytest.mark.parametrize("behaviour", [UPSTREAM, NATIVE])
@pytest.mark.parametrize("reason", FailureReason)
@pytest.mark.parametrize("nth", range(6))
def test_no_error_gets_out(behaviour: Behaviour, reason: FailureReason, nth: int) -> None:
    """Whichever call fails, and from there on every other: the recipe ends in an outcome."""
    for kind in ("attach", "elsewhere", "add", "remove", "detach", "describe", "look"):
        ec2, eni_id = with_two_enis()
        (block, *_) = ec2.interfaces[eni_id].blocks
        action: CloudAction = {
            "attach": AttachEni(1, 2, 2, ""),
            "add": AddBlocks(1, eni_id, 2, ""),
            "remove": RemoveBlocks(1, eni_id, (block,), ""),
            "detach": DetachEni(1, eni_id, ""),
            "describe": DescribeEnis(1, ""),
            "elsewhere": AttachEni(1, 2, 2, "", elsewhere=True),
            "look": LookElsewhere(1, ""),
        }[kind]  # type: ignore[assignment]
        recipe = recipe_for(action, IPS, behaviour, "token")
        outcome = _failing_from(recipe, ec2, nth, reason)
        assert outcome.id == 1


def _failing_from(recipe: object, ec2: FakeEc2, nth: int, reason: FailureReason) -> CloudOutcome:
    """Run a recipe of which every call from the nth fails."""
    real = ec2.answer
    made = 0

    def answer(call: object) -> object:
        nonlocal made
        if isinstance(call, Pause):
            return real(call)
        made += 1
        if made > nth:
            raise CallError(reason, reason.name)
        return real(call)  # type: ignore[arg-type]

    ec2.answer = answer  # type: ignore[method-assign,assignment]
    return run(recipe, ec2)  # type: ignore[arg-type]


def test_the_fake_is_honest() -> None:
    """A block is on one ENI at a time, and unassigning what is not there fails, as in EC2."""
    ec2, eni_id = with_two_enis()
    with pytest.raises(CallError):
        ec2.answer(UnassignPrivateIpAddresses(eni_id, (IPv4Network("192.0.2.1/32"),)))
    assert ec2.has(ec2.interfaces[eni_id].blocks[0].network_address)
    assert not ec2.has(IPv4Address("192.0.2.1"))


def created_in(ec2: FakeEc2) -> list[tuple[str | None, int]]:
    """Return in which subnets ENIs were asked for, with how many blocks."""
    calls = [call for call in ec2.calls if isinstance(call, CreateNetworkInterface)]
    return [(call.subnet_id, call.blocks) for call in calls]


ELSEWHERE = replace(ATTACH, elsewhere=True)


@pytest.mark.parametrize(
    ("free", "kind", "found"),
    [
        ({"roomy": 100}, IPS, True),
        ({"dry": 1}, IPS, False),
        ({"roomy": 17}, BlockKind.PREFIX, True),
        ({"small": 16}, BlockKind.PREFIX, False),
        ({}, IPS, False),
    ],
)
def test_another_subnet_is_looked_for(free: dict[str, int], kind: BlockKind, found: bool) -> None:  # noqa: FBT001 - a column
    """It must have room for an ENI's own address and one block; the primary ENI's is none."""
    ec2 = FakeEc2(subnet_free=50, elsewhere=free)
    assert perform(LookElsewhere(3, ""), ec2, kind=kind) == LookedElsewhere(3, found)
    assert apis(ec2) == ["DescribeSubnets"]


def test_a_look_that_fails_finds_nothing() -> None:
    """It is a way out, and no reason to describe ENIs or to pause."""
    ec2 = FakeEc2(elsewhere={"roomy": 100})
    ec2.faults.append(Fault("DescribeSubnets", FailureReason.DENIED))
    assert perform(LookElsewhere(3, ""), ec2) == LookedElsewhere(3, False)


def test_an_eni_elsewhere_is_made_in_the_roomiest_subnet() -> None:
    """The dry one is not asked first, which spares the call that would fail."""
    ec2 = FakeEc2(subnet_free=0, elsewhere={"roomy": 100, "small": 9})
    outcome = perform(ELSEWHERE, ec2)
    assert isinstance(outcome, EniAttached)
    assert (len(outcome.eni.blocks), outcome.short) == (4, None)
    assert created_in(ec2) == [("roomy", 4)]


def test_another_subnet_gives_what_it_has() -> None:
    """Its free addresses are known, so the count is right at once; one is the ENI's own."""
    ec2 = FakeEc2(subnet_free=0, elsewhere={"small": 3})
    outcome = perform(ELSEWHERE, ec2)
    assert isinstance(outcome, EniAttached)
    assert created_in(ec2) == [("small", 2)]
    assert outcome.short is FailureReason.SUBNET_FULL


def test_prefixes_are_looked_for_in_every_other_subnet() -> None:
    """Free addresses do not tell whole /28s: the next roomiest is tried where one has none."""
    ec2 = FakeEc2(subnet_free=0, elsewhere={"broken": 500, "whole": 300, "tiny": 16})
    ec2.faults.append(Fault("CreateNetworkInterface", FailureReason.NO_FREE_PREFIX_UNNAMED))
    outcome = perform(ELSEWHERE, ec2, kind=BlockKind.PREFIX)
    assert isinstance(outcome, EniAttached)
    assert created_in(ec2) == [("broken", 4), ("whole", 4)]
    tokens = {c.client_token for c in ec2.calls if isinstance(c, CreateNetworkInterface)}
    assert len(tokens) == 2


def test_where_others_ran_dry_meanwhile_the_first_subnet_is_asked() -> None:
    """With as many blocks as it has, as if nobody had looked elsewhere."""
    ec2 = FakeEc2(subnet_free=3, elsewhere={"dry": 1})
    outcome = perform(ELSEWHERE, ec2)
    assert isinstance(outcome, EniAttached)
    assert created_in(ec2) == [(None, 4), (None, 2)]


def test_an_error_that_is_not_dryness_ends_the_attach() -> None:
    """What is denied in one subnet is denied in the others."""
    ec2 = FakeEc2(subnet_free=0, elsewhere={"roomy": 100, "other": 90})
    ec2.faults.append(Fault("CreateNetworkInterface", FailureReason.DENIED))
    assert perform(ELSEWHERE, ec2) == ActionFailed(ELSEWHERE, FailureReason.DENIED)
    assert created_in(ec2) == [("roomy", 4)]


def test_a_zone_without_a_usable_subnet_fails_the_attach() -> None:
    """An empty answer is a failure with a reason, not a fault of ours."""
    recipe = recipe_for(ATTACH, IPS, UPSTREAM, "token")
    next(recipe)
    with pytest.raises(StopIteration) as stop:
        recipe.send(SubnetsDescribed(()))

    outcome = stop.value.value
    assert isinstance(outcome, ActionFailed)
    assert "no subnet may take an ENI" in outcome.detail
