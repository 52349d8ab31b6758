"""Alibaba's openb format: times believed, status not; every guess counted in a note."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sim.trace import Trace, TraceError, compress, describe, load, replicate, save

# The real list is not ours to ship; it lies beside the checkout where it is available at all.
REAL = Path(__file__).resolve().parents[2].parent / "shared/traces/openb_pod_list_default.csv"
HEADER = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,"
    "creation_time,deletion_time,scheduled_time"
)


def openb(path: Path, *rows: str) -> Path:
    """Write an openb file; a row is name and the three times, the rest is filled in."""
    lines = [HEADER]
    for row in rows:
        name, created, deleted, scheduled = row.split(",")
        lines.append(f"{name},4000,8192,1,500,,LS,Running,{created},{deleted},{scheduled}")
    file = path / "openb.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_times_are_believed(tmp_path: Path) -> None:
    """A pod arrives when scheduled and lives until deleted, whatever its status says."""
    trace = load(openb(tmp_path, "b,20,90,40", "a,0,100,30"))

    assert trace.names == ("a", "b")
    assert (trace.arrival_s.tolist(), trace.life_s.tolist()) == ([30.0, 40.0], [70.0, 50.0])
    assert (trace.cpu_m.tolist(), trace.memory_mib.tolist()) == ([4000, 4000], [8192, 8192])
    assert (trace.end_s, trace.origin, trace.node.tolist()) == (100.0, "openb.csv", [-1, -1])


def test_guesses_are_counted(tmp_path: Path) -> None:
    """Pods never scheduled, without deletion or without life are kept, and noted with a count."""
    trace = load(openb(tmp_path, "never,5,50,", "stays,6,,7", "zero,9,9,9"))

    assert trace.arrival_s.tolist() == [5.0, 7.0, 9.0]
    assert trace.life_s.tolist() == [45.0, math.inf, 1.0]
    assert trace.notes == (
        "1 pod never scheduled: arrival is the creation",
        "1 pod deleted in the second in which they came: life set to 1 s",
        "1 pod without deletion: outliving the trace",
        "1 pod deleted in the trace's last second, where the recording may have ended",
        "3 pods with a request for GPUs, which is ignored",
    )


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ("b,10,90,9", "scheduled_time", "earlier than creation_time"),
        ("b,10,5,10", "deletion_time", "earlier than scheduled_time and creation_time"),
        ("b,10,5,", "deletion_time", "earlier than scheduled_time and creation_time"),
        ("b,,90,9", "creation_time", "blank"),
        ("b,-1,90,9", "creation_time", "negative"),
        ("b,x,90,9", "creation_time", "not a number"),
        ("b,1,nan,9", "deletion_time", "not a number (nan)"),
        ("a,1,90,9", "name", "given twice, first in line 2"),
    ],
)
def test_broken_pods_are_named(tmp_path: Path, row: str, field: str, reason: str) -> None:
    """A pod whose times run backwards or are no times is refused with its line and field."""
    with pytest.raises(TraceError) as caught:
        load(openb(tmp_path, "a,0,100,30", row))

    assert (caught.value.line, caught.value.field, caught.value.reason) == (3, field, reason)


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    """Without a column that is needed the file is refused; the optional ones may be missing."""
    file = tmp_path / "openb.csv"
    file.write_text("name,cpu_milli,memory_mib,creation_time,scheduled_time\na,1,1,0,0\n")
    with pytest.raises(TraceError, match="line 1, deletion_time: the column is missing"):
        load(file)

    file.write_text("name,cpu_milli,memory_mib,creation_time,deletion_time,scheduled_time\n")
    with pytest.raises(TraceError, match="no pods"):
        load(file)

    with file.open("a") as more:
        more.write("a,1,1,0,5,0\n")
    assert len(load(file)) == 1


def test_the_format_can_be_told(tmp_path: Path) -> None:
    """Our own format named by hand refuses an openb file by its first strange column."""
    with pytest.raises(TraceError, match="name: unknown column"):
        load(openb(tmp_path, "a,0,100,30"), fmt="csv")


@pytest.fixture(scope="module")
def real() -> Trace:
    """Load the real list once."""
    if not REAL.exists():
        pytest.skip(f"the openb pod list is not beside the checkout: {REAL}")
    return load(REAL)


def test_the_real_list_is_what_was_counted(real: Trace) -> None:
    """8,152 pods over 149 days, at most 56 at once, at most 6 in a minute; 897 unscheduled."""
    figures = describe(real)

    assert (figures.pods, figures.peak_pods, figures.arrivals_worst_minute) == (8152, 56, 6)
    assert figures.span_s == 12_902_960.0
    assert figures.outliving_share == 0.0
    assert (figures.cpu_m_max, figures.memory_mib_max) == (120_200, 737_280)
    assert real.notes == (
        "897 pods never scheduled: arrival is the creation",
        "1 pod deleted in the second in which they came: life set to 1 s",
        "34 pods deleted in the trace's last second, where the recording may have ended",
        "7,064 pods with a request for GPUs, which is ignored",
    )


def test_the_real_list_can_be_overlaid(real: Trace, tmp_path: Path) -> None:
    """Overlaid 50 times and compressed 200 times it is dense, and survives a file."""
    dense = compress(replicate(real, 50, seed=0), 200)
    save(dense, tmp_path / "dense.parquet")
    back = load(tmp_path / "dense.parquet")

    assert len(back) == 50 * 8152
    assert back.notes == dense.notes
    assert 40 * 56 < describe(back).peak_pods <= 50 * 56
