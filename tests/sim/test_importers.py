"""Every importer: its sample gives its trace, hostile input gives one line."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim import trace as traces
from sim.sources.importers import IMPORTERS, find
from sim.trace import Choices, Imported, Trace, TraceError, import_files, load, save

SAMPLES = Path(__file__).parents[2] / "sim" / "examples" / "samples"
JOURNALS = tuple(sorted((SAMPLES / "journal").glob("*/*.jsonl")))
SAMPLE = {
    "audit": (SAMPLES / "audit.jsonl",),
    "prometheus": (SAMPLES / "prometheus.json",),
    "watch": (SAMPLES / "watch.json",),
    "container-insights": (SAMPLES / "container-insights.jsonl",),
    "journal": JOURNALS,
    "openb": (SAMPLES / "openb.csv",),
    "dlrm": (SAMPLES / "dlrm.csv",),
    "google2019": (SAMPLES / "google2019.csv",),
}
JSON_FORMATS = ("audit", "prometheus", "watch", "container-insights", "journal")


def imported(fmt: str, *paths: Path, **choices: Any) -> Imported:
    """Import files."""
    return import_files(fmt, paths, Choices(**choices))


def written(path: Path, data: bytes | str) -> Path:
    """Write a file and return its path."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def same(one: Trace, other: Trace) -> bool:
    """Tell whether two traces have the same pods, whatever they were read from."""
    columns = ("arrival_s", "life_s", "cpu_m", "memory_mib", "node")
    equal = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)
    about = ("names", "node_names", "end_s", "notes")
    return equal and all(getattr(one, name) == getattr(other, name) for name in about)


def counts_of(found: Imported) -> dict[str, int]:
    """Return counts by their words."""
    return {one.what: one.number for one in found.counts}


@pytest.mark.parametrize("fmt", IMPORTERS)
def test_a_sample_gives_its_trace(fmt: str, tmp_path: Path) -> None:
    """The trace of each sample is the one beside it, to the byte, and both forms read back."""
    found = imported(fmt, *SAMPLE[fmt])

    for suffix in ("csv", "parquet"):
        save(found.trace, tmp_path / f"made.{suffix}")
        assert same(load(tmp_path / f"made.{suffix}"), found.trace)
    assert (tmp_path / "made.csv").read_bytes() == (SAMPLES / f"{fmt}.trace.csv").read_bytes()


@pytest.mark.parametrize("fmt", IMPORTERS)
def test_what_is_guessed_and_dropped_is_told(fmt: str) -> None:
    """Every guess and drop is a note of the trace, and the pods kept are counted."""
    found = imported(fmt, *SAMPLE[fmt])

    assert counts_of(found)["pods in the trace"] == len(found.trace)
    told = [one for one in found.counts if one.fate.value in {"guessed", "dropped"}]
    assert len(told) == len(found.trace.notes)
    for one, note in zip(told, found.trace.notes, strict=True):
        assert f"{one.number:,} {one.what}" in note


@pytest.mark.parametrize("fmt", IMPORTERS)
def test_a_how_to_gives_the_commands(fmt: str) -> None:
    """Each how-to fits a terminal and ends in the import of what it exported."""
    how_to = find(fmt).how_to

    assert f"warmbench trace import {fmt} " in how_to
    assert all(len(line) <= 100 for line in how_to.splitlines())


def test_an_unknown_format_is_refused_with_the_nearest() -> None:
    """A slip in the name of a format is answered with the name meant."""
    with pytest.raises(TraceError, match='did you mean "audit"'):
        imported("adit", *SAMPLE["audit"])


def test_nodes_can_be_left_to_the_scheduler() -> None:
    """Without nodes the pods are the same and nobody is placed."""
    for fmt in ("audit", "google2019"):
        kept, placed_anew = imported(fmt, *SAMPLE[fmt]), imported(fmt, *SAMPLE[fmt], nodes=False)
        assert kept.trace.node_names
        assert not placed_anew.trace.node_names
        assert set(placed_anew.trace.node.tolist()) == {-1}
        assert placed_anew.trace.names == kept.trace.names


