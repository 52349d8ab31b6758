"""Traces of pods that come and go: load, save, validate, describe, transform.

A trace is a value: each transformation returns a new one, notes what it did, and depends on its
arguments alone. Everything is vectorised, so that a million pods take about a second. The table
itself, `Trace`, and the refusal, `TraceError`, live in `sim.sources.pods`, below the formats
that make them; they are imported from here.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import tempfile
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sim.sources import importers, openb, table
from sim.sources.importing import is_same, size_of
from sim.sources.lives import Choices, Count, Fate, Imported
from sim.sources.pods import PODS_MAX, Trace, TraceError, is_plain, stream, trace_of, validate
from sim.sources.strict_csv import check_text, header_of, read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "FORMATS",
    "Choices",
    "Count",
    "Fate",
    "Imported",
    "Trace",
    "TraceDescription",
    "TraceError",
    "check_target",
    "compress",
    "describe",
    "example",
    "import_files",
    "load",
    "merge",
    "replicate",
    "sample",
    "save",
    "shift",
    "size_of",
    "thin",
    "trace_of",
    "validate",
    "window",
]

FORMATS = ("csv", "parquet", "openb")
"""What `load` reads; `save` writes the first two."""
SUFFIXES = (".csv", ".csv.gz", ".parquet")
_OPENB_MARKS = {"creation_time", "deletion_time", "scheduled_time"}


def load(path: str | os.PathLike[str], *, fmt: str | None = None) -> Trace:
    """Return the trace in a file, whole, or raise TraceError naming file, line and field.

    The format is found from what the file holds and the suffix of its name unless `fmt`, one of
    FORMATS, says it. A file in gzip is unpacked whatever it is called.
    """
    path = Path(path)
    file = str(path)
    if fmt is not None and fmt not in FORMATS:
        raise TraceError("unknown format", field="fmt", value=fmt, allowed=", ".join(FORMATS))
    data = read_bytes(path)
    if not data:
        raise TraceError("the file is empty", file=file, allowed="a header and a row for each pod")
    is_parquet = data.startswith(table.PARQUET_MAGIC) or path.suffix == ".parquet"
    if fmt == "parquet" or (fmt is None and is_parquet):
        trace = table.read_parquet(data, file, path.name)
    else:
        check_text(data, file)
        text = table.skip_preamble(data, file)
        if fmt is None:
            fmt = "openb" if _OPENB_MARKS.intersection(header_of(text)) else "csv"
        read = openb.read if fmt == "openb" else table.read_csv
        trace = read(text, path.name)
    try:
        validate(trace)
    except TraceError as err:
        # What passed the readers and fails here belongs to no line; the file is still named.
        raise TraceError(
            err.reason, file=file, field=err.field, value=err.value, allowed=err.allowed
        ) from None
    return trace


def import_files(
    fmt: str,
    paths: Sequence[str | os.PathLike[str]],
    choices: Choices | None = None,
    advance: Callable[[int], None] = lambda _count: None,
) -> Imported:
    """Return the trace in files of another format, and what was guessed and dropped on the way.

    `fmt` is a name in `sim.sources.importers.IMPORTERS`; `advance` hears how many more bytes were
    read. Raises TraceError with file and line for the first thing that is wrong.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise TraceError("nothing to import", field="FILE", allowed="one file or more")
    imported = importers.find(fmt).read(files, choices or Choices(), advance)
    try:
        validate(imported.trace)
    except TraceError as err:
        raise TraceError(
            err.reason, file=str(files[0]), field=err.field, value=err.value, allowed=err.allowed
        ) from None
    return imported


def check_target(
    path: str | os.PathLike[str], sources: Sequence[str | os.PathLike[str]] = ()
) -> None:
    """Raise TraceError where `save` could not write, or would write over one of the sources."""
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        allowed = ", ".join(SUFFIXES)
        raise TraceError("unknown suffix", file=str(path), value=path.suffix, allowed=allowed)
    if not path.parent.is_dir():
        raise TraceError("no such folder", file=str(path.parent))
    if path.is_dir():
        raise TraceError("is a folder", file=str(path), allowed="a file")
    for source in sources:
        if is_same(path, Path(source)):
            raise TraceError("is read and would be written over", file=str(path))


def example() -> Trace:
    """Return the trace that ships: four hours of a web shop, cron jobs and two bursts."""
    with as_file(files("sim") / "examples" / "web-and-jobs.csv") as path:
        return load(path)


