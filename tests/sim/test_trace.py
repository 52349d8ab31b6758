"""Traces survive the way to a file and back, keep order when transformed, and refuse nonsense."""

from __future__ import annotations

import gzip
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from sim.trace import (
    Trace,
    TraceError,
    compress,
    describe,
    example,
    load,
    merge,
    replicate,
    sample,
    save,
    shift,
    thin,
    trace_of,
    validate,
    window,
)

ROOT = Path(__file__).resolve().parents[2]
SEVERAL_TO_ONE_FOLDER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
QUICK = settings(max_examples=60, deadline=None)

instants = st.floats(0, 1e9, allow_nan=False)
lives = st.one_of(st.floats(1e-3, 1e9), st.just(math.inf))
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip())
)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Draw a valid trace of 1 to 20 pods, with or without names and nodes."""
    count = draw(st.integers(1, 20))

    def column(values: st.SearchStrategy[object]) -> list[object]:
        return draw(st.lists(values, min_size=count, max_size=count))

    node_names = draw(st.lists(texts, unique=True, max_size=4))
    named = st.lists(texts, min_size=count, max_size=count, unique=True)
    trace = trace_of(
        names=draw(st.none() | named),
        arrival_s=np.array(column(instants), np.float64),
        life_s=np.array(column(lives), np.float64),
        cpu_m=np.array(column(st.integers(0, 2**62)), np.int64),
        memory_mib=np.array(column(st.integers(0, 2**62)), np.int64),
        node=np.array(column(st.integers(-1, len(node_names) - 1)), np.int32),
        node_names=node_names,
        origin=draw(st.text(max_size=9)),
        notes=draw(st.lists(st.text(max_size=9), max_size=3)),
    )
    return replace(trace, end_s=trace.end_s + draw(st.floats(0, 1e6)))


def facts(trace: Trace) -> tuple[object, ...]:
    """Return all that a trace says, as values that compare."""
    names = tuple(trace.name_of(i) for i in range(len(trace)))
    columns = (trace.arrival_s, trace.life_s, trace.cpu_m, trace.memory_mib, trace.node)
    typed = tuple((str(column.dtype), column.tobytes()) for column in columns)
    return names, *typed, trace.node_names, trace.end_s, trace.origin, trace.notes


def a_trace(arrivals: list[float], life_s: float = 10.0, **others: object) -> Trace:
    """Return a trace of pods that live alike."""
    lives_s = np.full(len(arrivals), life_s)
    return trace_of(arrival_s=np.array(arrivals), life_s=lives_s, origin="test", **others)


def refusal(path: Path, content: bytes | str, name: str = "pods.csv") -> TraceError:
    """Write a file, see it refused, and return the refusal."""
    file = path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(TraceError) as caught:
        load(file)
    assert caught.value.file == str(file)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(file))
    return caught.value


# To a file and back.


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
@given(trace=traces())
@SEVERAL_TO_ONE_FOLDER
def test_a_saved_trace_loads_as_it_was(tmp_path: Path, suffix: str, trace: Trace) -> None:
    """Save and load give back every column, name, note and the horizon, to the last bit."""
    save(trace, tmp_path / f"trace.{suffix}")

    assert facts(load(tmp_path / f"trace.{suffix}")) == facts(trace)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
@given(trace=traces())
@settings(SEVERAL_TO_ONE_FOLDER, max_examples=20)
def test_equal_traces_give_equal_bytes(tmp_path: Path, suffix: str, trace: Trace) -> None:
    """A trace saved, loaded and saved again gives the same file."""
    once, twice = tmp_path / f"once.{suffix}", tmp_path / f"twice.{suffix}"
    save(trace, once)
    save(load(once), twice)

    assert once.read_bytes() == twice.read_bytes()


def test_default_names_cost_no_memory(tmp_path: Path) -> None:
    """Pods called pod-0, pod-1, … in order load without a tuple of names, otherwise with one."""
    save(a_trace([0, 1, 2]), tmp_path / "plain.csv")
    (tmp_path / "named.csv").write_text("pod,arrival_s\npod-0,5\npod-1,3\n")

    assert load(tmp_path / "plain.csv").names is None
    assert load(tmp_path / "named.csv").names == ("pod-1", "pod-0")


def test_a_file_by_hand_needs_two_columns(tmp_path: Path) -> None:
    """Pod and arrival are enough: the rest is endless life, no requests, no node."""
    file = tmp_path / "hand.csv"
    file.write_text("# my notes\narrival_s,pod\r\n\r\n7.5,b\r\n3,a\r\n")

    trace = load(file)

    assert [trace.name_of(i) for i in range(2)] == ["a", "b"]
    assert trace.arrival_s.tolist() == [3.0, 7.5]
    assert trace.life_s.tolist() == [math.inf, math.inf]
    assert (trace.cpu_m.sum(), trace.memory_mib.sum(), trace.node.tolist()) == (0, 0, [-1, -1])
    assert (trace.end_s, trace.origin, trace.notes) == (7.5, "hand.csv", ())


def test_a_byte_order_mark_and_blanks_are_no_fault(tmp_path: Path) -> None:
    """A spreadsheet's UTF-8 mark is skipped, and a blank node or life means what it says."""
    file = tmp_path / "sheet.csv"
    file.write_bytes(b"\xef\xbb\xbfpod,arrival_s,life_s,node\na,0,,n1\nb,1,4,\n")

    trace = load(file)

    assert trace.life_s.tolist() == [math.inf, 4.0]
    assert (trace.node.tolist(), trace.node_names) == ([0, -1], ("n1",))


