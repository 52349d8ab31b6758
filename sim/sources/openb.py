"""Alibaba's openb pod list (cluster-trace-gpu-v2023): a row for each pod, times in seconds.

Times are taken as they are and the status column is not believed: at the end of the trace it
says "Running" of pods that are long gone.

- A pod arrives when it was scheduled, since that is when a kubelet asks for its sandbox, and
  lives until its deletion. A blank deletion outlives the trace.
- A pod that was never scheduled (897 of 8,152 in the default list, for want of GPUs) arrives
  when it was created: GPUs are ignored here, so our scheduler may well find it a place, and it
  then holds its address as long as it was there to hold one.
- A pod deleted in the second in which it came lives 1 s, the smallest step of the trace.

Each of these is counted in the trace's notes, and so are the requests for GPUs. A deletion in
the very last second is as likely the end of the recording as of the pod; it is kept and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.sources.importing import Advance, Importer, only_one
from sim.sources.lives import Choices, Count, Fate, Imported, Tally
from sim.sources.pods import Trace, trace_of
from sim.sources.strict_csv import Column, CsvText, Kind, check_text, read_bytes, read_columns
from sim.sources.table import skip_preamble

COLUMNS = (
    Column("name", Kind.NAME),
    Column("cpu_milli", Kind.WHOLE),
    Column("memory_mib", Kind.WHOLE),
    Column("num_gpu", Kind.WHOLE, required=False),
    Column("gpu_milli", Kind.IGNORED, required=False),
    Column("gpu_spec", Kind.IGNORED, required=False),
    Column("qos", Kind.IGNORED, required=False),
    Column("pod_phase", Kind.IGNORED, required=False),
    Column("creation_time", Kind.INSTANT),
    Column("deletion_time", Kind.INSTANT_OR_BLANK),
    Column("scheduled_time", Kind.INSTANT_OR_BLANK),
)
LIFE_MIN_S = 1.0
"""The trace counts whole seconds, so a life of 0 s was some part of one."""

IGNORED = "which is ignored"
"""How a note ends that tells what of the file counts for nothing."""


def read(text: CsvText, name: str) -> Trace:
    """Return the trace in an openb pod list.

    Raises TraceError with line and field if the file is broken, or if a pod was scheduled
    before its creation or deleted before either.
    """
    arrays = read_columns(text, COLUMNS)
    created = arrays["creation_time"].to_numpy(zero_copy_only=False)
    scheduled = _seconds(arrays["scheduled_time"])
    deleted = _seconds(arrays["deletion_time"])
    never = np.isnan(scheduled)
    arrival_s = np.where(never, created, scheduled)
    check_order(text, "scheduled_time", arrival_s, created, "creation_time")
    check_order(text, "deletion_time", deleted, arrival_s, "scheduled_time and creation_time")
    life_s = np.where(np.isnan(deleted), np.inf, deleted - arrival_s)
    zero = life_s == 0
    last = np.nanmax(deleted) if not bool(np.isnan(deleted).all()) else np.nan
    gpus = arrays["num_gpu"].to_numpy(zero_copy_only=False) if "num_gpu" in arrays else np.zeros(1)
    counted: dict[str, NDArray[np.bool_]] = {
        "never scheduled: arrival is the creation": never,
        "deleted in the second in which they came: life set to 1 s": zero,
        "without deletion: outliving the trace": np.isnan(deleted),
        "deleted in the trace's last second, where the recording may have ended": deleted == last,
        f"with a request for GPUs, {IGNORED}": gpus > 0,
    }
    return trace_of(
        names=arrays["name"].to_pylist(),
        arrival_s=arrival_s,
        life_s=np.where(zero, LIFE_MIN_S, life_s),
        cpu_m=arrays["cpu_milli"].to_numpy(zero_copy_only=False),
        memory_mib=arrays["memory_mib"].to_numpy(zero_copy_only=False),
        origin=name,
        notes=[_counted(which, what) for what, which in counted.items() if bool(which.any())],
    )


def _counted(which: NDArray[np.bool_], what: str) -> str:
    """Return a note on the pods something is true of."""
    count = int(which.sum())
    return f"{count:,} {'pod' if count == 1 else 'pods'} {what}"


def _seconds(array: Any) -> NDArray[np.float64]:  # noqa: ANN401 - pyarrow has no types.
    """Return instants, nan where the trace is blank."""
    seconds: NDArray[np.float64] = array.to_numpy(zero_copy_only=False)
    return seconds


def check_order(
    text: CsvText,
    field: str,
    later: NDArray[np.float64],
    earlier: NDArray[np.float64],
    than: str,
) -> None:
    """Refuse the first pod whose instants run backwards; nan, a blank, is never wrong."""
    wrong = later < earlier
    if bool(wrong.any()):
        row = int(np.argmax(wrong))
        value, allowed = f"{later[row]:g}", f"from {earlier[row]:.0f}, or blank"
        raise text.refuse(row, field, value, f"earlier than {than}", allowed)


HOW_TO = """\
The file openb_pod_list_default.csv is in the folder cluster-trace-gpu-v2023 of the repository
alibaba/clusterdata on GitHub, free for research and study. It may not be passed on with warmbench.

  warmbench trace import openb openb_pod_list_default.csv --out openb.parquet

It names no nodes; GPUs are ignored. At most 56 pods are alive at once: --replicate 50 --compress
200 makes it a load. Every command reads the file as it is, too, without an import."""


def import_files(paths: Sequence[Path], choices: Choices, advance: Advance) -> Imported:
    """Return the trace in an openb file, with its notes as counts."""
    path = only_one(paths, choices)
    data = read_bytes(path)
    advance(len(data))
    check_text(data, str(path))
    trace = read(skip_preamble(data, str(path)), path.name)
    tally = Tally()
    tally.add(Fate.KEPT, "pods in the trace", len(trace))
    guessed = [Count(Fate.GUESSED, *_parted(note)) for note in trace.notes]
    return Imported(trace, (*tally.counts(), *guessed))


def _parted(note: str) -> tuple[int, str]:
    """Return the number in a note, and the rest.

    >>> _parted("1,234 pods never scheduled")
    (1234, 'pods never scheduled')
    """
    number, _, what = note.partition(" ")
    return int(number.replace(",", "")), what


OPENB = Importer(
    "openb", "Alibaba's openb pod list (cluster-trace-gpu-v2023)", HOW_TO, import_files
)
