"""The allocator's values as JSON and back, exactly: one encoding for the journal and the ledger.

Floats survive because JSON carries their shortest exact form; infinities and NaN are refused, for
no input of an allocator has one. Whatever does not decode raises ValueError.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from math import isfinite
from typing import Any, TypeVar

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
from cni.allocator.behaviour import Behaviour, Order, RecipeChoices
from cni.allocator.model import (
    Assignment,
    AttachedEni,
    Block,
    BlockKind,
    EniId,
    Instant,
    NodeLimits,
    SandboxKey,
)
from cni.allocator.targets import WarmEni, WarmIp, WarmPrefix, WarmTarget

Json = Any
"""What `json` reads and writes: nothing is known of it before it is decoded."""

Value = TypeVar("Value")
Member = TypeVar("Member", bound=Enum)

_TARGETS: dict[str, type[WarmIp | WarmPrefix | WarmEni]] = {
    "WarmIp": WarmIp,
    "WarmPrefix": WarmPrefix,
    "WarmEni": WarmEni,
}


# Plain values. Each `to_…` expects what the matching encoder wrote, and says what it got instead.


def to_number(raw: Json) -> float:
    """Decode a finite number; an int stays an int."""
    if isinstance(raw, int | float) and not isinstance(raw, bool) and isfinite(raw):
        return raw
    raise ValueError(f"{raw!r} is not a finite number")


def to_int(raw: Json) -> int:
    """Decode a whole number."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    raise ValueError(f"{raw!r} is not a whole number")


def to_bool(raw: Json) -> bool:
    """Decode true or false."""
    if isinstance(raw, bool):
        return raw
    raise ValueError(f"{raw!r} is neither true nor false")


def to_text(raw: Json) -> str:
    """Decode a text."""
    if isinstance(raw, str):
        return raw
    raise ValueError(f"{raw!r} is not a text")


def to_instant(raw: Json) -> Instant:
    """Decode an instant."""
    return Instant(to_number(raw))


def to_address(raw: Json) -> IPv4Address:
    """Decode an address."""
    return IPv4Address(to_text(raw))


def to_block(raw: Json) -> Block:
    """Decode a block."""
    return IPv4Network(to_text(raw))


def to_items(raw: Json, item: Callable[[Json], Value]) -> tuple[Value, ...]:
    """Decode a list."""
    if isinstance(raw, list):
        return tuple(item(one) for one in raw)
    raise ValueError(f"{raw!r} is not a list")


def to_pair(raw: Json) -> tuple[Json, Json]:
    """Decode a list of two."""
    parts = to_items(raw, lambda part: part)
    if len(parts) != 2:  # noqa: PLR2004 - a pair
        raise ValueError(f"{raw!r} is not a pair")
    return parts[0], parts[1]


def to_member(raw: Json, enum: type[Member]) -> Member:
    """Decode a member of an enum by its name."""
    name = to_text(raw)
    if name in enum.__members__:
        return enum[name]
    raise ValueError(f"{name!r} is no {enum.__name__}")


def to_object(raw: Json) -> Mapping[str, Json]:
    """Decode a JSON object whose missing fields are told by name."""
    if isinstance(raw, dict):
        return _Fields(raw)
    raise ValueError(f"{raw!r} is not an object")


class _Fields(dict[str, Json]):
    def __missing__(self, name: str) -> Json:
        raise ValueError(f"the field {name!r} is missing")


# Values of the model.


def from_sandbox(sandbox: SandboxKey) -> Json:
    """Encode a sandbox key."""
    return [sandbox.network, sandbox.container_id, sandbox.ifname]


def to_sandbox(raw: Json) -> SandboxKey:
    """Decode a sandbox key."""
    parts = to_items(raw, to_text)
    if len(parts) != len(SandboxKey._fields):
        raise ValueError(f"{raw!r} is not a sandbox")
    return SandboxKey(*parts)