def test_ties_keep_the_order_of_the_file(tmp_path: Path) -> None:
    """Pods that arrive at one instant come in the order in which the file has them."""
    rows = "".join(f"p{i},{i % 2}\n" for i in range(40))
    (tmp_path / "ties.csv").write_text("pod,arrival_s\n" + rows)

    trace = load(tmp_path / "ties.csv")

    expected = [f"p{i}" for i in range(0, 40, 2)] + [f"p{i}" for i in range(1, 40, 2)]
    assert [trace.name_of(i) for i in range(40)] == expected


def test_columns_cannot_be_changed() -> None:
    """A trace is a value: writing into a column is an error."""
    with pytest.raises(ValueError, match="read-only"):
        a_trace([1, 0]).arrival_s[0] = 7


# Broken files.

HEADER = "pod,arrival_s,life_s,cpu_m,memory_mib,node\n"


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ("b,x,1,1,1,n", "arrival_s", "not a number"),
        ("b,nan,1,1,1,n", "arrival_s", "not a number (nan)"),
        ("b,inf,1,1,1,n", "arrival_s", "infinite"),
        ("b,1e999,1,1,1,n", "arrival_s", "infinite"),
        ("b,-1,1,1,1,n", "arrival_s", "negative"),
        ("b,,1,1,1,n", "arrival_s", "blank"),
        ("b,1_0,1,1,1,n", "arrival_s", "not a number"),
        ("b,1,0,1,1,n", "life_s", "a life of 0 s"),
        ("b,1,-3,1,1,n", "life_s", "negative"),
        ("b,1,nan,1,1,n", "life_s", "not a number (nan)"),
        ("b,1,-inf,1,1,n", "life_s", "negative"),
        ("b,1,1,1.5,1,n", "cpu_m", "not a whole number"),
        ("b,1,1,100m,1,n", "cpu_m", "not a whole number"),
        ("b,1,1,1,-1,n", "memory_mib", "negative"),
        ("b,1,1,1,99999999999999999999,n", "memory_mib", "too large"),
        ("b,1,1,1,,n", "memory_mib", "blank"),
        ("b,1,1,1,1,n\x01", "node", "control characters"),
        (",1,1,1,1,n", "pod", "blank"),
        ("a,1,1,1,1,n", "pod", "given twice, first in line 2"),
        ("b,1,1,1,1", "node", "5 values in the line, 6 in the header"),
        ("b,1,1,1,1,n,7", "node", "7 values in the line, 6 in the header"),
    ],
)
def test_a_broken_value_is_named_by_line_and_field(
    tmp_path: Path, row: str, field: str, reason: str
) -> None:
    """The refusal says the line (blank ones counted), the field and what is wrong with it."""
    fault = refusal(tmp_path, f"{HEADER}a,0,1,1,1,n\n\n{row}\nc,2,1,1,1,n\n")

    assert (fault.line, fault.field, fault.reason) == (4, field, reason)


