"""Our own format, as CSV and as Parquet: a row for each pod.

The columns are `pod, arrival_s, life_s, cpu_m, memory_mib, node`; the first two are required. A
blank life outlives the trace, a blank node is left to the scheduler. What the rows cannot say
stands apart: in CSV in comment lines before the header, all optional on reading,

    # warmbench-trace 1 end_s=14400.0
    # origin "steady(rate_per_s=0.5, …)"
    # note "thinned to 0.5, seed 0"
    # nodes ["node-a", "node-b"]

and in Parquet in the schema's metadata. Equal traces give equal bytes: floats are written as
Python's `repr`, which reads back exactly, and nothing tells the time of writing.
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.sources.pods import Trace, TraceError, near, trace_of
from sim.sources.strict_csv import (
    BLANK,
    NUMBERS,
    TEXTS,
    Column,
    CsvText,
    Kind,
    is_clean,
    read_columns,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = (
    Column("pod", Kind.NAME),
    Column("arrival_s", Kind.INSTANT),
    Column("life_s", Kind.LIFE, required=False),
    Column("cpu_m", Kind.WHOLE, required=False),
    Column("memory_mib", Kind.WHOLE, required=False),
    Column("node", Kind.TEXT, required=False),
)
PARQUET_MAGIC = b"PAR1"
_VERSION = 1
_MAGIC = "# warmbench-trace"
_METADATA_KEY = b"warmbench-trace"


@dataclass(slots=True)
class _Preamble:
    """What a trace says beside its rows."""

    end_s: float | None = None
    origin: str | None = None
    notes: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)


def skip_preamble(data: bytes, file: str) -> CsvText:
    """Return the table inside a file, past a byte order mark and leading comment lines."""
    start, lines = (3 if data.startswith(b"\xef\xbb\xbf") else 0), 0
    while data.startswith(b"#", start):
        lines += 1
        start = data.find(b"\n", start) + 1 or len(data)
    return CsvText(file, data, start, lines)


def read_csv(text: CsvText, name: str) -> Trace:
    """Return the trace in a CSV text; TraceError with file, line and field if it is broken."""
    preamble = _read_preamble(text)
    arrays = read_columns(text, COLUMNS)
    return _trace_of(arrays, preamble, text.file, name)


def _read_preamble(text: CsvText) -> _Preamble:
    """Read the comment lines; only a file that opens with our mark is held to them."""
    preamble = _Preamble()
    lines = text.data[: text.start].decode("utf-8-sig").splitlines()
    if not lines or not lines[0].startswith(_MAGIC):
        return preamble
    for number, line in enumerate(lines, 1):
        try:
            _read_comment(line, preamble, is_first=number == 1)
        except TraceError as err:
            raise TraceError(
                err.reason,
                file=text.file,
                line=number,
                field=err.field,
                value=err.value,
                allowed=err.allowed,
            ) from None
    return preamble


def _read_comment(line: str, preamble: _Preamble, *, is_first: bool) -> None:
    if is_first:
        version, _, rest = line.removeprefix(_MAGIC).strip().partition(" ")
        _check_version(version)
        for setting in rest.split():
            key, _, value = setting.partition("=")
            if key != "end_s":
                reason = "unknown setting" + near(key, ["end_s"])
                raise TraceError(reason, field=key, allowed="end_s=SECONDS")
            preamble.end_s = _end_of(value)
        return
    key, _, value = line.removeprefix("# ").partition(" ")
    if key == "origin":
        preamble.origin = _json_text(key, value)
    elif key == "note":
        preamble.notes.append(_json_text(key, value))
    elif key == "nodes":
        preamble.nodes = _json_names(value)


def _check_version(version: str) -> None:
    if version != str(_VERSION):
        reason = "another version of the format"
        raise TraceError(reason, field="version", value=version, allowed=str(_VERSION))


def _end_of(value: str) -> float:
    try:
        end_s = float(value)
    except ValueError:
        end_s = math.nan
    if not (math.isfinite(end_s) and end_s >= 0):
        raise TraceError("not an instant", field="end_s", value=value, allowed=Kind.INSTANT.value)
    return end_s


def _json_text(key: str, value: str) -> str:
    found = _json(key, value)
    if not isinstance(found, str):
        raise TraceError("not a text", field=key, value=value, allowed="a JSON string")
    return found


def _json_names(value: str) -> list[str]:
    found = _json("nodes", value)
    if not (isinstance(found, list) and all(isinstance(name, str) for name in found)):
        raise TraceError("not names", field="nodes", value=value, allowed="a JSON list of strings")
    return found


def _json(key: str, value: str) -> object:
    try:
        found: object = json.loads(value)
    except (ValueError, RecursionError):
        raise TraceError("not JSON", field=key, value=value, allowed="one JSON value") from None
    return found


def read_parquet(data: bytes, file: str, name: str) -> Trace:
    """Return the trace in a Parquet file; TraceError with row and field if it is broken."""
    import pyarrow as pa
    from pyarrow import parquet

    if not data.startswith(PARQUET_MAGIC):
        raise TraceError("not a Parquet file", file=file, allowed="Parquet, or a name in .csv")
    try:
        table = parquet.read_table(pa.BufferReader(data), memory_map=False)
    except (pa.ArrowException, OSError, ValueError) as err:
        reason = "damaged or truncated Parquet: " + (str(err) or "unreadable").split("\n", 1)[0]
        raise TraceError(reason, file=file) from None
    _check_schema(table.schema, file)
    if table.num_rows == 0:
        raise TraceError("no pods", file=file, allowed="a row for each pod")
    arrays = {}
    for column in COLUMNS:
        if column.name in table.column_names:
            arrays[column.name] = _converted(table.column(column.name), column, file)
    try:
        preamble = _from_metadata((table.schema.metadata or {}).get(_METADATA_KEY))
    except TraceError as err:
        raise TraceError(
            err.reason, file=file, field=err.field, value=err.value, allowed=err.allowed
        ) from None
    return _trace_of(arrays, preamble, file, name)


def _check_schema(schema: Any, file: str) -> None:  # noqa: ANN401 - pyarrow has no types.
    """Refuse unknown, doubled and missing columns and types that do not fit."""
    import pyarrow.types as kinds

    from sim.sources.strict_csv import check_header

    names = [name for name in schema.names if not name.startswith("__index_level_")]
    try:
        check_header(names, COLUMNS, file, 1)
    except TraceError as err:
        raise TraceError(err.reason, file=file, field=err.field, allowed=err.allowed) from None
    for column in COLUMNS:
        if column.name not in names:
            continue
        found = schema.field(column.name).type
        found = found.value_type if kinds.is_dictionary(found) else found
        is_text = kinds.is_string(found) or kinds.is_large_string(found)
        is_number = kinds.is_integer(found) or kinds.is_floating(found)
        if column.kind in TEXTS:
            fits, allowed = is_text, "string"
        elif column.kind in NUMBERS:
            fits, allowed = is_number, "float or integer"
        else:
            fits, allowed = kinds.is_integer(found), "integer"
        if not (fits or (kinds.is_null(found) and column.kind in BLANK)):
            reason = "wrong type"
            raise TraceError(
                reason, file=file, field=column.name, value=str(found), allowed=allowed
            )


def _converted(column: Any, wanted: Column, file: str) -> Any:  # noqa: ANN401 - as above.
    """Return a column as float64, int64 or string; refuse the first value that does not fit."""
    import pyarrow as pa

    kind = wanted.kind
    to = pa.float64() if kind in NUMBERS else pa.string() if kind in TEXTS else pa.int64()
    try:
        array = column.cast(to).combine_chunks()
    except (pa.ArrowException, ValueError) as err:
        reason = str(err).split("\n", 1)[0]
        raise TraceError(reason, file=file, field=wanted.name, allowed=kind.value) from None
    if is_clean(array, kind):
        return array
    seen: dict[object, int] = {}
    for row, value in enumerate(array.to_pylist(), 1):
        reason = _value_fault(value, kind)
        if not reason and kind is Kind.NAME and seen.setdefault(value, row) != row:
            reason = f"given twice, first in row {seen[value]}"
        if reason:
            shown = "null" if value is None else str(value)
            raise TraceError(
                reason, file=file, row=row, field=wanted.name, value=shown, allowed=kind.value
            )
    raise TraceError("a value that is not allowed", file=file, field=wanted.name)


def _value_fault(value: object, kind: Kind) -> str:
    """Return what is wrong with one value of a Parquet column, by the rules of the CSV."""
    from sim.sources.strict_csv import fault_of

    return fault_of("" if value is None else str(value), kind)


def _trace_of(arrays: dict[str, Any], preamble: _Preamble, file: str, name: str) -> Trace:
    """Build the trace of clean columns, and refuse an end before the last arrival."""
    arrival_s = arrays["arrival_s"].to_numpy(zero_copy_only=False)
    count = len(arrival_s)
    life_s = np.full(count, math.inf)
    if "life_s" in arrays:
        life_s = arrays["life_s"].fill_null(math.inf).to_numpy(zero_copy_only=False)
    node, node_names = _nodes_of(arrays.get("node"), count, preamble.nodes)
    last = float(arrival_s.max())
    if preamble.end_s is not None and preamble.end_s < last:
        reason, value = "the trace ends before its last pod arrives", repr(preamble.end_s)
        allowed = f"seconds, from {last!r}"
        raise TraceError(reason, file=file, field="end_s", value=value, allowed=allowed)
    is_default = _is_default(arrays["pod"]) and bool((np.diff(arrival_s) >= 0).all())
    return trace_of(
        names=None if is_default else arrays["pod"].to_pylist(),
        arrival_s=arrival_s,
        life_s=life_s,
        cpu_m=_whole(arrays.get("cpu_m")),
        memory_mib=_whole(arrays.get("memory_mib")),
        node=node,
        node_names=node_names,
        end_s=preamble.end_s,
        origin=name if preamble.origin is None else preamble.origin,
        notes=preamble.notes,
    )


def _is_default(pods: Any) -> bool:  # noqa: ANN401 - pyarrow has no types.
    """Say whether pods are called pod-0, pod-1, … in the order of rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pods[0].as_py() != "pod-0":
        return False
    numbers = pa.array(np.arange(len(pods))).cast(pa.string())
    names = pc.binary_join_element_wise("pod", numbers, "-")
    return bool(pc.all(pc.equal(pods, names)).as_py())


