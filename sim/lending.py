"""A trace that several processes look at: its columns stand in one file, which each maps.

A million pods are 35 MB of columns. Sent to every worker they would be there once for each core;
mapped they are there once, in the system's page cache, and nobody can write to them.
"""

import mmap
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sim.sources.pods import Trace

ALIGNED = 64
"""Columns begin at multiples of a cache line."""


@dataclass(frozen=True, slots=True)
class LentTrace:
    """Where a trace's columns stand: each from a byte to another; `rest` is all but columns."""

    path: str
    spans: tuple[tuple[int, int], ...]
    rest: bytes


def lend(trace: Trace, path: Path) -> LentTrace:
    """Write a trace's columns to a file, which must stay as long as somebody may borrow it.

    Raises OSError where the file cannot be written.
    """
    columns: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(trace, protocol=5, buffer_callback=columns.append)
    spans = []
    with path.open("wb") as file:
        file.write(bytes(ALIGNED))  # An empty file cannot be mapped, and a trace may be empty.
        for column in columns:
            file.write(bytes(-file.tell() % ALIGNED))
            start = file.tell()
            file.write(column.raw())
            spans.append((start, file.tell()))
    return LentTrace(str(path), tuple(spans), rest)


def borrow(lent: LentTrace) -> Trace:
    """Return the trace, with columns that are read from the file as they are looked at.

    The file may go afterwards: what is mapped stays.
    """
    with Path(lent.path).open("rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    columns = [whole[start:end] for start, end in lent.spans]
    # Our own process has written it a moment ago.
    return cast("Trace", pickle.loads(lent.rest, buffers=columns))  # noqa: S301
