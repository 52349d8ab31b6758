"""Each action as a generator of calls: their order, the waiting, and the clean-up.

A recipe asks with `yield call`; whoever performs it sends the reply or throws `CallError` in,
and gets the outcome as the generator's return value. A recipe is short, linear, and holds
nothing of the pool; it never lets a CallError out. The daemon and the simulator run the same
recipes, so a simulated count of calls is the real one.
"""

from collections.abc import Generator
from typing import TypeVar, assert_never

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
from cni.allocator.behaviour import Behaviour, RecipeChoices
from cni.allocator.model import AttachedEni, Block, BlockKind, EniId
from cni.cloud.calls import (
    AssignPrivateIpAddresses,
    AttachNetworkInterface,
    BlocksAssigned,
    Call,
    CallError,
    CreateNetworkInterface,
    DeleteNetworkInterface,
    DescribeInstances,
    DescribeNetworkInterfaces,
    DescribeSubnets,
    DetachNetworkInterface,
    InstanceDescribed,
    InterfaceAttached,
    InterfaceCreated,
    InterfacesDescribed,
    ModifyNetworkInterfaceAttribute,
    Pause,
    ReadMetadata,
    Reply,
    SubnetsDescribed,
    UnassignPrivateIpAddresses,
    UsableSubnet,
)

Recipe = Generator[Call, Reply, CloudOutcome]

DRY = frozenset(
    {
        FailureReason.SUBNET_FULL,
        FailureReason.NO_FREE_PREFIX,
        FailureReason.NO_FREE_PREFIX_UNNAMED,
    }
)

Kind = TypeVar("Kind", bound=Reply)


def recipe_for(
    action: CloudAction, kind: BlockKind, behaviour: Behaviour, token: str = ""
) -> Recipe:
    """Return the calls that make up an action; `token` makes creating an ENI idempotent.

    Choose the token so that no other action of this instance, past or future, has it.
    """
    choices = behaviour.recipe
    match action:
        case AttachEni():
            steps = _attach_eni(action, kind, choices, token)
        case AddBlocks():
            steps = _add_blocks(action, kind, choices)
        case RemoveBlocks():
            steps = _remove_blocks(action)
        case DetachEni():
            steps = _detach_eni(action, choices)
        case DescribeEnis():
            steps = _describe_enis(action)
        case LookElsewhere():
            steps = _look_elsewhere(action, kind)
        case _:
            assert_never(action)
    return _never_raising(action, steps)


def _never_raising(action: CloudAction, steps: Recipe) -> Recipe:
    """Turn what a recipe cannot handle into the outcome ActionFailed."""
    try:
        return (yield from steps)
    except CallError as error:
        return ActionFailed(action, error.reason, str(error))


def _expect(kind: type[Kind], reply: Reply) -> Kind:
    """Return the reply, which can only be of the kind that its call has."""
    assert isinstance(reply, kind), (kind, reply)
    return reply


# An ENI more.


def _attach_eni(action: AttachEni, kind: BlockKind, choices: RecipeChoices, token: str) -> Recipe:
    """Create, attach, set delete-on-termination, and wait until the node shows it."""
    if choices.describes_first:
        subnets = _expect(SubnetsDescribed, (yield DescribeSubnets())).subnets
        if not subnets:
            # None of the zone's subnets is tagged for us, or all are excluded.
            raise CallError(FailureReason.OTHER, "NoSubnet", "no subnet may take an ENI")
        ask = _create_call(action, kind, token, action.blocks, subnets[0].subnet_id)
        created, short = _expect(InterfaceCreated, (yield ask)), None
    else:
        created, short = yield from _create(action, kind, token)
    eni_id = created.eni_id
    try:
        attached = yield from _attach(eni_id, action.device_index, choices)
    except CallError as error:
        if error.reason is not FailureReason.UNKNOWN_OUTCOME:
            # An ENI that is created but not attached is invisible to every later reconcile:
            # delete it now or it is leaked until a sweep finds it.
            yield from _delete(eni_id, choices)
        raise
    try:
        yield ModifyNetworkInterfaceAttribute(eni_id, attached.attachment_id)
    except CallError:
        # Without delete-on-termination the ENI would outlive its instance. (Upstream forgets
        # this failure when its clean-up succeeds, awsutils.go:1011.)
        yield from _detach_and_delete(eni_id, attached.attachment_id, choices)
        raise
    shown = yield from _until_visible(eni_id, choices)
    if shown is None:
        yield from _detach_and_delete(eni_id, attached.attachment_id, choices)
        return ActionFailed(action, FailureReason.NOT_VISIBLE, f"{eni_id} did not appear")
    eni = AttachedEni(eni_id, shown.device_index, created.primary_ip, created.blocks)
    return EniAttached(action.id, eni, short)