@pytest.mark.parametrize(
    ("header", "field", "reason"),
    [
        ("pod,arrival_s,pod", "pod", "the column is there twice"),
        ("pod,life_s", "arrival_s", "the column is missing"),
        ("arrival_s,life_s", "pod", "the column is missing"),
        ("pod,arival_s", "arival_s", 'unknown column; did you mean "arrival_s"?'),
        ("pod,arrival_s,Node", "Node", 'unknown column; did you mean "node"?'),
        ("pod,arrival_s,zzzzzz", "zzzzzz", "unknown column"),
        ("pod,arrival_s,", "", "unknown column"),
    ],
)
def test_a_broken_header_is_named(tmp_path: Path, header: str, field: str, reason: str) -> None:
    """A column that is unknown, there twice or missing is named with its line."""
    fault = refusal(tmp_path, f"# a comment\n{header}\na,1,2\n")

    assert (fault.line, fault.field, fault.reason) == (2, field, reason)


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"", None, "the file is empty"),
        (b"\n\n", None, "the file is empty"),
        (b"# only words\n", None, "no header line"),
        (b"pod,arrival_s", 1, "no pods"),
        (b"pod,arrival_s\n\n \n", None, ""),
        (b"pod,arrival_s\na,1\nb\xff,2\n", 3, "not UTF-8: byte 0xff at offset 19"),
        (b"pod,arrival_s\na,1\nb\0,2\n", 3, "NUL byte at offset 19"),
        (b'pod,arrival_s\na,1\n"b,2\n', None, ""),
        (b'pod,arrival_s\n"a\nb",2\n', 3, "control characters"),
        (b"\x1f\x8bnot really gzip", None, ""),
        (gzip.compress(b"pod,arrival_s\na,1\n" * 50, mtime=0)[:-9], None, ""),
        (b"PAR1 and nothing more", None, ""),
        (b"PAR1", None, ""),
    ],
)
def test_what_is_no_table_is_refused(
    tmp_path: Path, content: bytes, line: int | None, reason: str
) -> None:
    """A file that is empty, binary, cut off or not text is refused in one line."""
    fault = refusal(tmp_path, content)

    assert reason in fault.reason
    assert line is None or fault.line == line


@pytest.mark.parametrize(
    ("first", "field"),
    [
        ("# warmbench-trace 2 end_s=5", "version"),
        ("# warmbench-trace", "version"),
        ("# warmbench-trace 1 end_s=nan", "end_s"),
        ("# warmbench-trace 1 end_s=-1", "end_s"),
        ("# warmbench-trace 1 end_s=0.5", "end_s"),
        ("# warmbench-trace 1 ends=5", "ends"),
        ("# warmbench-trace 1\n# note no quotes", "note"),
        ("# warmbench-trace 1\n# origin 7", "origin"),
        ('# warmbench-trace 1\n# nodes {"a": 1}', "nodes"),
        ('# warmbench-trace 1\n# nodes ["a", "a"]', "node"),
    ],
)
def test_a_broken_comment_of_ours_is_named(tmp_path: Path, first: str, field: str) -> None:
    """A file that opens with our mark is held to it; an end before the last pod is refused."""
    fault = refusal(tmp_path, f"{first}\npod,arrival_s\na,1\n")

    assert fault.field == field


