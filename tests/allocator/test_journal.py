"""A journal replays exactly, and says clearly what is wrong with a line."""

import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni.allocator import encoding
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
from cni.allocator.journal import Journaled, JournalError, Start, replay
from cni.allocator.model import (
    Assignment,
    AttachedEni,
    BlockKind,
    EniId,
    Instant,
    NodeLimits,
    SandboxKey,
)
from cni.allocator.targets import WarmEni, WarmIp, WarmPrefix
from tests.allocator.fake_ec2 import Driver, Fault, sandbox

numbers = st.integers(0, 10**6)
instants = st.floats(allow_nan=False, allow_infinity=False).map(Instant)
texts = st.text()
eni_ids = texts.map(EniId)
addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
blocks = st.tuples(st.integers(0, 2**28 - 1), st.sampled_from((28, 32))).map(
    lambda pair: IPv4Network((pair[0] << 4, pair[1]))
)
block_tuples = st.lists(blocks, max_size=4).map(tuple)
enis = st.builds(AttachedEni, eni_ids, numbers, addresses, block_tuples)
eni_tuples = st.lists(enis, max_size=3).map(tuple)
sandboxes = st.builds(SandboxKey, texts, texts, texts)
assignments = st.builds(Assignment, sandboxes, addresses, eni_ids, numbers, instants)
reasons = st.sampled_from(FailureReason)
shorts = st.none() | reasons
cuts = st.lists(instants, max_size=3).map(tuple)
actions = st.one_of(
    st.builds(AttachEni, numbers, numbers, numbers, texts, st.booleans()),
    st.builds(AddBlocks, numbers, eni_ids, numbers, texts),
    st.builds(RemoveBlocks, numbers, eni_ids, block_tuples, texts, cuts),
    st.builds(DetachEni, numbers, eni_ids, texts),
    st.builds(DescribeEnis, numbers, texts),
    st.builds(LookElsewhere, numbers, texts),
)
outcomes = st.one_of(
    st.builds(EniAttached, numbers, enis, shorts),
    st.builds(BlocksAdded, numbers, eni_ids, block_tuples, shorts),
    st.builds(BlocksRemoved, numbers, eni_ids, block_tuples),
    st.builds(EniDetached, numbers, eni_ids),
    st.builds(EnisDescribed, numbers, eni_tuples),
    st.builds(LookedElsewhere, numbers, st.booleans()),
    st.builds(ActionFailed, actions, reasons, texts),
)
starts = st.builds(
    Start,
    target=st.builds(WarmIp, numbers, numbers, numbers)
    | st.builds(WarmPrefix, numbers)
    | st.builds(WarmEni, numbers),
    limits=st.builds(NodeLimits, numbers, numbers, numbers),
    kind=st.sampled_from(BlockKind),
    behaviour=st.sampled_from((NATIVE, UPSTREAM)),
    now=instants,
    attached=eni_tuples,
    taken=st.lists(numbers, max_size=3).map(tuple),
    assignments=st.lists(assignments, max_size=3).map(tuple),
    cooldown_s=st.floats(0, 1e6),
    cooling=st.lists(st.tuples(addresses, instants), max_size=3).map(tuple),
    seed=numbers,
)


A_NODE: dict[str, Any] = {
    "target": WarmIp(3, 8),
    "enis": 4,
    "per_eni": 6,
    "latency_s": 0.7,
    "seed": 9,
}

STRAY = json.dumps(
    {"in": "apply", "now": 1, "outcome": {"outcome": "EnisDescribed", "id": 99, "enis": []}}
    | {"answer": None}
)
"""The outcome of an action that is not in flight."""


def through_json(raw: object) -> object:
    """Write and read, as a file does."""
    return json.loads(json.dumps(raw, allow_nan=False))


@given(actions)
def test_actions_survive(action: CloudAction) -> None:
    """Decoding gives back what was encoded, with why and cut, which compare as equal anyway."""
    back = encoding.to_action(through_json(encoding.from_action(action)))
    assert back == action
    assert back.why == action.why
    assert getattr(back, "cut", ()) == getattr(action, "cut", ())


@given(outcomes)
def test_outcomes_survive(outcome: CloudOutcome) -> None:
    """Decoding gives back what was encoded."""
    assert encoding.to_outcome(through_json(encoding.from_outcome(outcome))) == outcome


@settings(max_examples=50)
@given(starts)
def test_headers_survive(start: Start) -> None:
    """A header holds all that an allocator is made from, to the last bit."""
    assert Start.decode(json.loads(start.encode())) == start


