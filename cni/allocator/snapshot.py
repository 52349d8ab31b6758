"""An allocator's whole state as JSON and back, exactly: what a journal in mid-life opens with.

What the settings give (target, limits, kind, behaviour, cooldown, taken indices) is not written
here: `restore` fills an allocator that was made from the same settings and without ENIs. Every
other field is either in PLAIN, with its way to JSON and back, or a link between objects, which
the functions below write by name and tie again. A test holds the fields of all classes against
both, so that a field that somebody adds cannot be forgotten.

An address stands in three places at most: in its block's list, which also says that it exists; in
`held`, `queue` (cooling, in order) or a shelf (free, in order); in neither of these while leaving.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from math import inf
from typing import Any, TypeVar

from cni.allocator.actions import FailureReason
from cni.allocator.allocator import Allocator
from cni.allocator.encoding import (
    Json,
    from_action,
    from_assignment,
    from_sandbox,
    to_action,
    to_address,
    to_assignment,
    to_block,
    to_bool,
    to_instant,
    to_int,
    to_items,
    to_member,
    to_number,
    to_object,
    to_pair,
    to_sandbox,
    to_text,
)
from cni.allocator.extremes import Bucket, Extremes
from cni.allocator.gathering import Gathering
from cni.allocator.model import AttachedEni, EniId, Instant
from cni.allocator.places import Places
from cni.allocator.planner import Planner
from cni.allocator.pool import Pool
from cni.allocator.shelves import PooledBlock, PooledEni, Shelf, Slot
from cni.allocator.ticking import Step, Ticking, _nothing

Item = TypeVar("Item")

Codec = tuple[Callable[[Any], Json], Callable[[Json], Any]]
"""How a field becomes JSON, and how it comes back; ValueError for what never went."""


def _from_mark(mark: float) -> Json:
    """Encode a number that may be infinite, which JSON does not know."""
    return mark if -inf < mark < inf else str(mark)


def _to_mark(raw: Json) -> float:
    return float(raw) if raw in ("inf", "-inf") else to_number(raw)


def _same(value: Json) -> Json:
    return value


COUNT: Codec = (_same, to_int)
FLAG: Codec = (_same, to_bool)
TEXT: Codec = (_same, to_text)
MARK: Codec = (_from_mark, _to_mark)
NAMES: Codec = (sorted, lambda raw: set(to_items(raw, to_text)))
REASON: Codec = (
    lambda reason: None if reason is None else reason.name,
    lambda raw: None if raw is None else to_member(raw, FailureReason),
)
ACTIONS: Codec = (
    lambda by_id: [from_action(action) for action in by_id.values()],
    lambda raw: {action.id: action for action in to_items(raw, to_action)},
)
QUARANTINE: Codec = (
    lambda until: [[str(block), at] for block, at in until.items()],
    lambda raw: {to_block(block): to_number(at) for block, at in to_items(raw, to_pair)},
)
BUCKETS: Codec = (
    lambda past: [list(bucket) for bucket in past],
    lambda raw: deque(to_items(raw, lambda one: Bucket(*to_items(one, to_number)))),  # type: ignore[arg-type]
)

PLAIN: Mapping[type, Mapping[str, Codec]] = {
    Pool: {
        "packed": FLAG,
        "total": COUNT,
        "assigned": COUNT,
        "cooling": COUNT,
        "free": COUNT,
        "blocks_total": COUNT,
        "blocks_free": COUNT,
        "foreign": COUNT,
        "available": COUNT,
        "thaw_at": MARK,
        "_lowest_level": COUNT,
    },
    Places: {"ready": COUNT, "_buckets": COUNT, "_count": COUNT},
    PooledEni: {
        "eni_id": TEXT,
        "device_index": COUNT,
        "primary_ip": (str, to_address),
        "attached_at": MARK,
        "capacity": COUNT,
        "assigned": COUNT,
        "cooling": COUNT,
        "serving": COUNT,
        "leaving": FLAG,
        "busy": COUNT,
        "suspect": FLAG,
        "place": COUNT,
        "bit": COUNT,
    },
    PooledBlock: {
        "block": (str, to_block),
        "foreign": FLAG,
        "leaving": FLAG,
        "assigned": COUNT,
        "cooling": COUNT,
    },
    Planner: {
        "in_flight": ACTIONS,
        "started": FLAG,
        "due": MARK,
        "low_water": MARK,
        "high_water": MARK,
        "idle_enis_matter": FLAG,
        "extremes_until": MARK,
        "assigned_high": MARK,
        "assigned_low": MARK,
        "backoff_until": MARK,
        "growth_failure": REASON,
        "describe_why": TEXT,
        "describe_after": MARK,
        "_touched": NAMES,
        "_attaching": FLAG,
        "_last_id": COUNT,
        "_learnt_enis": COUNT,
        "_learnt_until": MARK,
        "_quarantine": QUARANTINE,
        "elsewhere_until": MARK,
        "dry_enis": NAMES,
        "look_why": TEXT,
    },
    Gathering: {
        "_hold_s": MARK,
        "_held_since": MARK,
        "_removed_at": MARK,
        "_shrink_after": MARK,
        "_regretted_at": MARK,
        "_failure_pause_s": MARK,
        "_gather_s": MARK,
        "_spared": FLAG,
    },
    Extremes: {"high": COUNT, "low": COUNT, "until": MARK, "_first": COUNT, "_past": BUCKETS},
    Ticking: {
        "_grid": MARK,
        "_worked": FLAG,
        "_wanted": COUNT,
        "_over": COUNT,
        "_failed_enis": NAMES,
        "_shrunk_at": MARK,
    },
}
"""Fields that link to nothing, by class: each with its way to JSON and back."""

ADDED_LATER = frozenset({"elsewhere_until", "dry_enis", "look_why"})
"""Fields that journals from before them lack; an allocator that was just made has them right."""

_NO_BLOCK = IPv4Network("0.0.0.0/32")
_NO_ENI = AttachedEni(EniId(""), 0, _NO_BLOCK.network_address, ())

STEPS = ("_ask", "_increase", "_decrease", "_free_one")
"""What a tick of `Ticking` can have before it, besides nothing."""


def capture(allocator: Allocator) -> Json:
    """Return all that a life has brought about; changes nothing."""
    planner = allocator._planner
    return {
        "dropped": list(allocator.dropped),
        "waiting": [[from_sandbox(one), at] for one, at in allocator._waiting.items()],
        "pool": _from_pool(allocator._pool),
        "planner": _plain(planner, Planner) | _from_planner(planner),
    }


def restore(allocator: Allocator, raw: Json) -> None:
    """Bring an allocator without ENIs into a state; ValueError or KeyError where it is none."""
    state = to_object(raw)
    allocator.dropped = to_items(state["dropped"], to_text)
    for sandbox, at in to_items(state["waiting"], to_pair):
        allocator._waiting[to_sandbox(sandbox)] = to_instant(at)
    _to_pool(allocator._pool, to_object(state["pool"]))
    planner, of_planner = allocator._planner, to_object(state["planner"])
    _set_plain(planner, of_planner, Planner)
    _to_planner(planner, of_planner)


def _plain(value: object, kind: type) -> dict[str, Json]:
    """Encode the fields that link to nothing; a field's name goes without its underscore."""
    return {
        name.removeprefix("_"): encode(getattr(value, name))
        for name, (encode, _) in PLAIN[kind].items()
    }


