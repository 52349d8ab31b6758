"""Alibaba's DLRM trace (cluster-trace-gpu-v2025): instances of recommendation services, 31 days.

Times are seconds from the trace's start; a blank one lies before the start or after the end.

- An instance arrives when it was scheduled and lives until its deletion; a blank deletion
  outlives the trace.
- One without creation and scheduling was there before: it arrives at the start.
- One that was created but never scheduled arrives when it was created, as in openb.
- Requests are cores and GiB. GPUs, RDMA, disks and the limit of instances per node are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.sources.importing import Advance, Importer, only_one
from sim.sources.lives import LIFE_MIN_S, Choices, Fate, Imported, Tally, notes_of
from sim.sources.openb import check_order
from sim.sources.pods import TraceError, trace_of
from sim.sources.strict_csv import Column, Kind, check_text, read_bytes, read_columns
from sim.sources.table import skip_preamble

_IGNORED = (
    *("role", "app_name", "cpu_limit", "gpu_request", "gpu_limit", "rdma_request", "rdma_limit"),
    *("memory_limit", "disk_request", "disk_limit", "max_instance_per_node"),
)
COLUMNS = (
    Column("instance_sn", Kind.NAME),
    Column("cpu_request", Kind.NUMBER),
    Column("memory_request", Kind.NUMBER),
    *(Column(name, Kind.IGNORED, required=False) for name in _IGNORED),
    Column("creation_time", Kind.INSTANT_OR_BLANK),
    Column("scheduled_time", Kind.INSTANT_OR_BLANK),
    Column("deletion_time", Kind.INSTANT_OR_BLANK),
)
_MILLI = 1000
_MIB_IN_GIB = 1024
_REQUEST_MAX = 1e12

HOW_TO = """\
The file disaggregated_DLRM_trace.csv is in the folder cluster-trace-gpu-v2025 of the repository
alibaba/clusterdata on GitHub, free for research and study. It may not be passed on with warmbench.

  warmbench trace import dlrm disaggregated_DLRM_trace.csv --out dlrm.parquet

It names no nodes. GPUs, RDMA, disks and the limit of instances per node are ignored."""


def read(paths: Sequence[Path], choices: Choices, advance: Advance) -> Imported:
    """Return the trace in a DLRM file; TraceError with file, line and field if it is broken."""
    path = only_one(paths, choices)
    data = read_bytes(path)
    advance(len(data))
    check_text(data, str(path))
    text = skip_preamble(data, str(path))
    arrays = read_columns(text, COLUMNS)
    created, scheduled = _column(arrays, "creation_time"), _column(arrays, "scheduled_time")
    deleted = _column(arrays, "deletion_time")
    never = np.isnan(scheduled) & ~np.isnan(created)
    before = np.isnan(scheduled) & np.isnan(created)
    arrival_s = np.where(never, created, np.where(before, 0.0, scheduled))
    check_order(text, "scheduled_time", scheduled, created, "creation_time")
    check_order(text, "deletion_time", deleted, arrival_s, "scheduled_time and creation_time")
    outlives = np.isnan(deleted)
    life_s = np.where(outlives, np.inf, deleted - arrival_s)
    zero = life_s == 0
    tally = Tally()
    tally.add(Fate.KEPT, "pods in the trace", len(arrival_s))
    tally.add(
        Fate.KEPT, "pods there before the record begins: they arrive at its start", _n(before)
    )
    tally.add(Fate.KEPT, "pods that outlive the record", _n(outlives))
    tally.add(Fate.GUESSED, "pods never scheduled: arrival is the creation", _n(never))
    tally.add(Fate.GUESSED, "pods that ended in the second they came: life set to 1 s", _n(zero))
    counts = tally.counts()
    for field in ("cpu_request", "memory_request"):
        if float(_column(arrays, field).max()) > _REQUEST_MAX:
            raise TraceError("out of range", file=str(path), field=field)
    trace = trace_of(
        names=arrays["instance_sn"].to_pylist(),
        arrival_s=arrival_s,
        life_s=np.where(zero, LIFE_MIN_S, life_s),
        cpu_m=np.ceil(_column(arrays, "cpu_request") * _MILLI).astype(np.int64),
        memory_mib=np.ceil(_column(arrays, "memory_request") * _MIB_IN_GIB).astype(np.int64),
        origin=path.name,
        notes=notes_of(counts),
    )
    return Imported(trace, counts)


def _column(arrays: dict[str, Any], name: str) -> NDArray[np.float64]:
    """Return a column of numbers, nan where it is blank."""
    column: NDArray[np.float64] = arrays[name].to_numpy(zero_copy_only=False)
    return column


def _n(which: NDArray[np.bool_]) -> int:
    return int(which.sum())


DLRM = Importer("dlrm", "Alibaba's DLRM trace (cluster-trace-gpu-v2025)", HOW_TO, read)