def from_eni(eni: AttachedEni) -> Json:
    """Encode an ENI."""
    return {
        "eni": eni.eni_id,
        "device_index": eni.device_index,
        "primary_ip": str(eni.primary_ip),
        "blocks": _names(eni.blocks),
    }


def to_eni(raw: Json) -> AttachedEni:
    """Decode an ENI."""
    one = to_object(raw)
    return AttachedEni(
        EniId(to_text(one["eni"])),
        to_int(one["device_index"]),
        to_address(one["primary_ip"]),
        to_items(one["blocks"], to_block),
    )


def from_assignment(assignment: Assignment) -> Json:
    """Encode an assignment."""
    return {
        "sandbox": from_sandbox(assignment.sandbox),
        "address": str(assignment.address),
        "eni": assignment.eni_id,
        "device_index": assignment.device_index,
        "since": assignment.since,
    }


def to_assignment(raw: Json) -> Assignment:
    """Decode an assignment."""
    one = to_object(raw)
    return Assignment(
        to_sandbox(one["sandbox"]),
        to_address(one["address"]),
        EniId(to_text(one["eni"])),
        to_int(one["device_index"]),
        to_instant(one["since"]),
    )


def from_target(target: WarmTarget) -> Json:
    """Encode a warm target."""
    return {"target": type(target).__name__, **_plain(target)}


def to_target(raw: Json) -> WarmTarget:
    """Decode a warm target."""
    one = dict(to_object(raw))
    kind = _TARGETS.get(to_text(one.pop("target", "")))
    if kind is None or one.keys() != {field.name for field in fields(kind)}:
        raise ValueError(f"{raw!r} is not a warm target")
    return kind(**{name: to_int(value) for name, value in one.items()})


def from_limits(limits: NodeLimits) -> Json:
    """Encode the limits of a node."""
    return _plain(limits)


def to_limits(raw: Json) -> NodeLimits:
    """Decode the limits of a node."""
    one = to_object(raw)
    return NodeLimits(to_int(one["enis"]), to_int(one["blocks_per_eni"]), to_int(one["pods"]))


def from_behaviour(behaviour: Behaviour) -> Json:
    """Encode all fields of a behaviour: its name alone would tie a journal to one release."""
    return {**_plain(behaviour), "recipe": _plain(behaviour.recipe)}


def to_behaviour(raw: Json) -> Behaviour:
    """Decode a behaviour."""
    one = to_object(raw)
    recipe = RecipeChoices(**_to_plain(one["recipe"], RecipeChoices))
    return Behaviour(**{**_to_plain(one, Behaviour), "recipe": recipe})


def to_kind(raw: Json) -> BlockKind:
    """Decode a kind of block."""
    return to_member(raw, BlockKind)


def _names(blocks: Iterable[Block]) -> list[str]:
    return [str(block) for block in blocks]


def _plain(value: object) -> dict[str, Json]:
    """Return a dataclass's fields, enums by name."""
    found = {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]
    return {name: v.name if isinstance(v, Enum) else v for name, v in found.items()}


def _to_plain(raw: Json, kind: type[Any]) -> dict[str, Any]:
    """Return the fields of a dataclass of plain values, each decoded by its declared type."""
    one = to_object(raw)
    readers: dict[Any, Callable[[Json], Any]] = {
        str: to_text,
        int: to_int,
        float: to_number,
        bool: to_bool,
        Order: lambda name: to_member(name, Order),
        RecipeChoices: to_object,
    }
    return {field.name: readers[field.type](one[field.name]) for field in fields(kind)}


# Actions and outcomes.


def from_action(action: CloudAction) -> Json:
    """Encode an action, with why it was asked for."""
    one: dict[str, Json] = {"action": type(action).__name__, "id": action.id, "why": action.why}
    match action:
        case AttachEni():
            one |= {"device_index": action.device_index, "blocks": action.blocks}
            # What is rarely true is absent, as it is in older journals.
            return one | ({"elsewhere": True} if action.elsewhere else {})
        case AddBlocks():
            return {**one, "eni": action.eni_id, "count": action.count}
        case RemoveBlocks():
            blocks = _names(action.blocks)
            return {**one, "eni": action.eni_id, "blocks": blocks, "cut": list(action.cut)}
        case DetachEni():
            return {**one, "eni": action.eni_id}
        case DescribeEnis() | LookElsewhere():
            return one