def test_a_missing_file_names_the_one_like_it(tmp_path: Path) -> None:
    """A slip in the name is met with the file that was probably meant."""
    (tmp_path / "monday.csv").write_text("pod,arrival_s\na,1\n")

    with pytest.raises(TraceError, match=r'no such file; did you mean "monday.csv"\?'):
        load(tmp_path / "munday.csv")
    with pytest.raises(TraceError, match="is missing as well"):
        load(tmp_path / "nowhere" / "monday.csv")
    with pytest.raises(TraceError, match="is a folder"):
        load(tmp_path)
    with pytest.raises(TraceError, match="cannot be read"):
        load(tmp_path / "a\0b")
    with pytest.raises(TraceError, match="unknown format"):
        load(tmp_path / "monday.csv", fmt="xml")


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(SEVERAL_TO_ONE_FOLDER, max_examples=150)
def test_no_bytes_break_the_reader(tmp_path: Path, content: bytes) -> None:
    """Whatever a file holds, it is a trace or a TraceError of one line."""
    for name in ("noise.csv", "noise.parquet"):
        refusal(tmp_path, content, name)


PLAIN_VALUES = ["", " ", "a", '"a"', "#", "'", '"', "é", "\x85", "\u2028", "null", "NA", "true"]
ODD_NUMBERS = ["0", "-0", "1", "+1", "01", "1.", ".5", "1e3", "0x1", "1_0", "\t1 ", "-1", "9" * 30]
ODDER_NUMBERS = ["inf", "Infinity", "NaN", "1e-400", "1e400", "\u0663"]
ODD_VALUES = PLAIN_VALUES + ODD_NUMBERS + ODDER_NUMBERS


@given(data=st.data())
@settings(SEVERAL_TO_ONE_FOLDER, max_examples=150)
def test_the_two_readers_agree(tmp_path: Path, data: st.DataObject) -> None:
    """A line of odd values is either taken whole or refused with its own line and a field."""
    values = data.draw(st.lists(st.sampled_from(ODD_VALUES), min_size=6, max_size=6))
    file = tmp_path / "odd.csv"
    file.write_text(f"{HEADER}a0,0,1,1,1,n\n{','.join(values)}\n")

    try:
        taken, fault = len(load(file)), None
    except TraceError as err:
        taken, fault = 2, err
    # A quote that is never closed is a fault of the line, not of one field.
    fields = [*HEADER.strip().split(","), *([None] if '"' in values else [])]
    assert taken == 2
    assert fault is None or (fault.line == 3 and fault.field in fields)


def test_parquet_is_held_to_the_same_rules(tmp_path: Path) -> None:
    """Types and values of a Parquet file are refused by field, and by row where one is at fault."""

    def fault_of(**columns: object) -> TraceError:
        base = {"pod": ["a", "b"], "arrival_s": [0.0, 1.0]}
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.table(base | columns), sink)
        return refusal(tmp_path, sink.getvalue().to_pybytes(), "pods.parquet")

    assert fault_of(arrival_s=["0", "1"]).field == "arrival_s"
    assert fault_of(cpu_m=[1.5, 2.0]).reason == "wrong type"
    assert fault_of(pod=[1, 2]).field == "pod"
    assert fault_of(life=[1, 2]).reason == 'unknown column; did you mean "life_s"?'
    for values, reason in (([0.0, -1.0], "negative"), ([0.0, None], "blank")):
        fault = fault_of(arrival_s=values)
        assert (fault.row, fault.field, fault.reason) == (2, "arrival_s", reason)
    assert fault_of(pod=["a", "a"]).reason == "given twice, first in row 1"
    assert fault_of(life_s=[1.0, math.nan]).row == 2
    assert fault_of(life_s=[0, 1]).row == 1
    assert fault_of(memory_mib=pa.array([1, 2**64 - 1], pa.uint64())).field == "memory_mib"


