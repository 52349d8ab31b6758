"""Google's ClusterData 2019 (Borg): events of instances, as CSV or as a JSON object a line.

An instance is a task of a job, or an alloc instance, which is a reservation that tasks run in.
A pod is an alloc instance, or a task outside of any: tasks inside share its address and are
dropped.

- SCHEDULE begins a pod; EVICT, FAIL, FINISH, KILL and LOST end it. Whoever is scheduled again is a
  pod again.
- Time 0 is before the trace, 2^63 - 1 after it. What ends without having begun was there before.
- What was submitted and never scheduled is demand: it arrives when it was submitted.
- Requests are shares of the largest machine and are ignored; the machine of a pod is kept.

- An event that comes twice counts once.

Columns are kept as arrays, 29 bytes for each event that counts, and are paired piece by piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.sources import fields
from sim.sources.importing import Advance, Importer, no_drop, origin_of
from sim.sources.json_text import Json, JsonText, Layout, located, open_bytes, records
from sim.sources.lives import LIFE_MIN_S, Choices, Fate, Imported, Tally, notes_of
from sim.sources.pods import PODS_MAX, TraceError, trace_of
from sim.sources.strict_csv import Column as CsvColumn
from sim.sources.strict_csv import CsvText, Kind, check_text, read_columns

Column64 = NDArray[np.int64]
Column = NDArray[Any]
Block = dict[str, Column]
"""Events column by column."""

SUBMIT, SCHEDULE = 0, 3
ENDS = (4, 5, 6, 7, 8)
_AFTER = 2**63 - 1
_MICRO = 1e6
_BLOCK_BYTES = 1 << 23
_EVENTS_KEPT_MAX = 4 * PODS_MAX

_INDEX_MAX = 2**31 - 1
_PIECE = 1 << 20
"""Events that are paired at once, and pods that are named at once."""
_TYPES: Mapping[str, type[np.integer[Any]]] = {
    "time": np.int64,
    "type": np.int8,
    "collection_id": np.int64,
    "instance_index": np.int32,
    "machine_id": np.int64,
}

_IGNORED = (
    "scheduling_class",
    "missing_type",
    "priority",
    "alloc_instance_index",
    "cpus",
    "memory",
)
_NEEDED = ("time", "type", "collection_id", "instance_index", "machine_id", "alloc_collection_id")
COLUMNS = (
    CsvColumn("time", Kind.WHOLE),
    CsvColumn("type", Kind.WHOLE),
    CsvColumn("collection_id", Kind.WHOLE),
    CsvColumn("instance_index", Kind.WHOLE),
    CsvColumn("machine_id", Kind.ID),
    CsvColumn("alloc_collection_id", Kind.ID),
    CsvColumn("collection_type", Kind.ID, required=False),
    *(CsvColumn(name, Kind.IGNORED, required=False) for name in _IGNORED),
)

HOW_TO = """\
The trace is in BigQuery (project google.com:google-cluster-data, datasets clusterdata_2019_a to
_h; licence CC BY 4.0). A cell has 10,000 machines and a month; take some machines of it:

  bq query --use_legacy_sql=false --format=csv --max_rows=100000000 '
    SELECT time, type, collection_id, instance_index, machine_id, alloc_collection_id,
           collection_type
    FROM `google.com:google-cluster-data`.clusterdata_2019_a.instance_events
    WHERE MOD(machine_id, 100) = 0' > google.csv
  warmbench trace import google2019 google.csv --out google.parquet