def to_action(raw: Json) -> CloudAction:
    """Decode an action."""
    one = to_object(raw)
    name, number, why = one["action"], to_int(one["id"]), to_text(one["why"])
    if name == "AttachEni":
        index, blocks_wanted = to_int(one["device_index"]), to_int(one["blocks"])
        return AttachEni(number, index, blocks_wanted, why, to_bool(one.get("elsewhere", False)))
    if name == "DescribeEnis":
        return DescribeEnis(number, why)
    if name == "LookElsewhere":
        return LookElsewhere(number, why)
    if name not in ("AddBlocks", "RemoveBlocks", "DetachEni"):
        raise ValueError(f"{name!r} is no action")
    eni_id = EniId(to_text(one["eni"]))
    if name == "AddBlocks":
        return AddBlocks(number, eni_id, to_int(one["count"]), why)
    if name == "DetachEni":
        return DetachEni(number, eni_id, why)
    blocks = to_items(one["blocks"], to_block)
    return RemoveBlocks(number, eni_id, blocks, why, to_items(one["cut"], to_number))


def from_outcome(outcome: CloudOutcome) -> Json:  # noqa: PLR0911 - one for each outcome
    """Encode an outcome."""
    one: dict[str, Json] = {"outcome": type(outcome).__name__, "id": outcome.id}
    match outcome:
        case EniAttached():
            return {**one, "eni": from_eni(outcome.eni), "short": _reason_name(outcome.short)}
        case BlocksAdded():
            one |= {"eni": outcome.eni_id, "blocks": _names(outcome.blocks)}
            return {**one, "short": _reason_name(outcome.short)}
        case BlocksRemoved():
            return {**one, "eni": outcome.eni_id, "blocks": _names(outcome.blocks)}
        case EniDetached():
            return {**one, "eni": outcome.eni_id}
        case LookedElsewhere():
            return {**one, "found": outcome.found}
        case EnisDescribed():
            return {**one, "enis": [from_eni(eni) for eni in outcome.enis]}
        case ActionFailed():
            one |= {"reason": outcome.reason.name, "detail": outcome.detail}
            return {**one, "of": from_action(outcome.action)}


def to_outcome(raw: Json) -> CloudOutcome:  # noqa: PLR0911 - one for each outcome
    """Decode an outcome."""
    one = to_object(raw)
    name, number = one["outcome"], to_int(one["id"])
    if name == "EniAttached":
        return EniAttached(number, to_eni(one["eni"]), _to_reason(one["short"]))
    if name == "LookedElsewhere":
        return LookedElsewhere(number, to_bool(one["found"]))
    if name == "EnisDescribed":
        return EnisDescribed(number, to_items(one["enis"], to_eni))
    if name == "ActionFailed":
        reason = to_member(one["reason"], FailureReason)
        return ActionFailed(to_action(one["of"]), reason, to_text(one["detail"]))
    if name not in ("BlocksAdded", "BlocksRemoved", "EniDetached"):
        raise ValueError(f"{name!r} is no outcome")
    eni_id = EniId(to_text(one["eni"]))
    if name == "EniDetached":
        return EniDetached(number, eni_id)
    blocks = to_items(one["blocks"], to_block)
    if name == "BlocksRemoved":
        return BlocksRemoved(number, eni_id, blocks)
    return BlocksAdded(number, eni_id, blocks, _to_reason(one["short"]))


def _reason_name(reason: FailureReason | None) -> str | None:
    return None if reason is None else reason.name


def _to_reason(raw: Json) -> FailureReason | None:
    return None if raw is None else to_member(raw, FailureReason)