def test_pods_can_be_left_out_by_name() -> None:
    """--drop leaves out by namespace and name, counts, and is refused where there are no names."""
    found = imported("audit", *SAMPLE["audit"], drop=("shop/db-*", "shop/old-?"))

    assert not {"shop/db-0", "shop/old-0"} & set(found.trace.names or ())
    assert counts_of(found)["pods left out by --drop"] == 3
    with pytest.raises(TraceError, match="no pods left; dropped: 7 pods left out by --drop"):
        imported("audit", *SAMPLE["audit"], drop=("*",))
    for fmt in ("openb", "dlrm", "google2019"):
        with pytest.raises(TraceError, match="no names to drop them by"):
            imported(fmt, *SAMPLE[fmt], drop=("a*",))


# Layouts.


def messages() -> list[str]:
    """Return the lines of the audit log's sample."""
    return SAMPLE["audit"][0].read_text().splitlines()


def stamped(lines: list[str], between: str = " ") -> str:
    """Put a time before each line, as CloudWatch does."""
    return "".join(f"2026-03-01T10:00:00.000Z{between}{line}\n" for line in lines)


def row(line: str) -> list[dict[str, str]]:
    """Return a row as CloudWatch Logs Insights gives it."""
    return [{"field": "@timestamp", "value": "2026-03-01"}, {"field": "@message", "value": line}]


def event(line: str) -> dict[str, object]:
    """Return an event as CloudWatch Logs gives it."""
    return {"logStreamName": "kube-apiserver-audit-1", "timestamp": 1, "message": line}


