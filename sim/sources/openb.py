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

from typing import TYPE_CHECKING, Any

import numpy as np

from sim.sources.pods import Trace, trace_of
from sim.sources.strict_csv import Column, CsvText, Kind, read_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    _check_order(text, "scheduled_time", arrival_s, created, "creation_time")
    _check_order(text, "deletion_time", deleted, arrival_s, "scheduled_time and creation_time")
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


def _check_order(
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