CSV, or JSON with an object a line as BigQuery exports it to a bucket, packed or not; order does
not matter. Requests are shares of the largest machine and are ignored."""


@dataclass(slots=True)
class _Events:
    """What counts of all events, column by column, block by block."""

    columns: dict[str, list[Column]] = field(default_factory=lambda: {name: [] for name in _TYPES})
    kept: int = 0

    def add(self, block: Block, tally: Tally) -> None:
        """Take in a block of events, without those inside of alloc sets and those of no effect."""
        inside = block["alloc_collection_id"] > 0
        counts = np.isin(block["type"], (SUBMIT, SCHEDULE, *ENDS)) & (block["time"] != _AFTER)
        tally.add(Fate.READ, "events", len(inside))
        scheduled = (block["type"] == SCHEDULE) & inside
        tally.add(Fate.DROPPED, "tasks in alloc sets: they share an address", int(scheduled.sum()))
        take = counts & ~inside
        self.kept += int(take.sum())
        if self.kept > _EVENTS_KEPT_MAX:
            raise TraceError("too many events", allowed=f"at most {_EVENTS_KEPT_MAX:,} that count")
        if int(block["instance_index"].max()) > _INDEX_MAX:
            reason, field = "out of range", "instance_index"
            raise TraceError(reason, field=field, allowed=f"up to {_INDEX_MAX:,}")
        for name, parts in self.columns.items():
            parts.append(block[name][take].astype(_TYPES[name]))

    def sorted(self) -> Block:
        """Return all events by instance and time; at one instant an end comes before a start.

        One column after another is put together and given up, so that no two copies of all are
        in memory at once.
        """
        whole = {}
        for name, parts in self.columns.items():
            whole[name] = np.concatenate(parts)
            parts.clear()
        starts = whole["type"] == SCHEDULE
        order = np.lexsort((starts, whole["time"], whole["instance_index"], whole["collection_id"]))
        for name in whole:
            whole[name] = whole[name][order]
        keys = ("collection_id", "instance_index", "time", "type")
        again = np.ones(len(order), bool)
        again[:1] = False
        for name in keys:
            again[1:] &= whole[name][1:] == whole[name][:-1]
        if bool(again.any()):
            whole = {name: column[~again] for name, column in whole.items()}
        return whole


def read(paths: Sequence[Path], choices: Choices, advance: Advance) -> Imported:
    """Return the trace in files of instance events; TraceError with file and line if broken."""
    no_drop(paths[0], choices)
    tally = Tally()
    events = _Events()
    for path in paths:
        for block in _blocks(path, advance):
            try:
                events.add(block, tally)
            except TraceError as err:
                raise located(err, str(path)) from None
    if not events.kept:
        raise TraceError("no events of pods", file=str(paths[0]), allowed="instance events")
    return _imported(events.sorted(), origin_of(paths), choices, tally)


def _blocks(path: Path, advance: Advance) -> Iterator[Block]:
    """Give the events of one file, some thousands at a time."""
    with open_bytes(path, advance) as chunks:
        head = next(chunks, b"")
        whole = _with(head, chunks)
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            yield from _json_blocks(whole, str(path))
        else:
            yield from _csv_blocks(whole, str(path))


def _with(head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from chunks


def _csv_blocks(chunks: Iterator[bytes], file: str) -> Iterator[Block]:
    header, rest, lines = b"", b"", 0
    for chunk in _joined(chunks):
        data = rest + chunk
        cut = len(data) if chunk == b"" else data.rfind(b"\n") + 1
        body, rest = data[:cut], data[cut:]
        if len(rest) > _BLOCK_BYTES:
            raise TraceError("a line without an end", file=file, line=lines + 1, allowed="CSV")
        if not header and body:
            header, _, body = body.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
            lines = 1
        if body.strip():
            yield _csv_block(header + b"\n" + body, file, lines)
            lines += body.count(b"\n")


def _joined(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Give larger chunks, and an empty one at the end."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size >= _BLOCK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)
    yield b""


def _csv_block(data: bytes, file: str, lines: int) -> Block:
    """Return the columns of some lines under the header; `lines` came before them."""
    try:
        check_text(data, file)
    except TraceError as err:
        line = None if err.line is None else err.line + lines - 1
        raise TraceError(err.reason, file=file, line=line, allowed=err.allowed) from None
    # The header is line 1 of the block and of the file; every other line is `lines` - 1 later.
    arrays = read_columns(CsvText(file, data, 0, lines - 1), COLUMNS)
    return {name: arrays[name].fill_null(0).to_numpy(zero_copy_only=False) for name in _NEEDED}


def _json_blocks(chunks: Iterator[bytes], file: str) -> Iterator[Block]:
    rows: list[tuple[int, ...]] = []
    for line, one in records(JsonText(chunks, file), Layout(lists=())):
        try:
            rows.append(tuple(_whole(one, name) for name in _NEEDED))
        except TraceError as err:
            raise located(err, file, line) from None
        if len(rows) >= _BLOCK_BYTES >> 7:
            yield _json_block(rows)
            rows = []
    if rows:
        yield _json_block(rows)


def _json_block(rows: list[tuple[int, ...]]) -> Block:
    return dict(zip(_NEEDED, np.array(rows, np.int64).T, strict=True))


def _whole(one: Json, name: str) -> int:
    """Return a whole number, which BigQuery writes as a text; blank is 0 where it may be."""
    value = fields.field(one, name)
    if value is None and name in {"machine_id", "alloc_collection_id"}:
        return 0
    if isinstance(value, str) and len(value) <= len(str(_AFTER)) + 1:
        try:
            value = int(value)
        except ValueError:
            value = None
    least = -_AFTER if name in {"machine_id", "alloc_collection_id"} else 0
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _AFTER:
        allowed = f"a whole number, {least} or more"
        fields.refuse((name,), fields.field(one, name), "not a whole number", allowed)
    return value


@dataclass(frozen=True, slots=True)
class _Pods:
    """Pods as columns, in microseconds; an end of _AFTER is none."""

    came: Column64
    went: Column64
    row: Column64
    """The event that names instance and machine."""

    def __len__(self) -> int:
        return len(self.came)

    def at(self, which: NDArray[np.bool_]) -> _Pods:
        """Return some of the pods."""
        return _Pods(self.came[which], self.went[which], self.row[which])


def _together(parts: Sequence[_Pods]) -> _Pods:
    """Return the pods of all parts."""
    return _Pods(
        np.concatenate([one.came for one in parts]),
        np.concatenate([one.went for one in parts]),
        np.concatenate([one.row for one in parts]),
    )


def _pieces(events: Block) -> Iterator[tuple[int, Column, Column, Column64]]:
    """Give where a piece begins, its times and types, and each event's instance from 0."""
    count = len(events["time"])
    opens = np.ones(count, bool)
    for name in ("collection_id", "instance_index"):
        differs = events[name][1:] != events[name][:-1]
        opens[1:] = differs if name == "collection_id" else opens[1:] | differs
    bounds = np.flatnonzero(opens)
    at = 0
    while at < count:
        # An instance is never parted; one of very many events makes a larger piece.
        after = np.searchsorted(bounds, min(at + _PIECE, count))
        until = int(bounds[after]) if after < len(bounds) else count
        piece = slice(at, until)
        yield at, events["time"][piece], events["type"][piece], np.cumsum(opens[piece]) - 1
        at = until