def _whole(array: Any) -> NDArray[np.int64] | None:  # noqa: ANN401 - as above.
    """Return a column of whole numbers, or None where the file has none."""
    if array is None:
        return None
    values: NDArray[np.int64] = array.to_numpy(zero_copy_only=False)
    return values


def _nodes_of(
    array: Any,  # noqa: ANN401 - pyarrow has no types.
    count: int,
    stated: list[str],
) -> tuple[NDArray[np.int32], list[str]]:
    """Return each pod's node and the names: those stated first, then as they first appear."""
    if array is None:
        return np.full(count, -1, np.int32), stated
    import pyarrow as pa

    encoded = array.cast(pa.string()).fill_null("").dictionary_encode()
    index_of = {name: index for index, name in enumerate(stated)}
    found: list[str] = encoded.dictionary.to_pylist()
    to_index = [-1 if not name else index_of.setdefault(name, len(index_of)) for name in found]
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return np.array(to_index, np.int32)[codes], list(index_of)


def csv_bytes(trace: Trace) -> bytes:
    """Return the trace as CSV."""
    head = [f"{_MAGIC} {_VERSION} end_s={trace.end_s!r}", f"# origin {json.dumps(trace.origin)}"]
    head += [f"# note {json.dumps(note)}" for note in trace.notes]
    if trace.node_names:
        head.append(f"# nodes {json.dumps(trace.node_names)}")
    head.append(",".join(column.name for column in COLUMNS))
    nodes = [*_quoted(trace.node_names), ""]
    rows = zip(
        _quoted(trace.names) if trace.names else (f"pod-{i}" for i in range(len(trace))),
        map(repr, trace.arrival_s.tolist()),
        ("" if life == math.inf else repr(life) for life in trace.life_s.tolist()),
        map(str, trace.cpu_m.tolist()),
        map(str, trace.memory_mib.tolist()),
        (nodes[index] for index in trace.node.tolist()),
        strict=True,
    )
    return "\n".join([*head, *map(",".join, rows), ""]).encode()