def test_a_truncated_parquet_is_refused(tmp_path: Path) -> None:
    """Wherever a Parquet file is cut off, it is refused and nothing is half-loaded."""
    save(a_trace([0.0, 1.0, 2.0]), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()

    for cut in range(0, len(whole), 37):
        refusal(tmp_path, whole[:cut], "cut.parquet")


def test_parquet_of_others_may_be_typed_otherwise(tmp_path: Path) -> None:
    """Integers for seconds, categories for names and nulls for no node are understood."""
    table = pa.table(
        {
            "pod": pa.array(["b", "a"]).dictionary_encode(),
            "arrival_s": pa.array([5, 3], pa.int32()),
            "node": pa.array(["n", None], pa.large_string()),
        }
    )
    parquet.write_table(table, tmp_path / "other.parquet")

    trace = load(tmp_path / "other.parquet")

    assert (trace.names, trace.arrival_s.tolist()) == (("a", "b"), [3.0, 5.0])
    assert (trace.node.tolist(), trace.node_names) == ([-1, 0], ("n",))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A trace that is refused or cannot be written leaves no file and no leftovers."""
    good = a_trace([0.0])
    with pytest.raises(TraceError, match="unknown suffix"):
        save(good, tmp_path / "trace.txt")
    with pytest.raises(TraceError, match="end_s"):
        save(replace(good, end_s=-1.0), tmp_path / "trace.csv")
    with pytest.raises(TraceError, match="cannot be written"):
        save(good, tmp_path / "nowhere" / "trace.csv")
    (tmp_path / "taken.csv").mkdir()
    with pytest.raises(TraceError, match="cannot be written"):
        save(good, tmp_path / "taken.csv")

    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.csv"]


# Transformations.


@given(trace=traces(), times=st.integers(1, 5), seed=st.integers(0, 2**70))
@QUICK
def test_replicating_keeps_pods_and_order(trace: Trace, times: int, seed: int) -> None:
    """Each copy has every pod once, at its time or up to the jitter later, in order."""
    copies = replicate(trace, times, seed=seed, jitter_s=60.0)

    validate(copies)
    assert len(copies) == times * len(trace)
    # Where each pod comes 0 to 60 s later, so does the n-th of all, for every n.
    late = np.sort(copies.arrival_s) - np.repeat(np.sort(trace.arrival_s), times)
    assert late.min() >= 0
    assert late.max() <= 60.001
    assert np.array_equal(np.sort(copies.life_s), np.sort(np.tile(trace.life_s, times)))
    assert facts(copies) == facts(replicate(trace, times, seed=seed, jitter_s=60.0))


def test_replicating_names_its_copies_and_notes_it() -> None:
    """Copies are told apart by a suffix; the first is as it was; the note repeats the call."""
    once = a_trace([0.0, 100.0], names=["a", "b"], end_s=200.0)

    copies = replicate(once, 3, seed=7)
    at = {copies.name_of(i): copies.arrival_s[i] for i in range(len(copies))}

    assert sorted(at) == ["a-r0", "a-r1", "a-r2", "b-r0", "b-r1", "b-r2"]
    assert (at["a-r0"], at["b-r0"]) == (0.0, 100.0)
    assert all(0 <= at[f"a-r{k}"] < 600 for k in (1, 2))
    assert len({at[name] for name in at}) == 6
    assert copies.notes == ("replicated 3 times, jitter 600 s, seed 7",)
    assert copies.end_s == 800.0


@given(trace=traces(), factor=st.floats(1e-3, 1e3))
@QUICK
def test_compressing_scales_every_time(trace: Trace, factor: float) -> None:
    """Arrivals, lives and the horizon are divided alike; pods keep their order."""
    small = compress(trace, factor)

    validate(small)
    assert np.array_equal(small.arrival_s, trace.arrival_s / factor)
    assert np.array_equal(small.life_s, trace.life_s / factor)
    assert small.end_s == trace.end_s / factor
    assert len(small.notes) == len(trace.notes) + 1


@given(trace=traces(), keep=st.floats(0.2, 1.0), seed=st.integers(0, 100))
@QUICK
def test_thinning_keeps_a_part_in_order(trace: Trace, keep: float, seed: int) -> None:
    """What stays is a subsequence of the trace, or there is nothing left and that is said."""
    try:
        some = thin(trace, keep, seed=seed)
    except TraceError as fault:
        assert fault.field == "keep"  # noqa: PT017 - either outcome is right.
        return

    validate(some)
    remaining = iter(trace.arrival_s.tolist())
    assert all(arrival in remaining for arrival in some.arrival_s.tolist())
    assert some.end_s == trace.end_s


def test_thinning_keeps_about_its_share() -> None:
    """Of 100,000 pods a share of 0.3 stays, within four standard deviations."""
    trace = a_trace(np.arange(100_000.0).tolist())

    assert abs(len(thin(trace, 0.3, seed=1)) - 30_000) < 4 * 145


@given(parts=st.lists(traces(), min_size=1, max_size=4), by_s=st.floats(0, 1e6))
@QUICK
def test_merging_keeps_all_pods_in_order(parts: list[Trace], by_s: float) -> None:
    """Every pod of every part is there once, under its label, at its time and node."""
    moved = {f"part{i}": shift(part, by_s) for i, part in enumerate(parts)}
    whole = merge(moved)

    validate(whole)
    expected = sorted(
        (f"{label}/{part.name_of(i)}", part.arrival_s[i], node_of(part, i))
        for label, part in moved.items()
        for i in range(len(part))
    )
    found = sorted(
        (whole.name_of(i), whole.arrival_s[i], node_of(whole, i)) for i in range(len(whole))
    )
    assert found == expected
    assert whole.end_s == max(part.end_s for part in moved.values())


def node_of(trace: Trace, index: int) -> str:
    """Return the name of a pod's node, or nothing."""
    return trace.node_names[trace.node[index]] if trace.node[index] >= 0 else ""


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf])
def test_senseless_arguments_are_refused(wrong: float) -> None:
    """A transformation names the argument, its value and what is allowed."""
    trace = a_trace([0.0, 1.0])
    attempts = {
        "factor": lambda: compress(trace, wrong),
        "keep": lambda: thin(trace, wrong, seed=0),
        "times": lambda: replicate(trace, wrong, seed=0),
        "jitter_s": lambda: replicate(trace, 2, seed=0, jitter_s=wrong or -0.1),
        "by_s": lambda: shift(trace, wrong or -0.1),
        "seed": lambda: thin(trace, 0.5, seed=wrong or -1),
    }
    for field, attempt in attempts.items():
        with pytest.raises(TraceError) as caught:
            attempt()
        assert caught.value.field == field
        assert caught.value.allowed