def _set_plain(value: object, one: Mapping[str, Json], kind: type) -> None:
    for name, (_, decode) in PLAIN[kind].items():
        key = name.removeprefix("_")
        if key in one or name not in ADDED_LATER:
            setattr(value, name, decode(one[key]))


# The pool.


def _from_pool(pool: Pool) -> dict[str, Json]:
    orphans = [[block.eni.eni_id, str(block.block)] for block in pool._orphans]
    levels = [[level, mask] for level, mask in enumerate(pool._levels) if mask]
    return {
        **_plain(pool, Pool),
        "dice": pool.dice.state,
        "enis": [_from_eni(eni) for eni in pool.enis.values()],
        "places": _from_places(pool._places, lambda eni: eni.eni_id),
        "held": [from_assignment(one.assignment) for one in pool.held.values() if one.assignment],
        "queue": [[str(slot.address), slot.until] for slot in pool._cooling],
        "orphans": orphans,
        "levels": {"size": len(pool._levels), "marked": levels},
    }


def _to_pool(pool: Pool, one: Mapping[str, Json]) -> None:
    slots: dict[IPv4Address, Slot] = {}
    for raw in to_items(one["enis"], to_object):
        eni = _to_eni(raw, slots)
        pool.enis[eni.eni_id] = eni
    _set_plain(pool, one, Pool)
    pool.dice.state = to_int(one["dice"])
    _to_places(pool._places, to_object(one["places"]), lambda _, name: pool.enis[to_text(name)])  # type: ignore[index]
    for assignment in to_items(one["held"], to_assignment):
        slot = slots[assignment.address]
        slot.assignment = assignment
        pool.held[assignment.sandbox] = slot
    for address, until in to_items(one["queue"], to_pair):
        slot = slots[to_address(address)]
        slot.until = to_number(until)
        pool._cooling.append(slot)
    for eni_id, block in to_items(one["orphans"], to_pair):
        pool._orphans.append(pool.enis[eni_id].blocks[to_block(block)])
    levels = to_object(one["levels"])
    pool._levels = [0] * to_int(levels["size"])
    for level, mask in to_items(levels["marked"], to_pair):
        pool._levels[to_int(level)] = to_int(mask)


