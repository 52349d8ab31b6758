"""A record on disk: one Parquet file for each table, and what names its codes in header.json.

The Parquet files show causes, APIs, errors and resources as words, so that any tool can read
them; `node` and `subnet` count the lists of those names in header.json. Equal records give
equal bytes (written by one version of pyarrow), and `load` gives back exactly what was saved.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sim.record import PoolHeader, RunHeader, RunRecord

FORMAT = 2
"""Raised with every change of the files that an older `load` would misread."""

HEADER = "header.json"

_CODED = {
    ("unplaced", "resource"): "resources",
    ("refusals", "cause"): "causes",
    ("calls", "api"): "apis",
    ("calls", "error"): "errors",
    ("moves", "event"): "events",
}
"""Columns that are codes, and the record's list of words they count."""


class StoreError(ValueError):
    """A folder does not hold a record that this version can read."""


def save(record: RunRecord, directory: Path) -> None:
    """Write a record into a directory, which is made where it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    words = {name: list(getattr(record, name)) for name in _CODED.values()}
    content = {"format": FORMAT, "header": asdict(record.header), "words": words}
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
    (directory / HEADER).write_text(text + "\n", encoding="utf-8")
    for name, columns in record.tables():
        arrays = {column: _encoded(record, name, column) for column in columns}
        pq.write_table(pa.table(arrays), directory / f"{name}.parquet", compression="zstd")


def load(directory: Path) -> RunRecord:
    """Read a record back.

    Raises FileNotFoundError where a file is missing, StoreError where the header is of
    another format or a table lacks a column.
    """
    content = json.loads((directory / HEADER).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        message = f"{directory / HEADER} is no record of format {FORMAT}"
        raise StoreError(message)
    words = {name: tuple(listed) for name, listed in content["words"].items()}
    fields: dict[str, Any] = dict(words)
    for name, columns in _COLUMNS.items():
        fields[name] = _table(directory, name, columns, words)
    return RunRecord(header=_header(content["header"]), **fields)


_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "pods": ("arrival_s", "node", "added_at", "served_at", "released_at", "refused"),
    "unplaced": ("pod", "resource"),
    "pool": ("t", "node", "enis", "blocks", "addresses"),
    "cut": ("t", "node", "count", "until"),
    "refusals": ("t", "node", "pod", "cause"),
    "calls": ("started", "ended", "node", "api", "error"),
    "subnets": ("t", "subnet", "free", "free_prefixes"),
    "moves": ("t", "node", "event"),
    "replaced": ("pod", "of"),
}


def _encoded(record: RunRecord, table: str, column: str) -> pa.Array:
    values = getattr(record, table)[column]
    listed = _CODED.get((table, column))
    if listed is None:
        return pa.array(values)
    words = pa.array(list(getattr(record, listed)), type=pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(values, type=pa.int32()), words)


def _table(
    directory: Path, name: str, columns: Sequence[str], words: Mapping[str, tuple[str, ...]]
) -> dict[str, NDArray[Any]]:
    path = directory / f"{name}.parquet"
    table = pq.read_table(path)
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        message = f"{path} has no column {missing[0]}"
        raise StoreError(message)
    found = {}
    for column in columns:
        listed = _CODED.get((name, column))
        array = table[column].combine_chunks()
        values = array.to_numpy() if listed is None else _codes(array, words[listed])
        values.setflags(write=False)
        found[column] = values
    return found


def _codes(array: pa.Array, words: Sequence[str]) -> NDArray[np.int32]:
    """Turn words back into codes; Parquet keeps the words but not the codes they had."""
    code_of = {word: code for code, word in enumerate(words)}
    if pa.types.is_dictionary(array.type):
        new = np.array([code_of[word] for word in array.dictionary.to_pylist()], dtype=np.int32)
        return new[array.indices.to_numpy()] if len(array) else np.empty(0, dtype=np.int32)
    return np.array([code_of[word] for word in array.to_pylist()], dtype=np.int32)


def _header(fields: dict[str, Any]) -> RunHeader:
    tuples = ("nodes", "subnets", "trace_notes", "warnings", "command", "node_pools")
    pools = tuple(PoolHeader(**pool) for pool in fields["pools"])
    return RunHeader(**fields | {name: tuple(fields[name]) for name in tuples} | {"pools": pools})
