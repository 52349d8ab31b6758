"""What every source of pods gives and raises: `Trace` and `TraceError`.

A trace is a table of numpy columns in order of arrival. Nothing here opens a file. All random
numbers come from `stream`, whose output depends on its arguments alone.
"""

from __future__ import annotations

import difflib
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

PODS_MAX = 20_000_000
"""Pods in one trace; more would need over 2 GB of memory and is most likely a slip."""


class TraceError(ValueError):
    """A trace, or what was asked of one, is refused; `str` is one line for a person.

    `file`, `line` (from 1, the header counts), `row` (from 1, where a format has no lines),
    `field` and `value` say where, `reason` what is wrong and `allowed` what would be right.
    Each is None where it does not apply.
    """

    def __init__(  # noqa: PLR0913 - one keyword for each part of the message.
        self,
        reason: str,
        *,
        file: str | None = None,
        line: int | None = None,
        row: int | None = None,
        field: str | None = None,
        value: str | None = None,
        allowed: str | None = None,
    ) -> None:
        """Keep the parts apart, so that a caller need not parse the message."""
        self.reason, self.file, self.line, self.row = reason, file, line, row
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(reason)

    def __str__(self) -> str:
        """Say where, what, why and what is allowed, in one line.

        >>> print(TraceError("not a number", file="a.csv", line=3, field="arrival_s", value="x"))
        a.csv, line 3, arrival_s: "x": not a number
        """
        where = [] if self.file is None else [self.file]
        where += [] if self.line is None else [f"line {self.line}"]
        where += [] if self.row is None else [f"row {self.row}"]
        where += [] if self.field is None else [self.field]
        parts = [", ".join(where)] if where else []
        parts += [] if self.value is None else [_quoted(self.value)]
        allowed = "" if self.allowed is None else f" (allowed: {self.allowed})"
        return ": ".join([*parts, self.reason]) + allowed


def _quoted(value: str) -> str:
    """Quote a value so that it stays on one line and is not longer than one."""
    shown = value if value.isprintable() else repr(value)[1:-1]
    return f'"{shown[:57]}..."' if len(shown) > 60 else f'"{shown}"'  # noqa: PLR2004


