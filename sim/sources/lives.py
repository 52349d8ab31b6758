"""The lives of pods, put together from whatever a record shows of them; then the trace.

A reader of a format fills a `Life` for each pod, in any order: every field is the least, the
greatest or the only value seen, so that neither the order of files nor a record that comes twice
changes anything. `Lives.imported` then decides what the trace gets, by rules that hold for every
format, and counts whatever it had to guess or to drop.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from sim.sources.pods import PODS_MAX, Trace, TraceError, trace_of

LIFE_MIN_S = 1.0
"""Most times are whole seconds, so that a life of 0 s was some part of one."""
FARGATE = "fargate-"
"""Names of Fargate's nodes begin so; their pods have ENIs of their own and no warm pool."""
SLOW_S = 10.0
"""The kubelet tries a refused sandbox again after 10 s at the least."""


class Fate(Enum):
    """What became of what is counted; the order is that of the table."""

    READ = "read"
    KEPT = "kept"
    GUESSED = "guessed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Count:
    """How many of what met a fate."""

    fate: Fate
    number: int
    what: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.fate.value}: {self.number:,} {self.what}"


@dataclass(slots=True)
class Tally:
    """Counts by fate and words."""

    numbers: dict[tuple[Fate, str], int] = field(default_factory=dict)

    def add(self, fate: Fate, what: str, number: int = 1) -> None:
        """Count some more."""
        if number:
            key = (fate, what)
            self.numbers[key] = self.numbers.get(key, 0) + number

    def counts(self) -> tuple[Count, ...]:
        """Return the counts, fate by fate, the most frequent first."""
        order = list(Fate)
        found = [Count(fate, number, what) for (fate, what), number in self.numbers.items()]
        return tuple(sorted(found, key=lambda one: (order.index(one.fate), -one.number, one.what)))


@dataclass(frozen=True, slots=True)
class Imported:
    """A trace from somewhere else, and what it cost to make."""

    trace: Trace
    counts: tuple[Count, ...]
    """Fate by fate; guesses and drops are in the trace's notes as well."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user leaves out."""

    drop: tuple[str, ...] = ()
    """Patterns of NAMESPACE/NAME, as a shell has them."""
    nodes: bool = True
    """Whether pods stay on their nodes; if not, the scheduler places them anew."""


@dataclass(slots=True)
class Life:
    """What is known of one pod; times in seconds since 1970, nan where nothing was seen."""

    name: str
    node: str = ""
    asked_s: float = math.nan
    """When its sandbox was first wanted: the binding, or the first ADD."""
    scheduled_s: float = math.nan
    """The same by the pod's own status, in whole seconds."""
    created_s: float = math.nan
    served_s: float = math.nan
    """When it got its address; where nobody knows, the hold counts from `asked_s`."""
    addressed_s: float = math.nan
    """When somebody first saw its address, which can be long after it got it."""
    has_address: bool = False
    """Whether anybody saw an address at all."""
    completed_s: float = math.nan
    """When its last container was seen to have ended for good."""
    finished_s: float = math.nan
    """The same by the pod's own status, in whole seconds."""
    removed_s: float = math.nan
    """When its object was removed."""
    deadline_s: float = math.nan
    """When its grace ends, or ended, after somebody asked for its deletion."""
    vanished_s: float = math.nan
    """When it was last seen, where it was gone the next time somebody looked."""
    host_network: bool | None = None
    daemon_set: bool = False
    cpu_m: int = 0
    memory_mib: int = 0
    is_unserved: bool = False
    """Whether all of its life is in the record, and no address."""
    guess: str = ""
    """What about it is guessed beyond the rules below, to be read after "pods"."""

    def arrival(self) -> tuple[float, str]:
        """Return when it wanted its sandbox, -inf for before the record, and the guess in it."""
        if self.asked_s == self.asked_s:
            return self.asked_s, ""
        if self.scheduled_s == self.scheduled_s:
            return self.scheduled_s, "known by their status alone: arrival in whole seconds"
        if self.created_s == self.created_s:
            if not self.node:
                return self.created_s, "never scheduled: arrival is the creation"
            return self.created_s, "with no scheduling in the record: arrival is the creation"
        return -math.inf, ""

    def end(self) -> tuple[float, str]:
        """Return when its sandbox went, inf for after the record, and the guess in it."""
        for known in (self.completed_s, self.finished_s, self.removed_s):
            if not math.isnan(known):
                return known, ""
        if not math.isnan(self.vanished_s):
            return self.vanished_s, "gone when somebody looked again: end is when last seen"
        if not math.isnan(self.deadline_s):
            return self.deadline_s, "deleted, removal not in the record: end is the grace's end"
        return math.inf, ""


def least(one: float, other: float) -> float:
    """Return the lesser of two times, of which either may be nan.

    >>> least(math.nan, 2.0), least(2.0, math.nan), least(3.0, 2.0)
    (2.0, 2.0, 2.0)
    """
    return one if one <= other or math.isnan(other) else other


def greatest(one: float, other: float) -> float:
    """Return the greater of two times, of which either may be nan."""
    return one if one >= other or math.isnan(other) else other