def _paired(events: Block, start: int, tally: Tally) -> _Pods:
    """Pair starts with ends, instance by instance."""
    made = []
    for first, time, kind, instance in _pieces(events):
        pods = _paired_piece(time, kind, instance, start, tally)
        # What was over before the record begins is no part of it.
        pods = pods.at((pods.went > start) | (pods.came >= start))
        made.append(_Pods(pods.came, pods.went, pods.row + first))
    return _together(made)


def _paired_piece(
    time: Column64, kind: Column, instance: Column64, start: int, tally: Tally
) -> _Pods:
    """Pair starts with ends among the events of some instances."""
    submits, starts = np.flatnonzero(kind == SUBMIT), kind == SCHEDULE
    submitted = np.full(int(instance[-1]) + 1, -1)
    # The last assignment to an index stays: backwards, it is the first event.
    submitted[instance[submits][::-1]] = submits[::-1]
    scheduled = np.zeros(len(submitted), bool)
    scheduled[instance[starts]] = True

    rows = np.flatnonzero(kind != SUBMIT)
    rows = _zero_lives_in_order(rows, instance, starts, time)
    follows = np.zeros(len(rows), bool)
    follows[1:] = instance[rows][1:] == instance[rows][:-1]
    followed = np.append(follows[1:], [False]) if len(rows) else follows
    after = np.append(rows[1:], [0])[: len(rows)]
    is_start = starts[rows]
    again = is_start & followed & starts[after]
    tally.add(Fate.GUESSED, "pods scheduled again without an end: they end then", _n(again))
    ran = _Pods(time[rows], np.where(followed, time[after], _AFTER), rows).at(is_start)

    first_end = ~is_start & ~follows
    there = first_end & (submitted[instance[rows]] < 0) & (time[rows] > start)
    tally.add(Fate.KEPT, "pods there before the record begins: they arrive at its start", _n(there))
    old = _Pods(np.full(len(rows), start), time[rows], rows).at(there)

    never = np.flatnonzero((submitted >= 0) & ~scheduled)
    ended = np.full(len(submitted), _AFTER)
    ended[instance[rows[first_end]]] = time[rows[first_end]]
    tally.add(Fate.GUESSED, "pods never scheduled: arrival is the submission", len(never))
    waited = _Pods(time[submitted[never]], ended[never], submitted[never])
    return _together([ran, old, waited])