def test_merging_refuses_labels_that_could_clash() -> None:
    """A label with a slash could make two pods of one name, and is refused like no label."""
    for label in ("", "a/b", "a\n"):
        with pytest.raises(TraceError, match="label"):
            merge({label: a_trace([0.0])})
    with pytest.raises(TraceError, match="nothing to merge"):
        merge({})


def test_results_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    """Transformations and files are equal to the byte under any PYTHONHASHSEED."""
    code = (
        "from sim.sources.shapes import steady\n"
        "from sim.trace import merge, replicate, save, thin\n"
        "trace = thin(replicate(merge({'a': steady(duration_s=60)}), 3, seed=5), 0.5, seed=6)\n"
        f"save(trace, {str(tmp_path / 'out.csv')!r})\n"
    )
    contents = set()
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)  # noqa: S603
        contents.add((tmp_path / "out.csv").read_bytes())

    assert len(contents) == 1


def test_importing_traces_is_light() -> None:
    """The module with the types loads neither pandas nor pyarrow."""
    code = (
        "import sys, sim.trace, sim.sources.shapes\nprint({'pandas', 'pyarrow'} & {*sys.modules})\n"
    )
    told = subprocess.run(  # noqa: S603 - a fixed text.
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )

    assert told.stdout == "set()\n"


# Validation and description.


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"life_s": np.array([1.0])}, "life_s"),
        ({"life_s": np.array([1.0, math.nan])}, "life_s"),
        ({"arrival_s": np.array([1.0, 0.0])}, "arrival_s"),
        ({"arrival_s": np.array([0.0, math.inf])}, "arrival_s"),
        ({"cpu_m": np.array([0, -1])}, "cpu_m"),
        ({"node": np.array([0, 1], np.int32)}, "node"),
        ({"end_s": 0.5}, "end_s"),
        ({"end_s": math.inf}, "end_s"),
        ({"names": ("a",)}, "names"),
        ({"names": ("a", "a")}, "pod"),
        ({"names": ("a", "")}, "pod"),
        ({"names": ("a", "b\n")}, "pod"),
        ({"names": ("a", "\ud800")}, "pod"),
        ({"node_names": ("n", "n")}, "node"),
    ],
)
def test_a_trace_that_is_none_is_refused(change: dict[str, object], field: str) -> None:
    """Validation names the column at fault."""
    with pytest.raises(TraceError) as caught:
        validate(replace(a_trace([0.0, 1.0]), **change))

    assert caught.value.field == field