def a_day(behaviour: Behaviour, write: Callable[[str], None], kind: BlockKind) -> Driver:
    """Play a node's day with pods, waits, failures, surplus and a suspicion."""
    return played(Driver(behaviour=behaviour, kind=kind, make=journaled(write), **A_NODE))


def journaled(write: Callable[[str], None]) -> Callable[..., Journaled]:
    """Return what makes an allocator with a journal."""
    return lambda **given: Journaled(Start(**given), write)


def played(node: Driver) -> Driver:
    """Let a node have its day."""
    node.retry_s = 100.0
    node.ec2.faults.append(Fault("CreateNetworkInterface", FailureReason.THROTTLED))
    for turn in range(12):
        node.run(turn * 333.3)
        node.add_many(*range(turn * 5, turn * 5 + 5))
        node.run(node.now + 77.7)
        node.allocator.counts(Instant(node.now))
        held = sorted(n for n in node.served if node.allocator.find(sandbox(n)))
        node.delete_many(*held[: turn % 7])
        if turn % 4 == 1:
            node.allocator.suspect("a minute has gone by", Instant(node.now))
        for number in range(turn * 5):
            node.allocator.stop_waiting(sandbox(number), Instant(node.now))
    node.run(9_000)
    return node


@pytest.mark.parametrize("kind", BlockKind)
@pytest.mark.parametrize("behaviour", [NATIVE, UPSTREAM])
def test_a_day_replays_exactly(behaviour: Behaviour, kind: BlockKind) -> None:
    """Every answer comes out again, though looking and idle asks are not in the journal."""
    lines: list[str] = []
    a_day(behaviour, lines.append, kind)
    report = replay(lines)
    assert report.mismatch is None
    assert not report.torn
    assert report.inputs == len(lines) - 1


def test_idle_asks_are_not_written() -> None:
    """A driver may ask as often as it likes: the journal does not grow."""
    lines: list[str] = []
    node = a_day(NATIVE, lines.append, BlockKind.SECONDARY_IP)
    before = len(lines)
    for step in range(1000):
        assert node.allocator.next_action(Instant(node.now + step * 0.001)) is None
    assert len(lines) - before <= 1


def test_another_answer_is_told_with_its_line() -> None:
    """Replay stops at the first answer that differs and shows both."""
    lines: list[str] = []
    a_day(NATIVE, lines.append, BlockKind.SECONDARY_IP)
    number = next(n for n, line in enumerate(lines) if '"in":"assign"' in line)
    changed = json.loads(lines[number])
    changed["answer"] = "192.0.2.1"
    lines[number] = json.dumps(changed)
    report = replay(lines)
    assert report.mismatch is not None
    assert report.mismatch.line == number + 1
    assert report.mismatch.journal == "192.0.2.1"
    assert report.mismatch.today != "192.0.2.1"


def test_a_torn_last_line_is_told() -> None:
    """What a crash cut off is left out; the rest replays."""
    lines: list[str] = []
    a_day(NATIVE, lines.append, BlockKind.SECONDARY_IP)
    report = replay([*lines[:-1], lines[-1][:-9], ""])
    assert report.torn
    assert report.mismatch is None
    assert report.inputs == len(lines) - 2


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (1, '{"format":"something else"}'),
        (1, "[1,2]"),
        (3, "not JSON"),
        (3, '{"in":"assign","now":1}'),
        (3, '{"in":"dance","now":1,"sandbox":["a","b","c"],"answer":null}'),
        (3, '{"in":"release","now":"noon","sandbox":["a","b","c"],"answer":null}'),
        (3, '{"in":"release","now":1,"sandbox":["a","b"],"answer":null}'),
        (3, '{"in":"apply","now":1,"outcome":{"outcome":"EnisDescribed","id":99,"enis":[]}}'),
        (3, STRAY),
        (3, '{"in":"apply","now":1,"outcome":{"outcome":"Miracle","id":1},"answer":null}'),
    ],
)  # fmt: skip
def test_a_broken_line_is_named(number: int, line: str) -> None:
    """A line in the middle that no journal holds is an error with its number."""
    lines: list[str] = []
    a_day(NATIVE, lines.append, BlockKind.SECONDARY_IP)
    lines[number - 1] = line
    with pytest.raises(JournalError, match=f"^line {number}: "):
        replay(lines)


def test_nothing_is_no_journal() -> None:
    """An empty file, or one whose header is cut off, is an error."""
    for lines in ([], ["", " "], ['{"format":"warmbench-jou']):
        with pytest.raises(JournalError):
            replay(lines)
