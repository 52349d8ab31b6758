"""What happened in a run: typed columns, nothing computed.

`Recorder` is written to while the run goes on, in the cheapest way Python has (arrays indexed
by pod, appends elsewhere); `RunRecord` is the finished, immutable result. Instants are
simulated seconds since the trace's zero; nan means "did not happen". Everything that is
derived (waits, idle addresses, quantiles) lives in `sim/metrics.py`.
"""

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class PoolHeader:
    """One pool of nodes: `nodes` is how many it began with, `settings` are effective ones."""

    name: str
    instance: str
    behaviour: str
    settings: Mapping[str, str]
    nodes: int
    cooldown_s: float


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What was run: enough to run it again, and the first thing in every report.

    `settings` are the effective variables by name (with several pools under POOL/NAME);
    `cooldown_s` is IP_COOLDOWN_PERIOD; `scenario` is everything else that shaped the run, ready to
    print, and `command` the words that make it again, where it was made by a command. `pods`
    counts those of the trace and those that took an evicted one's place. `node_pools` tells which
    of `pools` each node belongs to; empty where there is one pool.
    """

    behaviour: str
    settings: Mapping[str, str]
    instance: str
    nodes: tuple[str, ...]
    subnets: tuple[str, ...]
    seed: int
    trace_origin: str
    trace_notes: tuple[str, ...]
    pods: int
    end_s: float
    cooldown_s: float
    warnings: tuple[str, ...] = ()
    scenario: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    pools: tuple[PoolHeader, ...] = ()
    node_pools: tuple[int, ...] = ()

    def pool_of(self, node: int) -> int:
        """Return which of `pools` a node belongs to, by its number."""
        return self.node_pools[node] if self.node_pools else 0


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """One finished run.

    pods: one row for each pod of the trace, in its order
        arrival_s   when the pod wanted to run (trace)
        node        index into header.nodes; -1 where no node ever took it
        added_at    first ADD for its sandbox; nan where never placed
        served_at   the instant it got its address; nan where it waits at the end (or was never
                    placed)
        released_at DEL; nan where it still holds the address at the end, or waits for one. With a
                    DEL and no served_at it was evicted before it had an address
        refused     refused ADDs before it was served (each costs a kubelet retry)
    unplaced: one row for each pod no node took: pod, resource (code into `resources`)
    pool: one row for each change of a node's pool by EC2, in order of time: t, node, enis,
        blocks, addresses (after the change; ENI primaries are not in `addresses`)
    cut: cooling addresses given back to EC2 before they ended cooling: t, node, count,
        until (when they would have ended)
    refusals: one row for each refused ADD: t, node, pod, cause (code into `causes`)
    calls: one row for each attempt of a call: started, ended, node, api (code into `apis`),
        error (code into `errors`; 0 is the empty string, success)
    moves: one row for each thing that happened to a node: t, node, event (code into `events`:
        joining, ready, cordoned, uncordoned, draining, gone, daemon away, daemon back). Nodes that
        are there from the start have no row for their coming
    replaced: one row for each pod that took the place of an evicted one: pod, of (both rows of
        pods)
    subnets: free addresses after each change, in order of time: t, subnet (index into
        header.subnets), free, free_prefixes (aligned /28 that could be handed out)
    """

    header: RunHeader
    pods: Mapping[str, NDArray[Any]]
    unplaced: Mapping[str, NDArray[Any]]
    pool: Mapping[str, NDArray[Any]]
    cut: Mapping[str, NDArray[Any]]
    refusals: Mapping[str, NDArray[Any]]
    calls: Mapping[str, NDArray[Any]]
    subnets: Mapping[str, NDArray[Any]]
    moves: Mapping[str, NDArray[Any]]
    replaced: Mapping[str, NDArray[Any]]
    resources: tuple[str, ...]
    causes: tuple[str, ...]
    apis: tuple[str, ...]
    errors: tuple[str, ...]
    events: tuple[str, ...]

    def tables(self) -> Iterator[tuple[str, Mapping[str, NDArray[Any]]]]:
        """Yield each table with its name, in a fixed order."""
        yield "pods", self.pods
        yield "unplaced", self.unplaced
        yield "pool", self.pool
        yield "cut", self.cut
        yield "refusals", self.refusals
        yield "calls", self.calls
        yield "subnets", self.subnets
        yield "moves", self.moves
        yield "replaced", self.replaced


class Names:
    """Codes for repeated words: the first word seen is 0, the next 1."""

    def __init__(self, *first: str) -> None:
        """Start with words whose codes are fixed."""
        self._codes = {word: code for code, word in enumerate(first)}

    def code(self, word: str) -> int:
        """Return the word's code, a new one where it is seen for the first time."""
        return self._codes.setdefault(word, len(self._codes))

    def words(self) -> tuple[str, ...]:
        """Return the words in the order of their codes."""
        return tuple(self._codes)


