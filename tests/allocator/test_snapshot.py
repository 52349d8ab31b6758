"""A life that is cut anywhere goes on from its snapshot as if nothing had happened."""

import json
from collections import deque
from ipaddress import IPv4Address, IPv4Network
from math import inf, isinf
from typing import Any

import pytest

from cni.allocator import snapshot
from cni.allocator.actions import AddBlocks, FailureReason
from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.allocator.extremes import Bucket, Extremes
from cni.allocator.gathering import Gathering
from cni.allocator.journal import Journaled, JournalError, Start, replay
from cni.allocator.model import BlockKind, EniId, Instant
from cni.allocator.places import Dice, Places
from cni.allocator.planner import Planner
from cni.allocator.pool import Pool, eni_as_attached
from cni.allocator.shelves import PooledBlock, PooledEni, Shelf, Slot
from cni.allocator.ticking import Ticking, _nothing
from tests.allocator.fake_ec2 import Driver
from tests.allocator.likeness import OF_ALLOCATOR, difference_of, fields_of
from tests.allocator.test_journal import A_NODE, a_day, played

ELSEWHERE: dict[type, set[str]] = {
    Allocator: set(OF_ALLOCATOR),
    # Given by the settings: kind … _shuffles. Tied again by hand: the rest.
    Pool: {"kind", "per_block", "blocks_per_eni", "cooldown_s", "behaviour"}
    | {"_lead_s", "_counts_cooling", "_shuffles"}
    | {"dice", "enis", "held", "_cooling", "_places", "_orphans", "_levels"},
    Dice: {"state"},
    Places: {"at"},
    PooledEni: {"blocks", "shelves"},
    PooledBlock: {"eni", "shelf", "slots"},
    Shelf: {"eni", "place", "bit", "slots"},
    Slot: {"address", "block", "assignment", "until"},
    Planner: {"pool", "target", "limits", "taken", "waiting", "behaviour"},
    Gathering: {"_extremes"},
    Extremes: {"memory_s", "_width"},
    Ticking: {"_tick_s", "_pausing", "_steps", "_ring"},
}
"""Fields that are not in `snapshot.PLAIN`: the settings give them, or they are links."""


class Cutter:
    """Write a journal, and open a new segment after each so many lines."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.lines = 0
        self.segments: list[list[str]] = [[]]
        self.allocator: Journaled | None = None

    def make(self, **given: Any) -> Journaled:
        self.allocator = Journaled(Start(**given), self.write)
        return self.allocator

    def write(self, line: str) -> None:
        self.segments[-1].append(line)
        self.lines += 1
        if self.allocator is not None and self.lines % self.every == 0:
            header = self.allocator.snapshot()
            restored = Start.decode(json.loads(header)).allocator()
            assert difference_of(self.allocator, restored) is None
            self.segments.append([header])


def cut_day(behaviour: Behaviour, kind: BlockKind, every: int) -> list[list[str]]:
    """Play a day; return its segments."""
    cutter = Cutter(every)
    played(Driver(behaviour=behaviour, kind=kind, make=cutter.make, **A_NODE))
    return cutter.segments


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("kind", BlockKind)
@pytest.mark.parametrize("behaviour", [NATIVE, UPSTREAM])
def test_a_day_cut_anywhere_replays_in_pieces(
    behaviour: Behaviour, kind: BlockKind, every: int
) -> None:
    """What comes back is alike in every field, and gives every answer that the journal has."""
    segments = cut_day(behaviour, kind, every)
    assert len(segments) > 20
    for segment in segments:
        report = replay(segment)
        assert report.mismatch is None
        assert report.inputs == len(segment) - 1


def test_pieces_in_one_file_replay_one_after_the_other() -> None:
    """Whoever joins segments may replay them at once; lines count through."""
    segments = cut_day(NATIVE, BlockKind.SECONDARY_IP, 30)
    lines = [line for segment in segments for line in segment]
    report = replay(lines)
    assert report.mismatch is None
    assert report.inputs == len(lines) - len(segments)


def a_node(behaviour: Behaviour) -> Journaled:
    """Return an allocator after its day, with a header of its own."""
    node = a_day(behaviour, lambda _: None, BlockKind.PREFIX)
    assert isinstance(node.allocator, Journaled)
    return node.allocator


def objects_of(allocator: Allocator) -> dict[type, Any]:
    """Return a living object of each class of one allocator."""
    pool, planner = allocator._pool, allocator._planner
    eni = next(iter(pool.enis.values()))
    block = next(iter(eni.blocks.values()))
    found: list[object] = [pool, pool.dice, pool._places, eni, block, block.shelf, block.slots[0]]
    if isinstance(planner, Gathering):
        found.append(planner._extremes)
    return {Planner: planner, type(planner): planner} | {type(one): one for one in found}


@pytest.mark.parametrize("behaviour", [NATIVE, UPSTREAM])
def test_no_field_is_forgotten(behaviour: Behaviour) -> None:
    """Whoever adds a field to a class says in PLAIN, or above, how a snapshot keeps it."""
    allocator = Start.decode(json.loads(a_node(behaviour).snapshot())).allocator()
    known = {kind: set(snapshot.PLAIN.get(kind, {})) | names for kind, names in ELSEWHERE.items()}
    assert snapshot.PLAIN.keys() <= known.keys()
    objects = objects_of(allocator)
    of_planner = known[Planner] | known[type(objects.pop(Planner))]
    assert fields_of(allocator).keys() == known[Allocator]
    for kind, one in objects.items():
        assert fields_of(one).keys() == (of_planner if isinstance(one, Planner) else known[kind])


LINKS_BY = {"eni_id", "block"}
"""Fields by which others find an object: changed alone, they would be a broken state."""

PLAIN_FIELDS = [
    (behaviour, kind, name)
    for behaviour, kinds in (
        (NATIVE, (Pool, Places, PooledEni, PooledBlock, Planner, Gathering, Extremes)),
        (UPSTREAM, (Ticking,)),
    )
    for kind in kinds
    for name in snapshot.PLAIN[kind]
    if name not in LINKS_BY
]


@pytest.mark.parametrize(
    ("behaviour", "kind", "name"),
    PLAIN_FIELDS,
    ids=[f"{k.__name__}.{n}" for _, k, n in PLAIN_FIELDS],
)
def test_every_field_comes_back_and_would_be_missed(
    behaviour: Behaviour, kind: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed, a field is changed after the snapshot too; left out of it, the difference shows."""
    as_it_is, changed = a_node(behaviour), a_node(behaviour)
    one = objects_of(changed)[kind]
    setattr(one, name, another(name, getattr(one, name)))
    assert difference_of(changed, there_and_back(changed)) is None
    without = {other: codec for other, codec in snapshot.PLAIN[kind].items() if other != name}
    monkeypatch.setattr(snapshot, "PLAIN", {**snapshot.PLAIN, kind: without})
    # One of the two values may be the one that a field begins with.
    missed = [difference_of(node, there_and_back(node)) or "" for node in (as_it_is, changed)]
    assert any(f".{name}" in path for path in missed)