def sample(name: str = "") -> Path:
    """Return where a file or folder lies that ships: what the importers read, journals of nodes.

    Without a name, the folder that holds all of them. Raises FileNotFoundError.
    """
    path = Path(str(files("sim"))) / "examples" / name
    if not path.exists():
        raise FileNotFoundError(f"{path}: nothing of that name ships")
    return path


def save(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a trace as CSV, gzipped CSV or Parquet, by the suffix; equal traces, equal bytes.

    The file appears whole or not at all. Raises TraceError for another suffix, for a trace that
    is not valid, or where the file cannot be written.
    """
    path = Path(path)
    validate(trace)
    if path.name.endswith(".csv.gz"):
        # A time in gzip's header would make equal traces differ.
        data = gzip.compress(table.csv_bytes(trace), compresslevel=6, mtime=0)
    elif path.suffix == ".csv":
        data = table.csv_bytes(trace)
    elif path.suffix == ".parquet":
        data = table.parquet_bytes(trace)
    else:
        allowed = ", ".join(SUFFIXES)
        raise TraceError("unknown suffix", file=str(path), value=path.suffix, allowed=allowed)
    _write_whole(path, data)


def _write_whole(path: Path, data: bytes) -> None:
    """Write under another name in the same folder, then rename."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            # mkstemp keeps others out; a trace is as public as any file its owner writes.
            mask = os.umask(0)
            os.umask(mask)
            Path(temporary).chmod(0o666 & ~mask)
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as err:
        raise TraceError(f"cannot be written: {err.strerror}", file=str(path)) from None


@dataclass(frozen=True, slots=True)
class TraceDescription:
    """What a trace looks like, in figures; times in seconds."""

    origin: str
    notes: tuple[str, ...]
    pods: int
    span_s: float
    """From zero to the horizon."""
    first_arrival_s: float
    last_arrival_s: float
    present_at_start: int
    """Pods that arrive at the very first instant, zero."""
    arrivals_per_minute_mean: float
    arrivals_worst_minute: int
    """The most arrivals within any 60 s, wherever these begin."""
    arrivals_worst_5_s: int
    life_p50_s: float | None
    """Of lives that are known; None where every pod outlives the trace."""
    life_p90_s: float | None
    life_p99_s: float | None
    life_mean_s: float | None
    outliving_share: float
    """Pods without an end, of all."""
    peak_pods: int
    """The most pods alive at once, if each gets its address at once."""
    peak_at_s: float
    mean_pods: float
    """Alive on average from zero to the horizon."""
    cpu_m_mean: float
    cpu_m_max: int
    memory_mib_mean: float
    memory_mib_max: int
    without_requests_share: float
    placed_share: float
    """Pods whose node the trace tells, of all."""
    nodes: int
    peak_pods_on_a_node: int
    """Of placed pods; 0 where there are none."""


def describe(trace: Trace) -> TraceDescription:
    """Return what a trace looks like, in figures."""
    pods, arrivals = len(trace), trace.arrival_s
    lives = trace.life_s[np.isfinite(trace.life_s)]
    p50, p90, p99 = np.quantile(lives, (0.5, 0.9, 0.99)).tolist() if len(lives) else (None,) * 3
    alive = _alive_at_arrivals(trace)
    peak = int(np.argmax(alive))
    silent = (trace.cpu_m == 0) & (trace.memory_mib == 0)
    present_s = np.minimum(trace.departure_s(), trace.end_s) - arrivals
    return TraceDescription(
        origin=trace.origin,
        notes=trace.notes,
        pods=pods,
        span_s=trace.end_s,
        first_arrival_s=float(arrivals[0]),
        last_arrival_s=float(arrivals[-1]),
        present_at_start=int(np.searchsorted(arrivals, 0.0, side="right")),
        arrivals_per_minute_mean=pods * 60 / trace.end_s if trace.end_s > 0 else float(pods),
        arrivals_worst_minute=_most_within(arrivals, 60.0),
        arrivals_worst_5_s=_most_within(arrivals, 5.0),
        life_p50_s=p50,
        life_p90_s=p90,
        life_p99_s=p99,
        life_mean_s=float(lives.mean()) if len(lives) else None,
        outliving_share=1 - len(lives) / pods,
        peak_pods=int(alive[peak]),
        peak_at_s=float(arrivals[peak]),
        mean_pods=float(present_s.sum() / trace.end_s) if trace.end_s > 0 else float(pods),
        cpu_m_mean=float(trace.cpu_m.mean()),
        cpu_m_max=int(trace.cpu_m.max()),
        memory_mib_mean=float(trace.memory_mib.mean()),
        memory_mib_max=int(trace.memory_mib.max()),
        without_requests_share=float(silent.mean()),
        placed_share=float((trace.node >= 0).mean()),
        nodes=len(trace.node_names),
        peak_pods_on_a_node=_peak_on_a_node(trace),
    )


def _most_within(arrival_s: NDArray[np.float64], window_s: float) -> int:
    """Return the most arrivals in any half-open window; some arrival opens the fullest one."""
    until = np.searchsorted(arrival_s, arrival_s + window_s, side="left")
    # Where the window is below the resolution of so late an instant, a pod still counts itself.
    return int(max((until - np.arange(len(arrival_s))).max(), 1))


def _alive_at_arrivals(trace: Trace) -> NDArray[np.int64]:
    """Return how many pods are alive just after each arrival: leaving comes before coming."""
    left = np.searchsorted(np.sort(trace.departure_s()), trace.arrival_s, side="right")
    alive: NDArray[np.int64] = np.arange(1, len(trace) + 1) - left
    return alive


def _peak_on_a_node(trace: Trace) -> int:
    """Return the most placed pods alive on one node: a running sum within each node."""
    placed = np.flatnonzero(trace.node >= 0)
    if not len(placed):
        return 0
    node = np.tile(trace.node[placed], 2)
    instant = np.concatenate([trace.departure_s()[placed], trace.arrival_s[placed]])
    change = np.repeat(np.array([-1, 1]), len(placed))
    # Each node's changes sum to zero, so the running sum starts each node afresh.
    order = np.lexsort((change, instant, node))
    return int(np.cumsum(change[order]).max())


def replicate(trace: Trace, times: int, *, seed: int, jitter_s: float = 600.0) -> Trace:
    """Overlay a trace with itself, so that it has `times` the pods.

    The first copy is as it was; every pod of a further copy comes up to `jitter_s` seconds
    later, each by its own draw, and the horizon moves by as much. Names get a suffix -r0, -r1, …
    """
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise _refusal("times", times, "a whole number, 1 or more")
    if not (math.isfinite(jitter_s) and jitter_s >= 0):
        raise _refusal("jitter_s", jitter_s, "seconds, 0 or more")
    if times * len(trace) > PODS_MAX:
        raise _refusal("times", times, f"at most {PODS_MAX:,} pods in all")
    if times == 1:
        return trace
    late = stream(seed, "trace.replicate").random((times, len(trace))) * jitter_s
    late[0] = 0.0
    names = None
    if trace.names is not None:
        names = [f"{name}-r{copy}" for copy in range(times) for name in trace.names]
    return trace_of(
        names=names,
        arrival_s=(trace.arrival_s + late).ravel(),
        life_s=np.tile(trace.life_s, times),
        cpu_m=np.tile(trace.cpu_m, times),
        memory_mib=np.tile(trace.memory_mib, times),
        node=np.tile(trace.node, times),
        node_names=trace.node_names,
        end_s=trace.end_s + jitter_s,
        origin=trace.origin,
        notes=(*trace.notes, f"replicated {times} times, jitter {jitter_s:g} s, seed {seed}"),
    )


def compress(trace: Trace, factor: float) -> Trace:
    """Divide arrivals, lives and the horizon by `factor`: as many pods alive, more churn."""
    if not (math.isfinite(factor) and factor > 0):
        raise _refusal("factor", factor, "a number above 0")
    note = f"compressed {factor:g} times: arrivals and lives"
    arrival_s, life_s = trace.arrival_s / factor, trace.life_s / factor
    end_s = trace.end_s / factor
    if not (math.isfinite(end_s) and bool((life_s > 0).all())):
        raise _refusal("factor", factor, "a number that keeps every time above 0 and finite")
    for column in (arrival_s, life_s):
        column.setflags(write=False)
    return replace(
        trace, arrival_s=arrival_s, life_s=life_s, end_s=end_s, notes=(*trace.notes, note)
    )


def thin(trace: Trace, keep: float, *, seed: int) -> Trace:
    """Keep each pod with probability `keep`, above 0 up to 1; at least one pod stays."""
    if not 0 < keep <= 1:
        raise _refusal("keep", keep, "a share above 0, up to 1")
    if keep == 1:
        return trace
    kept = np.flatnonzero(stream(seed, "trace.thin").random(len(trace)) < keep)
    if not len(kept):
        raise TraceError(
            f"none of {len(trace)} pods is left", field="keep", value=f"{keep:g}", allowed="more"
        )
    names = None if trace.names is None else [trace.names[i] for i in kept.tolist()]
    return trace_of(
        names=names,
        arrival_s=trace.arrival_s[kept],
        life_s=trace.life_s[kept],
        cpu_m=trace.cpu_m[kept],
        memory_mib=trace.memory_mib[kept],
        node=trace.node[kept],
        node_names=trace.node_names,
        end_s=trace.end_s,
        origin=trace.origin,
        notes=(*trace.notes, f"thinned to {keep:g} of the pods, seed {seed}"),
    )


def window(trace: Trace, from_s: float, until_s: float) -> Trace:
    """Keep what happens from `from_s` until `until_s`, which become zero and the end.

    Pods alive at `from_s` are there at zero, with what is left of their lives. Raises TraceError
    for a window outside of the trace, or with no pod in it.
    """
    if not 0 <= from_s < until_s <= trace.end_s:
        allowed = f"0 <= from_s < until_s <= {trace.end_s:g}"
        raise TraceError("no such window", field="from_s, until_s", allowed=allowed)
    goes = trace.departure_s()
    kept = np.flatnonzero((trace.arrival_s <= until_s) & (goes > from_s))
    if not len(kept):
        raise TraceError(f"no pod is alive between {from_s:g} and {until_s:g} s")
    arrival_s = np.maximum(trace.arrival_s[kept], from_s)
    names = None if trace.names is None else [trace.names[i] for i in kept.tolist()]
    return trace_of(
        names=names,
        arrival_s=arrival_s - from_s,
        life_s=goes[kept] - arrival_s,
        cpu_m=trace.cpu_m[kept],
        memory_mib=trace.memory_mib[kept],
        node=trace.node[kept],
        node_names=trace.node_names,
        end_s=until_s - from_s,
        origin=trace.origin,
        notes=(*trace.notes, f"cut to {from_s:g} to {until_s:g} s"),
    )


def shift(trace: Trace, by_s: float) -> Trace:
    """Let everything happen `by_s` seconds later; 0 or more."""
    if not (math.isfinite(by_s) and by_s >= 0):
        raise _refusal("by_s", by_s, "seconds, 0 or more")
    if by_s == 0:
        return trace
    arrival_s = trace.arrival_s + by_s
    arrival_s.setflags(write=False)
    notes = (*trace.notes, f"shifted by {by_s:g} s")
    return replace(trace, arrival_s=arrival_s, end_s=trace.end_s + by_s, notes=notes)


def merge(traces: Mapping[str, Trace], *, origin: str = "merged") -> Trace:
    """Lay traces over each other; pods are called label/name, the longest trace gives the end.

    At equal instants the pods of an earlier label come first. Nodes of one name are one node.
    """
    if not traces:
        raise TraceError("nothing to merge", field="traces", allowed="one trace or more")
    for label in traces:
        if not label or "/" in label or not is_plain(label):
            raise _refusal("label", label, "a name without a slash")
    index_of: dict[str, int] = {}
    nodes = []
    for trace in traces.values():
        to_index = [index_of.setdefault(name, len(index_of)) for name in trace.node_names]
        nodes.append(np.array([*to_index, -1], np.int32)[trace.node])
    parts = list(traces.values())
    return trace_of(
        names=[
            f"{label}/{part.name_of(i)}" for label, part in traces.items() for i in range(len(part))
        ],
        arrival_s=np.concatenate([part.arrival_s for part in parts]),
        life_s=np.concatenate([part.life_s for part in parts]),
        cpu_m=np.concatenate([part.cpu_m for part in parts]),
        memory_mib=np.concatenate([part.memory_mib for part in parts]),
        node=np.concatenate(nodes),
        node_names=tuple(index_of),
        end_s=max(part.end_s for part in parts),
        origin=origin,
        notes=[
            f"{label}: {'; '.join((part.origin, *part.notes))}" for label, part in traces.items()
        ],
    )


def _refusal(field: str, value: object, allowed: str) -> TraceError:
    """Return the refusal of an argument."""
    return TraceError("not possible", field=field, value=str(value), allowed=allowed)
