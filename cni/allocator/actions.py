"""The values that cross the border between the allocator and its driver.

An action is what the allocator asks of the cloud; its outcome, named by the action's id, is
what became of it. Every action ends in exactly one outcome: its own, or `ActionFailed`.
`why` is for people (logs, reports) and takes no part in comparisons.
"""

from dataclasses import dataclass, field
from enum import Enum

from cni.allocator.model import AttachedEni, Block, EniId


@dataclass(frozen=True, slots=True)
class AttachEni:
    """Create an ENI with `blocks` blocks on it and attach it at `device_index`.

    `elsewhere`: the subnet of the primary ENI was dry a moment ago, and another one was not.
    """

    id: int
    device_index: int
    blocks: int
    why: str = field(compare=False)
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class AddBlocks:
    """Add `count` blocks, of EC2's choice, to an attached ENI."""

    id: int
    eni_id: EniId
    count: int
    why: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class RemoveBlocks:
    """Give these blocks of an attached ENI back to the subnet.

    `cut` holds the instants until which addresses among them would have cooled.
    """

    id: int
    eni_id: EniId
    blocks: tuple[Block, ...]
    why: str = field(compare=False)
    cut: tuple[float, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class DetachEni:
    """Detach an ENI without sandboxes and delete it."""

    id: int
    eni_id: EniId
    why: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class DescribeEnis:
    """Tell what EC2 shows on this node: every managed ENI with all its blocks."""

    id: int
    why: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class LookElsewhere:
    """Tell whether another subnet of the zone can take an ENI: a subnet of ours is dry."""

    id: int
    why: str = field(compare=False)


CloudAction = AttachEni | AddBlocks | RemoveBlocks | DetachEni | DescribeEnis | LookElsewhere


@dataclass(frozen=True, slots=True)
class EniAttached:
    """The ENI is attached, visible on the node and set up; sandboxes may use it.

    `short` tells why it has fewer blocks than were asked for, where it has.
    """

    id: int
    eni: AttachedEni
    short: "FailureReason | None" = None


@dataclass(frozen=True, slots=True)
class BlocksAdded:
    """EC2 added these blocks; `short` tells why there are fewer than asked for, where there are."""

    id: int
    eni_id: EniId
    blocks: tuple[Block, ...]
    short: "FailureReason | None" = None


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """EC2 took these blocks back."""

    id: int
    eni_id: EniId
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class EniDetached:
    """The ENI is gone from the node."""

    id: int
    eni_id: EniId


@dataclass(frozen=True, slots=True)
class EnisDescribed:
    """What EC2 shows on this node."""

    id: int
    enis: tuple[AttachedEni, ...]


@dataclass(frozen=True, slots=True)
class LookedElsewhere:
    """Whether another subnet has room for an ENI; no, too, where EC2 does not say."""

    id: int
    found: bool


class FailureReason(Enum):
    """Why a call failed, as far as the allocator acts on it; codes stay in `cni/cloud`."""

    SUBNET_FULL = "the subnet has too few free addresses"
    NO_FREE_PREFIX = "the subnet has no free aligned /28"
    NO_FREE_PREFIX_UNNAMED = "the subnet has no free aligned /28, but EC2 calls it a bad value"
    ENI_FULL = "the ENI holds as many blocks as its type allows"
    ENI_LIMIT = "the instance holds as many ENIs as its type allows"
    ENI_GONE = "EC2 does not know the ENI"
    THROTTLED = "EC2 refused the request rate"
    DENIED = "the node's role lacks a permission"
    NOT_VISIBLE = "the instance's metadata does not show the ENI"
    UNKNOWN_OUTCOME = "no answer came; the call may have taken effect"
    OTHER = "EC2 answered with another error"


@dataclass(frozen=True, slots=True)
class ActionFailed:
    """The action did not succeed, and its recipe has cleaned up what it could."""

    action: CloudAction
    reason: FailureReason
    detail: str = field(default="", compare=False)

    @property
    def id(self) -> int:
        """The id of the failed action."""
        return self.action.id


CloudOutcome = (
    EniAttached
    | BlocksAdded
    | BlocksRemoved
    | EniDetached
    | EnisDescribed
    | LookedElsewhere
    | ActionFailed
)