class Recorder:
    """Columns that a run writes to; whoever writes knows the columns it needs.

    The pods' columns are indexed by pod and public: the path of a pod that finds its address
    warm writes four numbers, and a method call each would cost as much as the allocator does.
    """

    def __init__(self, pods: int) -> None:
        """Make room for that many pods."""
        self.node = array("i", [-1]) * pods
        self.added_at = array("d", [NAN]) * pods
        self.served_at = array("d", [NAN]) * pods
        self.released_at = array("d", [NAN]) * pods
        self.refused = array("i", [0]) * pods
        self.resources = Names()
        self.causes = Names()
        self.apis = Names()
        self.errors = Names("")
        self.events = Names()
        self._unplaced = (array("i"), array("i"))
        self._pool = (array("d"), array("i"), array("i"), array("i"), array("i"))
        self._cut = (array("d"), array("i"), array("i"), array("d"))
        self._refusals = (array("d"), array("i"), array("i"), array("i"))
        self._calls = (array("d"), array("d"), array("i"), array("i"), array("i"))
        self._subnets = (array("d"), array("i"), array("i"), array("i"))
        self._moves = (array("d"), array("i"), array("i"))
        self._replaced = (array("i"), array("i"))
        self._arrivals = array("d")

    @property
    def pods(self) -> int:
        """Pods that there are columns for."""
        return len(self.node)

    def unplace(self, pod: int, resource: str) -> None:
        """Note that no node took the pod, and which resource was short."""
        _append(self._unplaced, pod, self.resources.code(resource))

    def pool(self, t: float, node: int, enis: int, blocks: int, addresses: int) -> None:
        """Note a node's pool after EC2 changed it."""
        _append(self._pool, t, node, enis, blocks, addresses)

    def cut(self, t: float, node: int, count: int, until: float) -> None:
        """Note cooling addresses that went back to EC2."""
        _append(self._cut, t, node, count, until)

    def refuse(self, t: float, node: int, pod: int, cause: str) -> None:
        """Note a refused ADD."""
        self.refused[pod] += 1
        _append(self._refusals, t, node, pod, self.causes.code(cause))

    def call(self, node: int, api: str, started: float, ended: float, error: str) -> None:
        """Note one attempt of a call; `error` is EC2's code, empty for success."""
        _append(self._calls, started, ended, node, self.apis.code(api), self.errors.code(error))

    def subnet(self, t: float, subnet: int, free: int, free_prefixes: int) -> None:
        """Note a subnet's free addresses and free /28s after a change."""
        _append(self._subnets, t, subnet, free, free_prefixes)

    def move(self, t: float, node: int, event: str) -> None:
        """Note what happened to a node."""
        _append(self._moves, t, node, self.events.code(event))

    def again(self, of: int, t: float) -> int:
        """Make room for one more pod, which takes the place of another; return its number."""
        pod = len(self.node)
        self.node.append(-1)
        for column in (self.added_at, self.served_at, self.released_at):
            column.append(NAN)
        self.refused.append(0)
        self._arrivals.append(t)
        _append(self._replaced, pod, of)
        return pod

    def finish(self, header: RunHeader, arrival_s: NDArray[np.float64]) -> RunRecord:
        """Close the run."""
        pods = {
            "arrival_s": _joined(arrival_s, self._arrivals),
            "node": _column(self.node),
            "added_at": _column(self.added_at),
            "served_at": _column(self.served_at),
            "released_at": _column(self.released_at),
            "refused": _column(self.refused),
        }
        return RunRecord(
            header=header,
            pods=pods,
            unplaced=_table(self._unplaced, "pod", "resource"),
            pool=_table(self._pool, "t", "node", "enis", "blocks", "addresses"),
            cut=_table(self._cut, "t", "node", "count", "until"),
            refusals=_table(self._refusals, "t", "node", "pod", "cause"),
            calls=_table(self._calls, "started", "ended", "node", "api", "error"),
            subnets=_table(self._subnets, "t", "subnet", "free", "free_prefixes"),
            moves=_table(self._moves, "t", "node", "event"),
            replaced=_table(self._replaced, "pod", "of"),
            resources=self.resources.words(),
            causes=self.causes.words(),
            apis=self.apis.words(),
            errors=self.errors.words(),
            events=self.events.words(),
        )


def _joined(first: NDArray[np.float64], more: "array[float]") -> NDArray[np.float64]:
    """Put more values behind an array; the array itself where there are none."""
    if not more:
        return first
    joined = np.concatenate((first, np.frombuffer(more)))
    joined.setflags(write=False)
    return joined


def _append(columns: tuple["array[Any]", ...], *values: float) -> None:
    for column, value in zip(columns, values, strict=True):
        column.append(value)


def _column(values: "array[Any]") -> NDArray[Any]:
    """View an array's memory; the recorder is not written to any more."""
    dtype = np.float64 if values.typecode == "d" else np.int32
    column = np.frombuffer(values, dtype=dtype) if len(values) else np.empty(0, dtype=dtype)
    column.setflags(write=False)
    return column


def _table(columns: tuple["array[Any]", ...], *names: str) -> dict[str, NDArray[Any]]:
    return {name: _column(column) for name, column in zip(names, columns, strict=True)}