LAYOUTS: dict[str, Callable[[list[str]], str]] = {
    "byte order mark": lambda lines: "\ufeff" + "\n".join(lines),
    "no line feed between": "".join,
    "blank lines, CRLF": lambda lines: "\r\n\r\n".join(lines) + "\r\n",
    "pretty": lambda lines: "\n".join(json.dumps(json.loads(line), indent=4) for line in lines),
    "a list": lambda lines: f"[{','.join(lines)}]",
    "export to S3": stamped,
    "aws logs tail": lambda lines: stamped(lines, " kube-apiserver-audit-1a2b "),
    "filter-log-events": lambda lines: json.dumps(
        {"events": [event(line) for line in lines], "searchedLogStreams": []}, indent=4
    ),
    "get-log-events": lambda lines: json.dumps(
        {"nextForwardToken": "f/1", "events": [event(line) for line in lines]}
    ),
    "get-query-results": lambda lines: json.dumps(
        {"queryLanguage": "CWLI", "results": [row(line) for line in lines], "status": "Complete"}
    ),
    "subscription": lambda lines: "".join(
        json.dumps({"messageType": "DATA_MESSAGE", "logEvents": [event(line)]}) for line in lines
    ),
    "messages alone": lambda lines: json.dumps(lines, indent=4),
    "EventList": lambda lines: json.dumps(
        {"kind": "EventList", "items": [json.loads(line) for line in lines]}
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_a_log_does_not_matter(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However CloudWatch or Kubernetes wraps a log, packed or not, in pieces or at once."""
    expected = imported("audit", *SAMPLE["audit"]).trace
    text = LAYOUTS[layout](messages()).encode()

    assert same(imported("audit", written(tmp_path / "a", text)).trace, expected)
    # As when a file is larger than what is decoded at once: everything meets the ends of pieces.
    monkeypatch.setattr("sim.sources.json_text.CHUNK_BYTES", 61)
    monkeypatch.setattr("sim.sources.json_text.WHOLE_MAX", 256)
    packed = gzip.compress(text[:999]) + gzip.compress(text[999:])
    assert same(imported("audit", written(tmp_path / "a.gz", packed)).trace, expected)


def test_neither_order_nor_repetition_matters(tmp_path: Path) -> None:
    """CloudWatch exports chunks in any order, and exports that overlap hold records twice."""
    expected = imported("audit", *SAMPLE["audit"])
    lines = messages()
    for seed in range(10):
        random.Random(seed).shuffle(lines)
        parts = "\n".join(lines[:20]), "\n".join(lines[10:])
        files = [written(tmp_path / f"{n}", part) for n, part in enumerate(parts)]
        assert same(imported("audit", *files).trace, expected.trace), seed


# Hostile input.


@pytest.mark.parametrize("fmt", JSON_FORMATS)
def test_a_file_that_is_cut_off_is_refused(fmt: str, tmp_path: Path) -> None:
    """Wherever a file of JSON ends too early, its name and the record's line are told."""
    path = SAMPLE[fmt][0]
    data = path.read_bytes().rstrip()
    whole = imported(fmt, path).trace if fmt == "journal" else None
    for cut in range(1, len(data), max(len(data) // 400, 1)):
        part = data[:cut]
        if part.endswith((b"}", b"}\n")) and part.count(b"{") == part.count(b"}"):
            continue
        file = written(tmp_path / path.name, part)
        if fmt == "journal" and b"\n" in part:
            # A crash leaves a segment so; all but that line is taken.
            assert "cut off" in "".join(imported(fmt, file).trace.notes)
            continue
        with pytest.raises(TraceError, match="ends in the middle") as caught:
            imported(fmt, file)
        assert caught.value.file == str(file)
        assert caught.value.line is not None
        assert caught.value.line <= part.count(b"\n") + 1
        if fmt == "audit":
            assert caught.value.line == part.count(b"\n") + 1
    assert whole is None or len(whole)


HOSTILE = {
    "empty": (b"", "no records|empty"),
    "blank": (b" \n\n", "no records|empty"),
    "no JSON": (b"hello\n", "no JSON object begins here"),
    "a number": (b"17\n", "no JSON object begins here"),
    "a list of numbers": (b"[1, 2]", "not|no line"),
    "a NUL": (b"\0" * 100, "no JSON object begins here"),
    "UTF-16": ('{"kind":"Event"}'.encode("utf-16"), "not UTF-8: byte 0xff"),
    "bad UTF-8": (b'{"a": "\xc3\x28"}', "not UTF-8"),
    "nested deeply": (b'{"a":' * 100_000, "nested too deeply"),
    "lists nested deeply": (b"[" * 100_000, "nested too deeply"),
    "NaN": (b'{"now": NaN}', "NaN is no number"),
    "a number of many digits": (b'{"now": ' + b"9" * 10_000 + b"}", "Exceeds the limit"),
    "two values without a comma": (b'{"a": 1 "b": 2}', "not JSON|is missing"),
    "a key that is none": (b"{1: 2}", "not JSON|no name"),
    "a raw line feed in a text": (b'{"a": "x\ny"}', "Invalid control character"),
    "a damaged gzip": (b"\x1f\x8b\x08\0" + b"\xff" * 50, "damaged gzip"),
    "a gzip cut off": (gzip.compress(random.Random(0).randbytes(999))[:-20], "damaged gzip|UTF-8"),
}


@pytest.mark.parametrize("fmt", JSON_FORMATS)
@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_record_is_refused_in_one_line(fmt: str, what: str, tmp_path: Path) -> None:
    """Garbage of every kind is refused by name, never by a traceback."""
    data, reason = HOSTILE[what]
    with pytest.raises(TraceError, match=reason) as caught:
        imported(fmt, written(tmp_path / "hostile", data))
    assert str(tmp_path / "hostile") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fmt", ["audit", "google2019"])
def test_a_line_without_an_end_is_refused(
    fmt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value larger than any record is refused before it is whole; so is a packed one."""
    monkeypatch.setattr("sim.sources.json_text.VALUE_MAX", 1 << 21)
    monkeypatch.setattr("sim.sources.google2019._BLOCK_BYTES", 1 << 20)
    header = "" if fmt == "audit" else "time,type\n"
    endless = f'{header}{"" if header else chr(123)}"a":"' + "x" * (1 << 24)
    path = written(tmp_path / "endless.gz", gzip.compress(endless.encode()))
    read = 0

    def advance(more: int) -> None:
        nonlocal read
        read += more

    with pytest.raises(TraceError, match=r"more than|without an end"):
        import_files(fmt, [path], advance=advance)
    many = written(tmp_path / "many", "{" + ",".join(f'"{n}":1' for n in range(400_000)))
    with pytest.raises(TraceError):
        imported(fmt, many)


def confused(value: Any, draw: random.Random) -> Any:
    """Return a JSON value of another type, or an odd one."""
    odd = (None, True, 0, -1, 1e308, "", "x", "\ud800", "\0", "9" * 400, [], {}, [[]], {"a": {}})
    return draw.choice((*odd, [value], {"metadata": value}, -(2**70), "0001-01-01T00:00:00Z"))


def confuse(one: Any, draw: random.Random) -> Any:
    """Return a record in which one thing somewhere is of another type."""
    whole = copy.deepcopy({"whole": one})
    at: Any = whole
    key: Any = "whole"
    while isinstance(at[key], (dict, list)) and at[key] and draw.random() < 0.9:
        at = at[key]
        key = draw.choice(list(at) if isinstance(at, dict) else range(len(at)))
    at[key] = confused(at[key], draw)
    return whole["whole"]


def survives(fmt: str, path: Path) -> bool:
    """Import a file that may be anything: a valid trace, or one line that names a file."""
    refusal = None
    try:
        found = imported(fmt, path)
    except TraceError as err:
        refusal = err
    if refusal is not None:
        assert refusal.file
        assert "\n" not in str(refusal)
        assert len(str(refusal)) < 700
        return False
    traces.validate(found.trace)
    save(found.trace, path.with_suffix(".made.csv"))
    assert same(load(path.with_suffix(".made.csv")), found.trace)
    return True


ODD_BYTES = (b"\0", b"\n", b'"', b"{", b"]", b"\\", b"\xff", b",", b"-")
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("fmt", JSON_FORMATS)
@quick
@given(seed=st.integers(0, 2**32))
def test_records_of_confused_types_do_no_harm(fmt: str, seed: int, tmp_path: Path) -> None:
    """Whatever type stands where another is expected, the end is a valid trace or one line."""
    draw = random.Random(seed)
    text = SAMPLE[fmt][0].read_text()
    if fmt == "watch":
        decoder, at, found = json.JSONDecoder(), 0, []
        while text[at:].strip():
            value, at = decoder.raw_decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
            found.append(value)
    else:
        found = [json.loads(line) for line in text.splitlines()]
    for _ in range(draw.choice((1, 1, 2, 5))):
        number = draw.randrange(len(found))
        found[number] = confuse(found[number], draw)
    survives(fmt, written(tmp_path / "confused", "\n".join(map(json.dumps, found))))


@pytest.mark.parametrize("fmt", IMPORTERS)
@quick
@given(seed=st.integers(0, 2**32))
def test_damaged_bytes_do_no_harm(fmt: str, seed: int, tmp_path: Path) -> None:
    """Bytes that are changed, lost, repeated or put in leave a valid trace or one line."""
    draw = random.Random(seed)
    data = bytearray(SAMPLE[fmt][0].read_bytes())
    for _ in range(draw.choice((1, 2, 10))):
        at = draw.randrange(len(data))
        length = draw.choice((1, 2, 30, 2000))
        match draw.randrange(4):
            case 0:
                data[at : at + 1] = draw.randbytes(1)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case _:
                data[at:at] = draw.choice(ODD_BYTES)
        data = data or bytearray(b" ")
    survives(fmt, written(tmp_path / "damaged", bytes(data)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize("fmt", JSON_FORMATS)
@quick
@given(records=st.lists(st.dictionaries(st.text(), json_values), max_size=4))
def test_any_json_does_no_harm(fmt: str, records: list[Any], tmp_path: Path) -> None:
    """JSON that has nothing to do with pods is refused in one line, or passed over and counted."""
    survives(fmt, written(tmp_path / "any", "\n".join(map(json.dumps, records))))