def _zero_lives_in_order(
    rows: Column64, instance: Column64, starts: NDArray[np.bool_], time: Column64
) -> Column64:
    """Put a start before an end of the same instant where nothing else can have ended."""
    if len(rows) < 2:  # noqa: PLR2004 - a pair
        return rows
    one, other = rows[:-1], rows[1:]
    tie = (instance[one] == instance[other]) & (time[one] == time[other])
    tie &= ~starts[one] & starts[other]
    ran = np.zeros(len(one), bool)
    ran[1:] = starts[one[:-1]] & (instance[one[:-1]] == instance[one[1:]])
    at = np.flatnonzero(tie & ~ran)
    rows = rows.copy()
    rows[at], rows[at + 1] = rows[at + 1], rows[at]
    return rows


def _imported(events: Block, origin: str, choices: Choices, tally: Tally) -> Imported:
    """Return the trace of sorted events."""
    time = events["time"]
    start = int(time[time > 0].min()) if bool((time > 0).any()) else 0
    end = int(time.max())
    pods = _paired(events, start, tally)
    if not len(pods):
        raise TraceError("no events of pods", file=origin, allowed="instance events")
    before = pods.came < start
    tally.add(
        Fate.KEPT, "pods there before the record begins: they arrive at its start", _n(before)
    )
    came = np.maximum(pods.came, start)
    outlives = pods.went == _AFTER
    life_s = np.where(outlives, np.inf, (pods.went - came) / _MICRO)
    zero = life_s <= 0
    tally.add(Fate.GUESSED, "pods that ended in the instant they came: life set to 1 s", _n(zero))
    tally.add(Fate.KEPT, "pods in the trace", len(pods))
    tally.add(Fate.KEPT, "pods that outlive the record", _n(outlives))
    order = np.lexsort((pods.row, came))
    row = pods.row[order]
    machines, node = np.unique(events["machine_id"][row], return_inverse=True)
    # 0 is no machine, -1 a dedicated one that is not told.
    unknown = int((machines <= 0).sum())
    node = np.where(choices.nodes, np.maximum(node - unknown, -1), -1)
    counts = tally.counts()
    trace = trace_of(
        names=_names(events, row),
        arrival_s=(came[order] - start) / _MICRO,
        life_s=np.where(zero, LIFE_MIN_S, life_s)[order],
        node=node.astype(np.int32),
        node_names=[f"machine-{one}" for one in machines[unknown:]] if choices.nodes else (),
        end_s=(end - start) / _MICRO,
        origin=origin,
        notes=notes_of(counts),
    )
    return Imported(trace, counts)


def _names(events: Block, row: Column64) -> list[str]:
    """Name pods by instance, and by number where an instance ran again."""
    collection, index = events["collection_id"], events["instance_index"]
    by_row = np.argsort(row, kind="stable")
    ordered = row[by_row]
    opens = np.ones(len(row), bool)
    same = collection[ordered][1:] == collection[ordered][:-1]
    opens[1:] = ~(same & (index[ordered][1:] == index[ordered][:-1]))
    position = np.arange(len(row))
    nth = np.empty(len(row), np.int64)
    nth[by_row] = position - np.maximum.accumulate(np.where(opens, position, 0)) + 1
    names: list[str] = []
    for at in range(0, len(row), _PIECE):
        piece = slice(at, at + _PIECE)
        values = (collection[row[piece]], index[row[piece]], nth[piece])
        for one, number, again in zip(*(value.tolist() for value in values), strict=True):
            names.append(f"{one}-{number}" if again == 1 else f"{one}-{number}~{again}")
    return names


def _n(which: NDArray[np.bool_]) -> int:
    return int(which.sum())


GOOGLE2019 = Importer("google2019", "Google's ClusterData 2019 (Borg)", HOW_TO, read)