class Lives:
    """All pods of a record, by uid, and the time it covers."""

    def __init__(self) -> None:
        """Know no pod and no time."""
        self.tally = Tally()
        self.start_s = math.nan
        self.end_s = math.nan
        self._by_uid: dict[str, Life] = {}

    def __len__(self) -> int:
        """Return the number of pods."""
        return len(self._by_uid)

    def __iter__(self) -> Iterator[Life]:
        """Give every life."""
        return iter(self._by_uid.values())

    def saw(self, now_s: float) -> None:
        """Take a time into the span of the record."""
        self.start_s = least(self.start_s, now_s)
        self.end_s = greatest(self.end_s, now_s)

    def find(self, uid: str) -> Life | None:
        """Return the life of a pod that is known, or None."""
        return self._by_uid.get(uid)

    def of(self, uid: str) -> Life:
        """Return the life of a pod, a new one where the pod is new."""
        life = self._by_uid.get(uid)
        if life is None:
            if len(self._by_uid) >= PODS_MAX:
                raise TraceError("too many pods", allowed=f"at most {PODS_MAX:,}")
            life = self._by_uid[uid] = Life(name=uid)
        return life

    def imported(self, origin: str, choices: Choices) -> Imported:
        """Return the trace; TraceError where no pod is left."""
        if math.isnan(self.start_s):
            raise TraceError("no pods", file=origin, allowed="pods and the times they came")
        kept = [made for life in self if (made := self._judged(life, choices)) is not None]
        if not kept:
            raise TraceError(self._nothing(), file=origin, allowed="pods that take an address")
        # By arrival, and by name where several arrive at once: the order of files is no order.
        kept.sort(key=lambda one: (one[0], one[2].name, one[1]))
        names = unique_names([one[2].name for one in kept])
        node_index: dict[str, int] = {"": -1}
        for _, _, life in kept:
            if choices.nodes and life.node not in node_index:
                node_index[life.node] = len(node_index) - 1
        nodes = [node_index[life.node] if choices.nodes else -1 for _, _, life in kept]
        self.tally.add(Fate.KEPT, "pods in the trace", len(kept))
        self.tally.add(
            Fate.KEPT, "of these from DaemonSets", sum(life.daemon_set for _, _, life in kept)
        )
        counts = self.tally.counts()
        trace = trace_of(
            names=names,
            arrival_s=np.array([one[0] for one in kept]),
            life_s=np.array([one[1] for one in kept]),
            cpu_m=np.array([one[2].cpu_m for one in kept], np.int64),
            memory_mib=np.array([one[2].memory_mib for one in kept], np.int64),
            node=np.array(nodes, np.int32),
            node_names=tuple(node_index)[1:],
            end_s=self.end_s - self.start_s,
            origin=origin,
            notes=notes_of(counts),
        )
        return Imported(trace, counts)

    def _nothing(self) -> str:
        """Say why no pod is left."""
        dropped = [one for one in self.tally.counts() if one.fate is Fate.DROPPED]
        reason = "no pods" if not self._by_uid else "no pods left"
        return "; ".join([reason, *(str(one) for one in dropped[:2])])

    def _judged(self, life: Life, choices: Choices) -> tuple[float, float, Life] | None:
        """Return arrival and life in seconds since the record's start, or None: dropped."""
        add = self.tally.add
        arrival, guess = life.arrival()
        end, end_guess = life.end()
        left_out = self._left_out(life, choices) or self._missed(arrival, end)
        if left_out:
            add(Fate.DROPPED, left_out)
            return None
        if arrival < self.start_s:
            arrival, guess = self.start_s, ""
            add(Fate.KEPT, "pods there before the record begins: they arrive at its start")
        if end > self.end_s:
            # The grace of a deletion may end after the record does.
            end, end_guess = math.inf, ""
        held = end - greatest(arrival, life.served_s)
        if held <= 0:
            end_guess = "that ended in the second they came: life set to 1 s"
            if held <= -LIFE_MIN_S:
                end_guess = "that ended before they came, by clocks that differ: life set to 1 s"
            held = LIFE_MIN_S
        for one in (guess, end_guess, life.guess):
            if one:
                add(Fate.GUESSED, f"pods {one}")
        self._demand(life, end)
        return arrival - self.start_s, held, life

    @staticmethod
    def _left_out(life: Life, choices: Choices) -> str:
        """Return why a pod takes no address of a warm pool that the user asks about, or nothing."""
        if life.host_network:
            return "host-network pods: they take no address"
        if life.node.startswith(FARGATE):
            return "pods on Fargate, which has no warm pool"
        if any(fnmatch.fnmatchcase(life.name, pattern) for pattern in choices.drop):
            return "pods left out by --drop"
        return ""

    def _missed(self, arrival: float, end: float) -> str:
        """Return how a life lies outside of the record, or nothing."""
        if arrival > self.end_s:
            return "pods that came after the record ends"
        if arrival < self.start_s and end <= self.start_s:
            return "pods that had ended before the record begins"
        return ""

    def _demand(self, life: Life, end: float) -> None:
        """Count what did not go smoothly: it is demand all the same."""
        if life.host_network is None:
            self.tally.add(Fate.GUESSED, "pods not known to be without the host network: kept")
        if math.isinf(end):
            self.tally.add(Fate.KEPT, "pods that outlive the record")
        if life.is_unserved:
            self.tally.add(Fate.KEPT, "pods bound and gone without an address: demand all the same")
        if life.addressed_s - life.asked_s > SLOW_S:
            what = f"pods whose address showed more than {SLOW_S:g} s after their binding"
            self.tally.add(Fate.KEPT, f"{what} (refused ADDs, or slow images)")


def notes_of(counts: Sequence[Count]) -> list[str]:
    """Return the trace's notes: what was guessed and dropped."""
    return [str(one) for one in counts if one.fate in (Fate.GUESSED, Fate.DROPPED)]


def unique_names(names: list[str]) -> list[str]:
    """Tell pods of one name apart: StatefulSets use theirs again. Kubernetes has no tilde."""
    seen: dict[str, int] = {}
    told: dict[str, None] = {}
    for name in names:
        unique, again = name, seen.get(name, 0)
        while again or unique in told:
            again += 1
            unique = f"{name}~{again}"
            if unique not in told:
                break
        seen[name] = max(again, 1)
        told[unique] = None
    return list(told)