def _quoted(names: tuple[str, ...]) -> tuple[str, ...]:
    """Quote what CSV demands; most names need nothing."""
    text = "".join(names)
    if not ("," in text or '"' in text):
        return names

    def quote(name: str) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow([name])
        return line.getvalue()

    return tuple(map(quote, names))


def parquet_bytes(trace: Trace) -> bytes:
    """Return the trace as Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    names = trace.names or [f"pod-{i}" for i in range(len(trace))]
    lives = trace.life_s
    nodes = pa.DictionaryArray.from_arrays(
        pa.array(trace.node, mask=trace.node < 0), pa.array(trace.node_names, pa.string())
    )
    columns = {
        "pod": pa.array(names, pa.string()),
        "arrival_s": pa.array(trace.arrival_s),
        "life_s": pa.array(lives, mask=np.isinf(lives)),
        "cpu_m": pa.array(trace.cpu_m),
        "memory_mib": pa.array(trace.memory_mib),
        "node": nodes.cast(pa.string()),
    }
    said = {
        "version": _VERSION,
        "end_s": trace.end_s,
        "origin": trace.origin,
        "notes": trace.notes,
        "nodes": trace.node_names,
    }
    table = pa.table(columns).replace_schema_metadata({_METADATA_KEY: json.dumps(said).encode()})
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd", use_dictionary=["node"])
    return sink.getvalue()


def _from_metadata(said: bytes | None) -> _Preamble:
    """Read what the schema's metadata says; none is fine, another shape is not."""
    if said is None:
        return _Preamble()
    found = _json("metadata", said.decode("utf-8", "replace"))
    if not isinstance(found, dict):
        raise TraceError("not an object", field="metadata", allowed="a JSON object")
    _check_version(str(found.get("version")))
    names = {key: found.get(key, []) for key in ("notes", "nodes")}
    for key, values in names.items():
        if not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
            raise TraceError("not texts", field=key, allowed="a list of strings")
    origin = found.get("origin")
    if not (origin is None or isinstance(origin, str)):
        raise TraceError("not a text", field="origin", allowed="a string")
    end_s = _end_of(str(found["end_s"])) if "end_s" in found else None
    return _Preamble(end_s=end_s, origin=origin, **names)
