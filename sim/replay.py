"""A node's journal against the allocator of today, and what the journal tells of the node's day.

The figures are counted from what was written, for the whole file; the replay stops at the first
answer that comes out differently.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cni.allocator.encoding import (
    Json,
    to_instant,
    to_items,
    to_object,
    to_pair,
    to_sandbox,
    to_text,
)
from cni.allocator.journal import JournalError, ReplayReport, entries, replay
from cni.allocator.model import SandboxKey

UNKNOWN = "unknown"
"""The cause of the refusal of an ADD that waited already when its journal begins."""


@dataclass(slots=True)
class Day:
    """What happened on a node, by its journal.

    An ADD is served at once, waits (and is served, gives up, or waits on), or is refused at once.
    """

    segments: int = 0
    inputs: int = 0
    span_s: float = 0.0
    adds: int = 0
    served_at_once: int = 0
    waited: int = 0
    served_after_waiting: int = 0
    longest_wait_s: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    """ADDs that got no address, by the cause of their refusal; those that gave up waiting too."""

    dels: int = 0
    """DELs that gave an address back."""

    dels_of_nothing: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    """Actions that failed, by reason."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A journal's day, and whether today's allocator gives the same answers."""

    day: Day
    report: ReplayReport


def replay_file(path: Path) -> Replayed:
    """Replay a segment, or several joined; ValueError names the file and the line it ends at."""
    # What is no text is no JSON either, and is told by its line.
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            report = replay(lines)
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            return Replayed(day_of(lines), report)
    except JournalError as error:
        raise ValueError(f"{path}: {error}") from error


def day_of(lines: Iterable[str]) -> Day:
    """Count what happened; raises JournalError for a line that is no journal's."""
    counting = _Counting()
    for number, one in entries(lines):
        try:
            counting.take(one)
        except ValueError as error:
            raise JournalError(number, str(error)) from error
    return counting.day


class _Counting:
    """The day so far, and who waits."""

    def __init__(self) -> None:
        self.day = Day()
        self._refused: dict[SandboxKey, str] = {}
        """Who was refused just now, and why: perhaps it waits."""
        self._waiting: dict[SandboxKey, tuple[float, str]] = {}
        self._now = 0.0

    def take(self, one: Mapping[str, Json]) -> None:
        """Count a header or an input."""
        now = to_instant(one["now"])
        if "format" in one:
            self.day.segments += 1
            self._begin(one)
        else:
            self.day.inputs += 1
            self.day.span_s += now - self._now
            self._count(to_text(one["in"]), one, now)
        self._now = now

    def _begin(self, header: Mapping[str, Json]) -> None:
        """Take in a header: who waited before a daemon's start has given up by then."""
        waiting, self._waiting = self._waiting, {}
        self._refused.clear()
        if header["state"] is None:
            return
        for raw, since in to_items(to_object(header["state"])["waiting"], to_pair):
            sandbox = to_sandbox(raw)
            _, cause = waiting.get(sandbox, (since, UNKNOWN))
            self._waiting[sandbox] = to_instant(since), cause

    def _count(self, name: str, one: Mapping[str, Json], now: float) -> None:
        day, answer = self.day, one["answer"]
        match name:
            case "assign" if isinstance(answer, str):
                day.adds += 1
                day.served_at_once += 1
            case "assign":
                day.adds += 1
                cause = to_text(to_object(answer)["refused"])
                day.refused[cause] += 1
                self._refused[to_sandbox(one["sandbox"])] = cause
            case "release" if answer is None:
                day.dels_of_nothing += 1
            case "release":
                day.dels += 1
            case "next_action" if answer is not None:
                day.actions[to_text(to_object(answer)["action"])] += 1
            case "apply":
                self._count_outcome(to_object(one["outcome"]))
            case "serve_waiting":
                for sandbox, _ in to_items(answer, to_pair):
                    self._served(to_sandbox(sandbox), now)
            case "wait" | "stop_waiting":
                self._count_wait(name, to_sandbox(one["sandbox"]), now)

    def _count_outcome(self, outcome: Mapping[str, Json]) -> None:
        if outcome["outcome"] == "ActionFailed":
            self.day.failed[to_text(outcome["reason"])] += 1

    def _count_wait(self, name: str, sandbox: SandboxKey, now: float) -> None:
        """Count who waits in place of being refused, and who gives up."""
        if name == "wait":
            cause = self._refused.pop(sandbox, None)
            if cause is not None:
                self.day.waited += 1
                self.day.refused[cause] -= 1
                self._waiting[sandbox] = now, cause
        elif sandbox in self._waiting:
            self.day.refused[self._waiting.pop(sandbox)[1]] += 1

    def _served(self, sandbox: SandboxKey, now: float) -> None:
        since, _ = self._waiting.pop(sandbox, (now, UNKNOWN))
        self.day.served_after_waiting += 1
        self.day.longest_wait_s = max(self.day.longest_wait_s, now - since)