def test_a_description_counts_right() -> None:
    """On a trace small enough to count by hand every figure is what one counts."""
    trace = trace_of(
        arrival_s=np.array([0.0, 0.0, 4.9, 10.0, 10.0, 60.0]),
        life_s=np.array([10.0, 5.0, 100.0, math.inf, 1.0, 2.0]),
        cpu_m=np.array([0, 100, 200, 0, 0, 0]),
        memory_mib=np.array([0, 0, 0, 64, 0, 0]),
        node=np.array([0, 0, 1, 0, 0, -1], np.int32),
        node_names=("n0", "n1"),
        end_s=120.0,
        origin="by hand",
    )

    figures = describe(trace)

    assert (figures.pods, figures.span_s, figures.present_at_start) == (6, 120.0, 2)
    assert figures.arrivals_per_minute_mean == 3.0
    # A minute and 5 s are half open: the pod at 60 is a minute after those at 0.
    assert (figures.arrivals_worst_minute, figures.arrivals_worst_5_s) == (5, 3)
    assert (figures.life_p50_s, figures.life_mean_s) == (5.0, 23.6)
    assert figures.outliving_share == pytest.approx(1 / 6)
    # At 10 s the first pod has left (at 10) before two come: 100 s, endless, and 1 s are alive.
    assert (figures.peak_pods, figures.peak_at_s) == (3, 0.0 + 4.9)
    assert figures.mean_pods == pytest.approx((10 + 5 + 100 + 110 + 1 + 2) / 120)
    assert (figures.cpu_m_max, figures.memory_mib_max) == (200, 64)
    assert figures.without_requests_share == 0.5
    assert figures.placed_share == pytest.approx(5 / 6)
    assert (figures.nodes, figures.peak_pods_on_a_node) == (2, 2)


@given(trace=traces())
@QUICK
def test_the_peak_is_what_a_walk_finds(trace: Trace) -> None:
    """The vectorised peak equals that of a walk over all comings and goings."""
    leaving = trace.departure_s()
    expected = max(
        sum(1 for j in range(i + 1) if leaving[j] > trace.arrival_s[i]) for i in range(len(trace))
    )

    # A pod whose life is below the resolution of its arrival leaves as it comes.
    assert describe(trace).peak_pods == expected


def test_endless_lives_have_no_quantiles() -> None:
    """Where every pod outlives the trace, quantiles are None rather than made up."""
    figures = describe(a_trace([0.0, 0.0], life_s=math.inf))

    assert (figures.life_p50_s, figures.life_mean_s, figures.outliving_share) == (None, None, 1.0)
    assert figures.peak_pods == 2


def test_a_window_shows_the_pods_that_were_alive_then() -> None:
    """At each instant of the window as many are alive as in the whole, and none came before."""
    whole = example()

    part = window(whole, 2700.0, 6300.0)

    validate(part)
    assert part.end_s == 3600.0
    for at in (0.0, 1.0, 1000.0, 3599.0):
        alive = [
            int(((one.arrival_s <= t) & (one.departure_s() > t)).sum())
            for one, t in ((part, at), (whole, 2700.0 + at))
        ]
        assert alive[0] == alive[1], at
    assert part.arrival_s.min() == 0.0


@pytest.mark.parametrize(("from_s", "until_s"), [(-1.0, 10.0), (10.0, 10.0), (0.0, 1e9)])
def test_a_window_outside_of_the_trace_is_refused(from_s: float, until_s: float) -> None:
    """The message names the bounds."""
    with pytest.raises(TraceError, match="no such window"):
        window(example(), from_s, until_s)


def test_what_ships_is_found_by_its_name() -> None:
    """The samples of the importers and the journals, and nothing else."""
    assert (sample("samples") / "watch.json").is_file()
    assert sample("journals").is_dir()
    with pytest.raises(FileNotFoundError, match="nothing of that name ships"):
        sample("nothing")