def _attach(
    eni_id: EniId, index: int, choices: RecipeChoices
) -> Generator[Call, Reply, InterfaceAttached]:
    """Attach a new ENI; once more where its index is taken, or EC2 does not know it yet."""
    if choices.describes_first:
        index = _free_index((yield DescribeInstances()))
        return _expect(InterfaceAttached, (yield AttachNetworkInterface(eni_id, index)))
    try:
        return _expect(InterfaceAttached, (yield AttachNetworkInterface(eni_id, index)))
    except CallError as error:
        if error.reason is FailureReason.ENI_GONE:
            # EC2 is eventually consistent: for seconds it may not know what it has just made.
            yield Pause(choices.delete_first_s)
        elif error.reason is FailureReason.OTHER:
            # Somebody else's ENI may hang there, since after the daemon's start.
            try:
                described = yield DescribeInstances()
            except CallError:
                raise error from None
            if index not in _expect(InstanceDescribed, described).device_indices:
                raise
            index = _free_index(described)
        else:
            raise
    return _expect(InterfaceAttached, (yield AttachNetworkInterface(eni_id, index)))


def _free_index(reply: Reply) -> int:
    taken = _expect(InstanceDescribed, reply).device_indices
    return next(n for n in range(len(taken) + 1) if n not in taken)


def _create_call(
    action: AttachEni, kind: BlockKind, token: str, count: int, subnet_id: str | None = None
) -> CreateNetworkInterface:
    # Another count or subnet is another request: EC2 refuses a token that comes with other values.
    number = f"{token}-{action.id}-{count}" + (f"-{subnet_id}" if subnet_id else "")
    return CreateNetworkInterface(kind, count, number, subnet_id)


Made = tuple[InterfaceCreated, FailureReason | None]
"""A new ENI, and why it has fewer blocks than asked for, where it has."""


def _create(action: AttachEni, kind: BlockKind, token: str) -> Generator[Call, Reply, Made]:
    """Create the ENI in the primary ENI's subnet, with fewer blocks where it lacks them all."""
    if action.elsewhere:
        made = yield from _create_elsewhere(action, kind, token)
        if made is not None:
            return made
    count, short = action.blocks, None
    while True:
        try:
            call = _create_call(action, kind, token, count)
            return _expect(InterfaceCreated, (yield call)), short
        except CallError as error:
            if error.reason not in DRY or count <= 1:
                raise
            count, short = count // 2, error.reason


def _create_elsewhere(
    action: AttachEni, kind: BlockKind, token: str
) -> Generator[Call, Reply, Made | None]:
    """Create the ENI in another subnet, the roomiest that can; None where all of them are dry."""
    for subnet in (yield from _subnets_with_room(kind)):
        # How many single addresses it has is known; the ENI itself takes one.
        count = action.blocks
        most = count if kind is BlockKind.PREFIX else min(count, subnet.free - 1)
        try:
            call = _create_call(action, kind, token, most, subnet.subnet_id)
            made = _expect(InterfaceCreated, (yield call))
        except CallError as error:
            if error.reason not in DRY:
                raise
        else:
            return made, FailureReason.SUBNET_FULL if most < count else None
    return None


def _subnets_with_room(kind: BlockKind) -> Generator[Call, Reply, tuple[UsableSubnet, ...]]:
    """Return the subnets, but the primary ENI's, that can take an ENI with one block.

    The roomiest comes first. None where EC2 does not say: it is no more than a way out.
    """
    try:
        shown = _expect(SubnetsDescribed, (yield DescribeSubnets())).subnets
    except CallError:
        return ()
    # The ENI itself takes an address besides; how many whole /28s there are nobody tells.
    return tuple(one for one in shown if not one.own and one.free > kind.addresses)


def _until_visible(
    eni_id: EniId, choices: RecipeChoices
) -> Generator[Call, Reply, AttachedEni | None]:
    """Poll the node's metadata until it shows the ENI; None where it never does."""
    pause = choices.visible_first_s
    for left in reversed(range(choices.visible_polls)):
        try:
            shown = _expect(InterfacesDescribed, (yield ReadMetadata()))
        except CallError:
            # As good as not shown: given up now, the ENI would be attached and nobody's.
            shown = InterfacesDescribed(())
        for interface in shown.interfaces:
            if interface.eni.eni_id == eni_id:
                return interface.eni
        if left:
            yield Pause(pause, choices.visible_jitter)
        pause = min(pause * choices.visible_factor, choices.visible_max_s)
    return None


# Blocks more, blocks less.