def there_and_back(allocator: Journaled) -> Allocator:
    """Return what a snapshot brings back, balanced or not."""
    start = Start.decode(json.loads(allocator.snapshot()))
    restored = Allocator(**start.arguments())
    snapshot.restore(restored, start.state)
    return restored


def another(name: str, value: Any) -> Any:
    """Return another value that a field could have."""
    special = {
        "growth_failure": FailureReason.THROTTLED,
        "in_flight": {7: AddBlocks(7, EniId("eni-x"), 3, "why")},
        "_quarantine": {IPv4Network("10.9.0.0/28"): 3.5},
        "_past": deque([Bucket(1.5, 4, 1, 2, 3)]),
    }
    if name in special:
        return special[name]
    match value:
        case bool():
            return not value
        case int() | float() if isinf(value):
            return 12345.5
        case int() | float() | IPv4Address():
            return value + 1
        case str():
            return value + "x"
        case set():
            return {*value, EniId("eni-x")}
        case _:
            raise AssertionError(f"say what else {name} can be")


def test_infinite_marks_survive() -> None:
    """JSON knows no infinity, and a planner does."""
    allocator = a_node(NATIVE)
    allocator._planner.due, allocator._planner.low_water = inf, -inf
    assert difference_of(allocator, there_and_back(allocator)) is None


def test_an_eni_that_vanished_from_a_tick_is_passed_over() -> None:
    """The rest of a tick goes on with what is there, as it does without a snapshot."""
    allocator = a_node(UPSTREAM)
    planner = allocator._planner
    assert isinstance(planner, Ticking)
    eni = next(iter(allocator._pool.enis.values()))
    gone = PooledEni(eni_as_attached(eni), Instant(0.0), 0)
    planner._ring = deque([gone, eni])
    planner._steps = deque([_nothing, planner._decrease, planner._free_one])
    restored = there_and_back(allocator)
    assert difference_of(allocator, restored) is None
    assert isinstance(restored._planner, Ticking)
    assert len(restored._planner._ring) == 1


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ('"held":[{', '"held":[{"x":1},{', "the field 'sandbox' is missing"),
        ('"free":', '"free":1', "free: kept"),
        ('"started":true', '"started":7', "7 is neither true nor false"),
        ('"started":true', '"begun":true', "the field 'started' is missing"),
        ('"queue":[]', '"queue":[["10.9.9.9",1.5]]', "10.9.9.9"),
        ('"state":{', '"state":[],"was":{', "is not an object"),
    ],
)
def test_a_broken_snapshot_is_an_error_in_line_one(before: str, after: str, problem: str) -> None:
    """A state that does not add up is told, not played on."""
    header = a_node(NATIVE).snapshot()
    assert before in header
    with pytest.raises(JournalError, match=f"^line 1: .*{problem}"):
        replay([header.replace(before, after, 1)])