def _from_places(places: Places[Item], encode: Callable[[Item], Json]) -> Json:
    at = [[place, encode(item)] for place, item in enumerate(places.at) if item is not None]
    return {**_plain(places, Places), "size": len(places.at), "at": at}


def _to_places(
    places: Places[Item], one: Mapping[str, Json], decode: Callable[[int, Json], Item]
) -> None:
    _set_plain(places, one, Places)
    places.at = [None] * to_int(one["size"])
    for place, item in to_items(one["at"], to_pair):
        places.at[to_int(place)] = decode(place, item)


def _from_eni(eni: PooledEni) -> Json:
    return {
        **_plain(eni, PooledEni),
        "blocks": [_from_block(block) for block in eni.blocks.values()],
        "shelves": _from_places(eni.shelves, lambda shelf: _addresses(shelf.slots)),
    }


def _to_eni(one: Mapping[str, Json], slots: dict[IPv4Address, Slot]) -> PooledEni:
    eni = PooledEni(_NO_ENI, Instant(0.0), 0)
    _set_plain(eni, one, PooledEni)
    blocks = to_items(one["blocks"], to_object)
    for raw in blocks:
        block = PooledBlock(_NO_BLOCK, eni, foreign=False)
        _set_plain(block, raw, PooledBlock)
        block.slots = [Slot(address, block) for address in to_items(raw["slots"], to_address)]
        slots.update((slot.address, slot) for slot in block.slots)
        eni.blocks[block.block] = block

    def to_shelf(place: int, raw: Json) -> Shelf:
        shelf = Shelf(eni, place)
        shelf.slots.extend(slots[address] for address in to_items(raw, to_address))
        return shelf

    _to_places(eni.shelves, to_object(one["shelves"]), to_shelf)
    for block, raw in zip(eni.blocks.values(), blocks, strict=True):
        if raw["shelf"] is not None:
            block.shelf = eni.shelves.at[to_int(raw["shelf"])]
    return eni


def _from_block(block: PooledBlock) -> Json:
    place = None if block.shelf is None else block.shelf.place
    return {**_plain(block, PooledBlock), "shelf": place, "slots": _addresses(block.slots)}


def _addresses(slots: Iterable[Slot]) -> list[str]:
    return [str(slot.address) for slot in slots]


# The planners.


def _from_planner(planner: Planner) -> dict[str, Json]:
    if isinstance(planner, Gathering):
        return {**_plain(planner, Gathering), "extremes": _plain(planner._extremes, Extremes)}
    assert isinstance(planner, Ticking), planner
    enis = planner.pool.enis
    # An ENI that vanished meanwhile is passed over when its turn comes.
    ring = [eni.eni_id for eni in planner._ring if enis.get(eni.eni_id) is eni]
    return {**_plain(planner, Ticking), "steps": [*map(_step_name, planner._steps)], "ring": ring}


def _to_planner(planner: Planner, one: Mapping[str, Json]) -> None:
    if isinstance(planner, Gathering):
        _set_plain(planner, one, Gathering)
        _set_plain(planner._extremes, to_object(one["extremes"]), Extremes)
        return
    assert isinstance(planner, Ticking), planner
    _set_plain(planner, one, Ticking)
    known: dict[str, Step] = {name: getattr(planner, name) for name in STEPS}
    known[_nothing.__name__] = _nothing
    planner._steps = deque(known[name] for name in to_items(one["steps"], to_text))
    planner._ring = deque(planner.pool.enis[EniId(name)] for name in to_items(one["ring"], to_text))


def _step_name(step: Step) -> str:
    name: str = step.__name__
    return name