def _add_blocks(action: AddBlocks, kind: BlockKind, choices: RecipeChoices) -> Recipe:
    """Ask for the whole count; then for less, as far as that can help."""
    count, short = action.count, None
    while True:
        call = AssignPrivateIpAddresses(action.eni_id, kind, count)
        try:
            added = _expect(BlocksAssigned, (yield call)).blocks
        except CallError as error:
            if error.reason is FailureReason.ENI_FULL:
                # The pool is out of date: EC2 has more on this ENI than it knows of.
                blocks = yield from _blocks_of(action.eni_id)
                return BlocksAdded(action.id, action.eni_id, blocks, error.reason)
            if error.reason is FailureReason.UNKNOWN_OUTCOME:
                # It may have taken effect. Upstream asks for one more and learns from its next
                # reconcile what is there; here the pool asks EC2 before anything else.
                raise
            if choices.retries_with_one and short is None:
                count, short = 1, error.reason
            elif not choices.retries_with_one and error.reason in DRY and count > 1:
                count, short = count // 2, error.reason
            else:
                raise
        else:
            return BlocksAdded(action.id, action.eni_id, added, short if short in DRY else None)


def _blocks_of(eni_id: EniId) -> Generator[Call, Reply, tuple[Block, ...]]:
    shown = _expect(InterfacesDescribed, (yield DescribeNetworkInterfaces((eni_id,))))
    return tuple(block for interface in shown.interfaces for block in interface.eni.blocks)


def _remove_blocks(action: RemoveBlocks) -> Recipe:
    """Give blocks back; EC2 wants prefixes and secondary IPs in calls of their own."""
    for length in sorted({block.prefixlen for block in action.blocks}):
        same = tuple(block for block in action.blocks if block.prefixlen == length)
        yield UnassignPrivateIpAddresses(action.eni_id, same)
    return BlocksRemoved(action.id, action.eni_id, action.blocks)


# An ENI less.


def _detach_eni(action: DetachEni, choices: RecipeChoices) -> Recipe:
    """Detach and delete; an ENI that EC2 does not know is gone already."""
    eni_id = action.eni_id
    try:
        # Only EC2 knows the attachment's name, also after a restart.
        shown = _expect(InterfacesDescribed, (yield DescribeNetworkInterfaces((eni_id,))))
        for interface in shown.interfaces:
            if interface.attachment_id:
                yield from _detach(eni_id, interface.attachment_id)
        yield Pause(choices.detach_settle_s)
        yield from _delete(eni_id, choices)
    except CallError as error:
        if error.reason is not FailureReason.ENI_GONE:
            raise
    return EniDetached(action.id, eni_id)


def _detach_and_delete(
    eni_id: EniId, attachment_id: str, choices: RecipeChoices
) -> Generator[Call, Reply, None]:
    """Clean up an ENI that cannot be used.

    If it cannot be detached, the node has an ENI that nobody knows of: CallError with
    UNKNOWN_OUTCOME makes the pool ask EC2 and take it in.
    """
    try:
        yield from _detach(eni_id, attachment_id)
    except CallError as error:
        raise CallError(FailureReason.UNKNOWN_OUTCOME, error.code, str(error)) from error
    yield Pause(choices.detach_settle_s)
    yield from _delete(eni_id, choices)


def _detach(eni_id: EniId, attachment_id: str) -> Generator[Call, Reply, None]:
    """Detach an ENI; an attachment that EC2 does not know is what was wanted.

    The ENI may well be there still, detached by a request whose answer was lost: it is deleted.
    """
    try:
        yield DetachNetworkInterface(eni_id, attachment_id)
    except CallError as error:
        if error.reason is not FailureReason.ENI_GONE:
            raise


def _delete(eni_id: EniId, choices: RecipeChoices) -> Generator[Call, Reply, None]:
    """Delete a detached ENI; EC2 refuses for some seconds after the detach.

    What never succeeds is left to the sweep for leaked ENIs.
    """
    pause = choices.delete_first_s
    for left in reversed(range(choices.delete_tries)):
        try:
            yield DeleteNetworkInterface(eni_id)
        except CallError as error:
            if error.reason is FailureReason.ENI_GONE:
                return
            if left:
                yield Pause(pause)
            pause = min(pause * 2, choices.visible_max_s)
        else:
            return


# What is there.


def _describe_enis(action: DescribeEnis) -> Recipe:
    """Describe every ENI of this instance, from EC2 itself and never from metadata alone."""
    shown = _expect(InterfacesDescribed, (yield DescribeNetworkInterfaces()))
    return EnisDescribed(action.id, tuple(interface.eni for interface in shown.interfaces))


def _look_elsewhere(action: LookElsewhere, kind: BlockKind) -> Recipe:
    """Tell whether another subnet than the primary ENI's has room; changes nothing."""
    return LookedElsewhere(action.id, bool((yield from _subnets_with_room(kind))))
