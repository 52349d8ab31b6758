"""Every input of an allocator as a line, so that what it did can be done again, exactly.

A segment opens with a header: all that `Allocator` is made from. Then comes one line for each
input, with its instant and its answer. `replay` makes the allocator of today from the header,
feeds it the inputs, and compares every answer.

Not every question is an input. `next_action` before `next_wakeup` returns None and changes
nothing, and so does `serve_waiting` that serves nobody; neither is written, so that a driver may
ask as often as it likes. An ask at or after `next_wakeup` is written even where the answer is
None: it consumes a tick, or sets the marks that wake the planner next. Looking (`counts`,
`refusal`, `find`, …) changes nothing: every door thaws first, whether somebody looked or not.

A segment may open at any instant of a life: `Journaled.snapshot` returns a header that holds the
whole state, and what follows replays alone.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from cni.allocator.actions import CloudAction, CloudOutcome
from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import Behaviour
from cni.allocator.encoding import (
    Json,
    from_action,
    from_assignment,
    from_behaviour,
    from_eni,
    from_limits,
    from_outcome,
    from_sandbox,
    from_target,
    to_address,
    to_assignment,
    to_behaviour,
    to_eni,
    to_instant,
    to_int,
    to_items,
    to_kind,
    to_limits,
    to_number,
    to_object,
    to_outcome,
    to_pair,
    to_sandbox,
    to_target,
    to_text,
)
from cni.allocator.errors import NoFreeAddress, UnknownSandbox
from cni.allocator.model import (
    Assignment,
    AttachedEni,
    BlockKind,
    Instant,
    NodeLimits,
    SandboxKey,
)
from cni.allocator.snapshot import capture, restore
from cni.allocator.targets import WarmTarget

FORMAT = "warmbench-journal"
VERSION = 2


class JournalError(Exception):
    """A line is not what a journal holds; `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        """Name the line and what is wrong with it."""
        super().__init__(f"line {line}: {problem}")
        self.line = line


@dataclass(frozen=True, slots=True)
class Start:
    """All that an allocator is made from.

    `state` is that of a life that goes on (`snapshot.capture`) and stands in place of ENIs,
    assignments and cooling addresses; None begins a life.
    """

    target: WarmTarget
    limits: NodeLimits
    kind: BlockKind
    behaviour: Behaviour
    now: Instant
    attached: tuple[AttachedEni, ...]
    taken: tuple[int, ...] = ()
    assignments: tuple[Assignment, ...] = ()
    cooldown_s: float = 30.0
    cooling: tuple[tuple[IPv4Address, Instant], ...] = ()
    seed: int = 0
    state: Json = None

    def encode(self) -> str:
        """Return the header line of a segment."""
        return _line(
            {
                "format": FORMAT,
                "version": VERSION,
                "now": self.now,
                "target": from_target(self.target),
                "limits": from_limits(self.limits),
                "kind": self.kind.name,
                "cooldown_s": self.cooldown_s,
                "seed": self.seed,
                "attached": [from_eni(eni) for eni in self.attached],
                "taken": list(self.taken),
                "assignments": [from_assignment(one) for one in self.assignments],
                "cooling": [[str(address), until] for address, until in self.cooling],
                "behaviour": from_behaviour(self.behaviour),
                "state": self.state,
            }
        )

    @classmethod
    def decode(cls, raw: Json) -> "Start":
        """Return what a header says; ValueError where it is none."""
        one = to_object(raw)
        if one.get("format") != FORMAT:
            raise ValueError("this is no journal")
        if one["version"] != VERSION:
            raise ValueError(f"version {one['version']!r} of the journal is not known")
        return cls(
            target=to_target(one["target"]),
            limits=to_limits(one["limits"]),
            kind=to_kind(one["kind"]),
            behaviour=to_behaviour(one["behaviour"]),
            now=to_instant(one["now"]),
            attached=to_items(one["attached"], to_eni),
            taken=to_items(one["taken"], to_int),
            assignments=to_items(one["assignments"], to_assignment),
            cooldown_s=to_number(one["cooldown_s"]),
            cooling=to_items(one["cooling"], _to_cooling),
            seed=to_int(one["seed"]),
            state=one["state"],
        )

    def allocator(self) -> Allocator:
        """Make an allocator without a journal; AssertionError where its state is none."""
        allocator = Allocator(**self.arguments())
        if self.state is not None:
            restore(allocator, self.state)
            allocator.check()
        return allocator

    def arguments(self) -> Mapping[str, Json]:
        """Return the arguments of `Allocator`, by name."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "state"}


def _to_cooling(raw: Json) -> tuple[IPv4Address, Instant]:
    address, until = to_pair(raw)
    return to_address(address), to_instant(until)


class Journaled(Allocator):
    """An allocator that writes a line for each input, after it has answered.

    It begins a life: who goes on with one from a snapshot does so without a journal.
    """

    def __init__(self, start: Start, write: Callable[[str], None]) -> None:
        """Write the header; `write` gets lines without their line feed, and may not fail."""
        super().__init__(**start.arguments())
        self._start = replace(start, attached=(), assignments=(), cooling=())
        self._last_at = start.now
        self._write = write
        write(start.encode())

    def snapshot(self) -> str:
        """Return the header of a segment that opens after the input that was written last.

        It changes nothing, and may be asked for by `write` itself.
        """
        return replace(self._start, now=self._last_at, state=capture(self)).encode()

    def _put(self, name: str, now: Instant, about: Mapping[str, Json], answer: Json) -> None:
        self._last_at = now
        self._write(_line({"in": name, "now": now, **about, "answer": answer}))

    def assign(self, sandbox: SandboxKey, now: Instant) -> Assignment:
        """As `Allocator.assign`."""
        about = {"sandbox": from_sandbox(sandbox)}
        try:
            assignment = super().assign(sandbox, now)
        except NoFreeAddress as refusal:
            self._put("assign", now, about, _refused(refusal))
            raise
        self._put("assign", now, about, str(assignment.address))
        return assignment

    def release(self, sandbox: SandboxKey, now: Instant) -> Assignment:
        """As `Allocator.release`."""
        about = {"sandbox": from_sandbox(sandbox)}
        try:
            assignment = super().release(sandbox, now)
        except UnknownSandbox:
            self._put("release", now, about, None)
            raise
        self._put("release", now, about, str(assignment.address))
        return assignment

    def wait(self, sandbox: SandboxKey, now: Instant) -> None:
        """As `Allocator.wait`."""
        super().wait(sandbox, now)
        self._put("wait", now, {"sandbox": from_sandbox(sandbox)}, None)

    def stop_waiting(self, sandbox: SandboxKey, now: Instant) -> None:
        """As `Allocator.stop_waiting`."""
        super().stop_waiting(sandbox, now)
        self._put("stop_waiting", now, {"sandbox": from_sandbox(sandbox)}, None)

    def serve_waiting(self, now: Instant) -> tuple[Assignment, ...]:
        """As `Allocator.serve_waiting`."""
        served = super().serve_waiting(now)
        if served:
            self._put("serve_waiting", now, {}, _served(served))
        return served

    def next_action(self, now: Instant) -> CloudAction | None:
        """As `Allocator.next_action`."""
        changes = now >= self.next_wakeup
        action = super().next_action(now)
        assert changes or action is None, action
        if changes:
            self._put("next_action", now, {}, _asked(action))
        return action

    def apply(self, outcome: CloudOutcome, now: Instant) -> None:
        """As `Allocator.apply`."""
        super().apply(outcome, now)
        self._put("apply", now, {"outcome": from_outcome(outcome)}, None)

    def suspect(self, why: str, now: Instant) -> None:
        """As `Allocator.suspect`."""
        super().suspect(why, now)
        self._put("suspect", now, {"why": why}, None)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An answer that came out differently: the line, the input, and both answers as JSON."""

    line: int
    input: Mapping[str, Json]
    journal: Json
    today: Json


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay found: how many inputs were fed, and the first answer that differs."""

    inputs: int
    mismatch: Mismatch | None
    torn: bool
    """Whether the last line was cut off, as a crash or a full disk leaves it."""


Look = Callable[[Allocator, Instant], None]
"""Sees an allocator as it is at an instant; it changes nothing."""


def replay(lines: Iterable[str], look: Look = lambda _allocator, _now: None) -> ReplayReport:
    """Feed a journal to the allocator of today, up to the first answer that differs.

    Later inputs answer a state that today's allocator is not in, so it stops there. A header in
    the middle begins anew: segments may be joined. `look` is called after each header and each
    input. Raises JournalError for a line that is no journal's, except for a last one that is cut
    off.
    """
    torn = False
    inputs = 0
    allocator: Allocator | None = None
    for number, raw, last in _parsed(lines):
        if raw is None:
            if not last or allocator is None:
                raise JournalError(number, "this is not JSON")
            torn = True
            break
        try:
            one = to_object(raw)
            if allocator is None or "format" in one:
                allocator = Start.decode(one).allocator()
                look(allocator, to_instant(one["now"]))
                continue
            expected = one["answer"]
            today = _feed(allocator, one)
        except (ValueError, AssertionError, KeyError) as error:
            raise JournalError(number, str(error) or type(error).__name__) from error
        inputs += 1
        if today != expected:
            return ReplayReport(inputs, Mismatch(number, dict(one), expected, today), torn=False)
        look(allocator, to_instant(one["now"]))
    if allocator is None:
        raise JournalError(1, "the journal is empty")
    return ReplayReport(inputs, None, torn)


def entries(lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Json]]]:
    """Yield headers and inputs as they were written, with their line, and replay nothing.

    A last line that is cut off is left out; another that is no JSON object raises JournalError.
    """
    for number, raw, last in _parsed(lines):
        if raw is None and last:
            return
        try:
            yield number, to_object(raw)
        except ValueError as error:
            raise JournalError(number, str(error)) from error


def _parsed(lines: Iterable[str]) -> Iterator[tuple[int, Json, bool]]:
    """Yield number, JSON (None: broken) and whether it is the last line; skip empty ones."""
    waiting: tuple[int, str] | None = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if waiting is not None:
            yield waiting[0], _loaded(waiting[1]), False
        waiting = (number, line)
    if waiting is not None:
        yield waiting[0], _loaded(waiting[1]), True


def _loaded(line: str) -> Json:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _feed(allocator: Allocator, one: Mapping[str, Json]) -> Json:
    """Give an allocator one input and return its answer as JSON."""
    now = to_instant(one["now"])
    answer: Json = None
    match one["in"]:
        case "serve_waiting":
            answer = _served(allocator.serve_waiting(now))
        case "next_action":
            answer = _asked(allocator.next_action(now))
        case "apply":
            allocator.apply(to_outcome(one["outcome"]), now)
        case "suspect":
            allocator.suspect(to_text(one["why"]), now)
        case name:
            answer = _feed_sandbox(allocator, name, to_sandbox(one["sandbox"]), now)
    return answer


def _feed_sandbox(allocator: Allocator, name: Json, sandbox: SandboxKey, now: Instant) -> Json:
    """Give an allocator one input that is about a sandbox."""
    answer: Json = None
    match name:
        case "assign":
            try:
                answer = str(allocator.assign(sandbox, now).address)
            except NoFreeAddress as refusal:
                answer = _refused(refusal)
        case "release":
            with suppress(UnknownSandbox):
                answer = str(allocator.release(sandbox, now).address)
        case "wait":
            allocator.wait(sandbox, now)
        case "stop_waiting":
            allocator.stop_waiting(sandbox, now)
        case _:
            raise ValueError(f"{name!r} is no input of an allocator")
    return answer


def _refused(refusal: NoFreeAddress) -> Json:
    return {"refused": refusal.cause.value, "may_come": refusal.may_come}


def _served(served: Iterable[Assignment]) -> Json:
    return [[from_sandbox(one.sandbox), str(one.address)] for one in served]


def _asked(action: CloudAction | None) -> Json:
    if action is None:
        return None
    # Why is for people: another wording is not another answer.
    return {name: value for name, value in from_action(action).items() if name != "why"}


def _line(one: Mapping[str, Json]) -> str:
    return json.dumps(one, allow_nan=False, separators=(",", ":"))
