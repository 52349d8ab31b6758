"""The record: columns as they were written, read-only, with words for codes."""

import math

import numpy as np
import pytest

from sim.record import Names, Recorder, RunHeader, RunRecord


def header(pods: int) -> RunHeader:
    """Return a header that says little."""
    return RunHeader(
        behaviour="native",
        settings={},
        instance="x",
        nodes=("a", "b"),
        subnets=("10.0.0.0/24",),
        seed=0,
        trace_origin="made in a test",
        trace_notes=(),
        pods=pods,
        end_s=10.0,
        cooldown_s=30.0,
    )


def recorded() -> RunRecord:
    """Return a record with a row or two in every table."""
    recorder = Recorder(3)
    recorder.node[0], recorder.added_at[0], recorder.served_at[0] = 1, 1.0, 1.5
    recorder.released_at[0] = 4.0
    recorder.unplace(2, "cpu")
    recorder.pool(0.0, 1, 1, 9, 9)
    recorder.pool(2.0, 1, 2, 18, 18)
    recorder.cut(3.0, 1, 1, 31.0)
    recorder.refuse(1.0, 1, 0, "pool_empty")
    recorder.refuse(1.2, 1, 1, "subnet_full")
    recorder.call(0, "AssignPrivateIpAddresses", 0.1, 0.4, "")
    recorder.call(1, "AssignPrivateIpAddresses", 0.2, 0.5, "RequestLimitExceeded")
    recorder.subnet(0.3, 0, 240, 14)
    return recorder.finish(header(3), np.array([1.0, 1.0, 2.0]))


def test_what_is_written_can_be_read() -> None:
    """Every row comes back in the order in which it was written."""
    record = recorded()

    assert record.pods["node"].tolist() == [1, -1, -1]
    assert record.pods["refused"].tolist() == [1, 1, 0]
    assert record.pods["arrival_s"].tolist() == [1.0, 1.0, 2.0]
    assert (record.pods["served_at"][0], record.pods["released_at"][0]) == (1.5, 4.0)
    assert [record.resources[code] for code in record.unplaced["resource"]] == ["cpu"]
    assert record.pool["addresses"].tolist() == [9, 18]
    assert record.cut["until"].tolist() == [31.0]
    assert [record.causes[code] for code in record.refusals["cause"]] == [
        "pool_empty",
        "subnet_full",
    ]
    assert [record.apis[code] for code in record.calls["api"]] == ["AssignPrivateIpAddresses"] * 2
    assert [record.errors[code] for code in record.calls["error"]] == ["", "RequestLimitExceeded"]
    assert record.subnets["free_prefixes"].tolist() == [14]


def test_what_did_not_happen_is_nan() -> None:
    """A pod without a node has no instants, and node -1."""
    record = recorded()

    for column in ("added_at", "served_at", "released_at"):
        assert math.isnan(record.pods[column][2])


def test_columns_are_typed_and_read_only() -> None:
    """Instants are float64, counts and codes int32, and nobody can write to any."""
    record = recorded()
    for _name, columns in record.tables():
        for name, column in columns.items():
            instant = name in {"t", "until", "started", "ended"} or name.endswith(("_s", "_at"))
            assert column.dtype == (np.float64 if instant else np.int32), name
            if name != "arrival_s":
                with pytest.raises(ValueError, match="read-only"):
                    column[:1] = 0


def test_tables_are_equally_long_within() -> None:
    """All columns of a table have one length, that of pods the number of pods."""
    record = recorded()
    for name, columns in record.tables():
        lengths = {len(column) for column in columns.values()}
        assert len(lengths) == 1, name
    assert [name for name, _ in record.tables()] == [
        "pods",
        "unplaced",
        "pool",
        "cut",
        "refusals",
        "calls",
        "subnets",
        "moves",
        "replaced",
    ]


def test_an_empty_run_has_empty_tables() -> None:
    """Without pods every table is there, typed, and empty."""
    record = Recorder(0).finish(header(0), np.empty(0))

    assert all(len(column) == 0 for _, columns in record.tables() for column in columns.values())
    assert record.errors == ("",)


def test_names_count_words_from_the_first_one_seen() -> None:
    """A word keeps its code; codes count in the order of first sight."""
    names = Names("")

    assert [names.code(word) for word in ("b", "a", "b", "")] == [1, 2, 1, 0]
    assert names.words() == ("", "b", "a")