def near(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the known word most like this one, or nothing."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.strip().lower(), by_lower, n=1, cutoff=0.5)
    return f'; did you mean "{by_lower[found[0]]}"?' if found else ""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Pods that come and go, in order of arrival: read-only numpy columns of equal length.

    An arrival is the instant the pod wants its sandbox, in seconds since the trace's zero. A
    life is the seconds its sandbox lives once it has its address; inf outlives the trace. A
    node of -1 leaves the choice to the scheduler. Build one with `trace_of`.
    """

    names: tuple[str, ...] | None
    """None where pods are called pod-0, pod-1, …, which saves 60 MB at 1,000,000 pods."""
    arrival_s: NDArray[np.float64]
    life_s: NDArray[np.float64]
    cpu_m: NDArray[np.int64]
    """Requested millicores; 0 where the trace does not say."""
    memory_mib: NDArray[np.int64]
    """Requested MiB; 0 where the trace does not say."""
    node: NDArray[np.int32]
    """Index into `node_names`; -1 where the scheduler places the pod."""
    node_names: tuple[str, ...]
    end_s: float
    """The horizon: no arrival is later, and what happens after it is not looked at."""
    origin: str
    """The file's name or the generator's call, for reports."""
    notes: tuple[str, ...]
    """What was changed, dropped or guessed since the origin, in order."""

    def __len__(self) -> int:
        """Return the number of pods."""
        return len(self.arrival_s)

    def name_of(self, index: int) -> str:
        """Return the name of the pod at `index`, counted from 0 in order of arrival."""
        return f"pod-{index}" if self.names is None else self.names[index]

    def departure_s(self) -> NDArray[np.float64]:
        """Return when each pod leaves if its address comes at once; inf where it stays."""
        return self.arrival_s + self.life_s


def trace_of(  # noqa: PLR0913 - one keyword for each column of the table.
    *,
    arrival_s: NDArray[np.float64],
    life_s: NDArray[np.float64],
    origin: str,
    cpu_m: NDArray[np.int64] | None = None,
    memory_mib: NDArray[np.int64] | None = None,
    node: NDArray[np.int32] | None = None,
    node_names: Sequence[str] = (),
    names: Sequence[str] | None = None,
    end_s: float | None = None,
    notes: Sequence[str] = (),
) -> Trace:
    """Put pods into order of arrival, ties in the order given, and fill what is not said.

    Without `end_s` the trace ends with its last arrival or last known departure. Nothing is
    judged here: `validate` does that.
    """
    count = len(arrival_s)
    order: NDArray[np.intp] | None = None
    if count and bool((np.diff(arrival_s) < 0).any()):
        order = np.argsort(arrival_s, kind="stable")
        names = None if names is None else [names[i] for i in order.tolist()]

    def ordered(column: NDArray[Any] | None, dtype: type[Scalar], blank: int) -> NDArray[Scalar]:
        whole: NDArray[Scalar]
        whole = np.full(count, blank, dtype) if column is None else column.astype(dtype)
        whole = whole if order is None else whole[order]
        whole.setflags(write=False)
        return whole

    arrivals = ordered(arrival_s, np.float64, 0)
    lives = ordered(life_s, np.float64, 0)
    return Trace(
        names=None if names is None else tuple(names),
        arrival_s=arrivals,
        life_s=lives,
        cpu_m=ordered(cpu_m, np.int64, 0),
        memory_mib=ordered(memory_mib, np.int64, 0),
        node=ordered(node, np.int32, -1),
        node_names=tuple(node_names),
        end_s=last_instant(arrivals, lives) if end_s is None else float(end_s),
        origin=origin,
        notes=tuple(notes),
    )


def last_instant(arrival_s: NDArray[np.float64], life_s: NDArray[np.float64]) -> float:
    """Return the last arrival or known departure, in seconds; 0 where there is no pod."""
    if len(arrival_s) == 0:
        return 0.0
    departures = arrival_s + life_s
    known = departures[np.isfinite(departures)]
    return float(max(arrival_s.max(), known.max() if len(known) else 0.0))


def validate(trace: Trace) -> None:
    """Raise TraceError for the first thing that a trace must not be."""
    count = len(trace)
    if count == 0:
        _refuse(trace, "no pods")
    if count > PODS_MAX:
        _refuse(trace, f"{count:,} pods", allowed=f"at most {PODS_MAX:,}")
    columns: dict[str, NDArray[Any]] = {
        "life_s": trace.life_s,
        "cpu_m": trace.cpu_m,
        "memory_mib": trace.memory_mib,
        "node": trace.node,
    }
    for field, column in columns.items():
        if len(column) != count:
            _refuse(trace, f"{len(column)} values for {count} pods", field=field)
    arrivals = trace.arrival_s
    _all(trace, "arrival_s", np.isfinite(arrivals) & (arrivals >= 0), "seconds, 0 or more")
    _all(trace, "life_s", trace.life_s > 0, "seconds above 0, or inf: outlives the trace")
    _all(trace, "cpu_m", trace.cpu_m >= 0, "millicores, 0 or more")
    _all(trace, "memory_mib", trace.memory_mib >= 0, "MiB, 0 or more")
    nodes = len(trace.node_names)
    _all(trace, "node", (trace.node >= -1) & (trace.node < nodes), f"-1 to {nodes - 1}")
    if bool((np.diff(arrivals) < 0).any()):
        _refuse(trace, "pods are not in order of arrival", field="arrival_s")
    if not (math.isfinite(trace.end_s) and trace.end_s >= arrivals[-1]):
        allowed = f"seconds, from the last arrival ({float(arrivals[-1])!r})"
        reason = "the trace ends before its last pod arrives"
        _refuse(trace, reason, field="end_s", value=repr(trace.end_s), allowed=allowed)
    if trace.names is not None and len(trace.names) != count:
        _refuse(trace, f"{len(trace.names)} values for {count} pods", field="names")
    _names(trace, "pod", trace.names or ())
    _names(trace, "node", trace.node_names)


def _all(trace: Trace, field: str, good: NDArray[np.bool_], allowed: str) -> None:
    """Refuse the first pod whose value is not good."""
    if not bool(good.all()):
        row = int(np.argmin(good))
        value = str(getattr(trace, field)[row])
        _refuse(trace, "out of range", row=row + 1, field=field, value=value, allowed=allowed)


def _names(trace: Trace, field: str, names: tuple[str, ...]) -> None:
    """Refuse a name that is blank, given twice, or that a line of text cannot carry."""
    if len(set(names)) != len(names):
        first_seen: dict[str, int] = {}
        for row, name in enumerate(names, 1):
            if name in first_seen:
                reason = f"given twice, first in row {first_seen[name]}"
                _refuse(trace, reason, row=row, field=field, value=name)
            first_seen[name] = row
    # One look at the whole text is several times faster than one per name, and is enough
    # where nothing is wrong.
    if all(names) and is_plain("".join(names)):
        return
    for row, name in enumerate(names, 1):
        if not name or not is_plain(name):
            reason = "a name without visible characters" if not name else "control characters"
            _refuse(trace, reason, row=row, field=field, value=name)


def is_plain(text: str) -> bool:
    """Say whether text has no control character and no half of a surrogate pair."""
    if text.isascii():
        return text.isprintable()
    return not any(ch < " " or ch == "\x7f" or "\ud800" <= ch <= "\udfff" for ch in text)


def _refuse(  # noqa: PLR0913 - one keyword for each part of the message.
    trace: Trace,
    reason: str,
    *,
    row: int | None = None,
    field: str | None = None,
    value: str | None = None,
    allowed: str | None = None,
) -> NoReturn:
    raise TraceError(reason, file=trace.origin, row=row, field=field, value=value, allowed=allowed)


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Return the random numbers of one purpose: two purposes never share a stream.

    The purpose enters by CRC-32, not by `hash`, which differs from process to process.
    Raises TraceError for a seed that is not a whole number, 0 or more.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        reason = "not a seed"
        raise TraceError(reason, field="seed", value=str(seed), allowed="a whole number, 0 or more")
    key = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()),))
    return np.random.Generator(np.random.PCG64(key))
