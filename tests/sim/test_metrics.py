"""Figures of records that are small enough to work out by hand, and laws for all others."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import metrics, store
from sim.record import NAN, Recorder, RunHeader, RunRecord
from sim.summary import Quantiles, Spread, SubnetLow

BANDS = ("held", "assigned", "cooling", "idle", "primary", "enis")


def header(pods: int, **changes: object) -> RunHeader:
    """Describe a run of 100 s on two nodes with a cooldown of 30 s."""
    values: dict[str, object] = {
        "behaviour": "upstream",
        "settings": {"WARM_IP_TARGET": "2"},
        "instance": "m5.large",
        "nodes": ("node-0", "node-1"),
        "subnets": ("10.0.0.0/24",),
        "seed": 7,
        "trace_origin": "by hand",
        "trace_notes": (),
        "pods": pods,
        "end_s": 100.0,
        "cooldown_s": 30.0,
    }
    return RunHeader(**(values | changes))  # type: ignore[arg-type]


def place(recorder: Recorder, pod: int, node: int, *times: float, served: float = NAN) -> None:
    """Write a pod's row: added at times[0], released at times[1] where that is given."""
    recorder.node[pod] = node
    recorder.added_at[pod] = times[0]
    recorder.served_at[pod] = served
    recorder.released_at[pod] = times[1] if len(times) > 1 else NAN


def by_hand() -> RunRecord:
    """Record five pods on two nodes, of which one waits and one fits nowhere.

    node-0 holds 4 addresses from 0 s and 2 from 60 s (one of the two given back was cooling);
    node-1 holds 2 from 10 s on.
    """
    recorder = Recorder(5)
    recorder.pool(0.0, 0, 1, 4, 4)
    recorder.pool(10.0, 1, 2, 2, 2)
    recorder.pool(60.0, 0, 1, 2, 2)
    place(recorder, 0, 0, 5.0, 40.0, served=5.0)  # cools 40 to 70, cut at 60
    recorder.cut(60.0, 0, 1, 70.0)
    place(recorder, 1, 0, 20.0, served=20.0)
    recorder.refuse(8.0, 1, 2, "pool_empty")
    place(recorder, 2, 1, 8.0, 90.0, served=20.0)  # cools 90 to 120, beyond the end
    recorder.refuse(50.0, 1, 3, "subnet_full")
    recorder.refuse(62.0, 1, 3, "subnet_full")
    place(recorder, 3, 1, 50.0)
    recorder.unplace(4, "cpu")
    recorder.call(0, "ReadMetadata", 0.0, 0.1, "")
    recorder.call(0, "AssignPrivateIpAddresses", 1.0, 1.5, "RequestLimitExceeded")
    recorder.call(0, "AssignPrivateIpAddresses", 2.0, 2.5, "")
    recorder.call(0, "DescribeSubnets", 99.0, 99.5, "")
    recorder.subnet(0.0, 0, 240, 14)
    recorder.subnet(10.0, 0, 236, 12)
    recorder.subnet(60.0, 0, 238, 11)
    return recorder.finish(header(5), np.array([5.0, 20.0, 8.0, 50.0, 51.0]))


def test_waits_run_from_the_first_add_to_the_address() -> None:
    """A pod without an address has no wait yet, but a wait so far; an unplaced one has no row."""
    frame = metrics.waits(by_hand())
    assert frame["pod"].tolist() == [0, 1, 2, 3]
    assert frame["node"].tolist() == ["node-0", "node-0", "node-1", "node-1"]
    assert frame["wait_s"].tolist()[:3] == [0.0, 0.0, 12.0]
    assert math.isnan(frame["wait_s"].tolist()[3])
    assert frame["waited_s"].tolist() == [0.0, 0.0, 12.0, 50.0]
    assert frame["refused"].tolist() == [0, 0, 1, 2]


def test_steps_are_exact() -> None:
    """Every change of every band has its row, worked out by hand."""
    frame = metrics.steps(by_hand())
    rows = frame[["t", "lasts_s", *BANDS]].to_numpy().tolist()
    assert rows == [
        # t, lasts, held, assigned, cooling, idle, primary, enis
        [0.0, 5.0, 4, 0, 0, 4, 1, 1],
        [5.0, 5.0, 4, 1, 0, 3, 1, 1],
        [10.0, 10.0, 6, 1, 0, 5, 3, 3],
        [20.0, 20.0, 6, 3, 0, 3, 3, 3],
        [40.0, 20.0, 6, 2, 1, 3, 3, 3],
        [60.0, 10.0, 4, 2, 0, 2, 3, 3],
        [70.0, 20.0, 4, 2, 0, 2, 3, 3],
        [90.0, 10.0, 4, 1, 1, 2, 3, 3],
    ]


def test_steps_of_one_node() -> None:
    """A node's own steps leave the others' out."""
    frame = metrics.steps(by_hand(), node="node-1")
    assert frame[["t", "held", "assigned", "cooling"]].to_numpy().tolist() == [
        [0.0, 0, 0, 0],
        [10.0, 2, 0, 0],
        [20.0, 2, 1, 0],
        [90.0, 2, 0, 1],
    ]
    with pytest.raises(KeyError, match="node-9"):
        metrics.steps(by_hand(), node="node-9")


def test_what_happened_before_zero_is_the_state_at_zero() -> None:
    """A pool that was filled before the trace began is full at its zero."""
    recorder = Recorder(1)
    recorder.pool(-30.0, 0, 1, 3, 3)
    place(recorder, 0, 0, -5.0, served=-5.0)
    frame = metrics.steps(recorder.finish(header(1), np.zeros(1)))
    assert frame[["t", "lasts_s", "held", "assigned"]].to_numpy().tolist() == [[0, 100, 3, 1]]


def test_a_record_that_uses_more_than_it_holds_is_refused() -> None:
    """Two pods on one address are an error of the record, not a negative band."""
    recorder = Recorder(2)
    recorder.pool(0.0, 0, 1, 1, 1)
    place(recorder, 0, 0, 1.0, served=1.0)
    place(recorder, 1, 0, 2.0, served=2.0)
    record = recorder.finish(header(2), np.zeros(2))
    with pytest.raises(metrics.UnbalancedBooksError, match=r"at 2\.000000 s: held 1, assigned 2"):
        metrics.steps(record)


def test_a_reuse_in_the_last_bit_of_a_second_is_no_error() -> None:
    """Two sums of the same tenths that differ in the last bit are one instant."""
    released_at = 0.1 + 0.2
    assert released_at > 0.3
    recorder = Recorder(2)
    recorder.pool(0.0, 0, 1, 1, 1)
    place(recorder, 0, 0, 0.0, released_at, served=0.0)
    place(recorder, 1, 0, 0.3, served=0.3)
    record = recorder.finish(header(2, cooldown_s=0.0), np.zeros(2))
    assert metrics.steps(record)["idle"].min() == 0


def test_timeline_reads_the_steps_off_an_even_grid() -> None:
    """Instants, means and peaks of [0, 50) and [50, 100]."""
    record = by_hand()
    at = metrics.timeline(record, points=3)
    assert at["t"].tolist() == [0.0, 50.0, 100.0]
    assert at["held"].tolist() == [4, 6, 4]
    mean = metrics.timeline(record, points=2, how="mean")
    assert mean["t"].tolist() == [25.0, 75.0]
    assert mean["held"].tolist() == [(10 * 4 + 40 * 6) / 50, (10 * 6 + 40 * 4) / 50]
    peak = metrics.timeline(record, points=2, how="max")
    assert peak["assigned"].tolist() == [3, 2]
    assert peak["cooling"].tolist() == [1, 1]
    assert metrics.timeline(record, points=2, node="node-1")["held"].tolist() == [0, 2]


def test_time_weights_decide_mean_and_p95() -> None:
    """A peak that lasts less than a twentieth of the time is the max but not the p95."""
    frame = pd.DataFrame({"lasts_s": [95.0, 5.0], "held": [10, 30]})
    spread = metrics.time_weighted(frame, "held")
    assert (spread.mean, spread.p95, spread.max) == (11.0, 10, 30)
    frame = pd.DataFrame({"lasts_s": [94.0, 6.0], "held": [10, 30]})
    assert metrics.time_weighted(frame, "held").p95 == 30


def test_calls_leave_metadata_out_of_ec2() -> None:
    """Reads of the metadata are rows of `calls`, and no EC2 calls."""
    record = by_hand()
    assert metrics.calls(record)["api"].tolist().count("ReadMetadata") == 1
    by_api = metrics.calls_by_api(record)
    assert by_api.index.tolist() == ["AssignPrivateIpAddresses", "DescribeSubnets"]
    assert by_api["attempts"].tolist() == [2, 1]
    assert by_api["throttled"].tolist() == [1, 0]
    assert by_api["failed"].tolist() == [1, 0]
    assert by_api["mutating"].tolist() == [True, False]
    over_time = metrics.calls_over_time(record, points=2)
    assert over_time[["t", "width_s"]].to_numpy().tolist() == [[25.0, 50.0], [75.0, 50.0]]
    assert over_time["reads"].tolist() == [0, 1]
    assert over_time["writes"].tolist() == [1, 0]
    assert over_time["throttled"].tolist() == [1, 0]


def test_refusals_subnets_and_unplaced_show_words() -> None:
    """Codes come out as the words they stand for."""
    record = by_hand()
    assert metrics.refusals(record)["cause"].tolist() == ["pool_empty", *["subnet_full"] * 2]
    assert metrics.subnets(record)["subnet"].unique().tolist() == ["10.0.0.0/24"]
    assert metrics.unplaced(record).to_numpy().tolist() == [[4, "cpu"]]


def pool_of(*rows: tuple[float, int, int]) -> RunRecord:
    """Record a run that is nothing but rows (t, node, addresses) of the pool."""
    recorder = Recorder(0)
    for t, node, addresses in rows:
        recorder.pool(t, node, 1, addresses, addresses)
    return recorder.finish(header(0, end_s=10_000.0), np.zeros(0))


@pytest.mark.parametrize(
    ("rows", "pairs"),
    [
        ([(0, 0, 9), (10, 0, 5), (20, 0, 9)], 4),  # gives 4 back, wants them 10 s later
        ([(0, 0, 9), (10, 0, 5), (20, 0, 7)], 2),
        ([(0, 0, 9), (10, 0, 5), (610, 0, 9)], 4),  # exactly ten minutes is within
        ([(0, 0, 9), (10, 0, 5), (611, 0, 9)], 0),
        ([(0, 0, 9), (10, 0, 5), (20, 1, 4)], 0),  # another node
        ([(0, 0, 9), (10, 0, 8), (400, 0, 5), (700, 0, 9)], 3),  # the first one expired
        ([(0, 0, 9), (10, 0, 5), (20, 0, 8), (30, 0, 9), (40, 0, 12)], 4),  # each pairs once
    ],
)
def test_churn_pairs(rows: list[tuple[float, int, int]], pairs: int) -> None:
    """Addresses given back and asked for again pair once, on one node, within ten minutes."""
    assert metrics.churn_pairs(pool_of(*rows)) == pairs


def test_summary_by_hand() -> None:
    """The figures of the run above, one by one."""
    summary = metrics.summarise(by_hand())
    assert (summary.pods, summary.served, summary.waiting, summary.unschedulable) == (5, 3, 1, 1)
    assert summary.unschedulable_by_resource == {"cpu": 1}
    # Waits 0, 0, 12, and 50 so far.
    assert summary.wait_s == Quantiles(p50=0.0, p90=50.0, p99=50.0, max=50.0)
    assert summary.at_once_of_served == 2 / 3
    assert summary.at_once_of_all == 2 / 5
    assert summary.refusals == {"subnet_full": 2, "pool_empty": 1}
    assert summary.refused_pods == 2
    held = (10 * 4 + 50 * 6 + 40 * 4) / 100
    assigned = (5 * 0 + 15 * 1 + 20 * 3 + 50 * 2 + 10 * 1) / 100
    assert summary.addresses.held == Spread(mean=held, p95=6, max=6)
    assert summary.addresses.assigned == Spread(mean=assigned, p95=3, max=3)
    assert summary.addresses.cooling == Spread(mean=0.3, p95=1, max=1)
    assert summary.addresses.primary == Spread(mean=2.8, p95=3, max=3)
    assert summary.utilisation == assigned / held
    assert summary.subnets == {"10.0.0.0/24": SubnetLow(236, 11, 10.0)}
    calls = summary.ec2_calls
    assert (calls.total, calls.mutating, calls.throttled, calls.metadata_reads) == (3, 2, 1, 1)
    assert calls.by_api == {"AssignPrivateIpAddresses": 2, "DescribeSubnets": 1}
    assert calls.errors == {"RequestLimitExceeded": 1}
    assert calls.throttled_share == 1 / 3
    assert summary.churn_pairs == 0


def test_summary_json_has_no_nan_and_a_stable_order() -> None:
    """The JSON form is strict JSON, and opens with where the pods went."""
    as_dict = metrics.summarise(by_hand()).as_dict()
    text = json.dumps(as_dict, allow_nan=False)
    assert json.loads(text) == as_dict
    assert list(as_dict)[:3] == ["pods", "present_at_start", "served"]
    assert list(as_dict)[3:5] == ["waiting", "unschedulable"]
    assert as_dict["served_without_waiting"] == {"of_served": 0.666667, "of_all": 0.4}
    assert as_dict["enis"] == {"mean": 2.8, "max": 3}


def test_summary_of_an_empty_run() -> None:
    """No pods, no nodes' pools, no time: figures that do not exist are null."""
    record = Recorder(0).finish(header(0, end_s=0.0), np.zeros(0))
    as_dict = metrics.summarise(record).as_dict()
    assert as_dict["wait_s"] == {"p50": None, "p90": None, "p99": None, "max": None}
    assert as_dict["utilisation"] is None
    assert as_dict["subnets"] == {
        "10.0.0.0/24": {"lowest_free": None, "lowest_free_prefixes": None, "at_s": None}
    }
    json.dumps(as_dict, allow_nan=False)
    assert len(metrics.timeline(record, points=5)) == 5
    assert metrics.timeline(record, points=5, how="mean")["held"].tolist() == [0.0] * 5


def test_summary_refuses_a_pod_that_is_nowhere() -> None:
    """A pod that no node took and that is not unplaced either is an error."""
    record = Recorder(1).finish(header(1), np.zeros(1))
    with pytest.raises(metrics.UnbalancedBooksError, match="1 pods wanted a node, but 0 taken"):
        metrics.summarise(record)


# On disk and back.


def assert_same(one: RunRecord, other: RunRecord) -> None:
    """Compare two records to the bit, nan included."""
    assert one.header == other.header
    for (name, table), (_, again) in zip(one.tables(), other.tables(), strict=True):
        assert list(table) == list(again), name
        for column, values in table.items():
            assert values.dtype == again[column].dtype, (name, column)
            np.testing.assert_array_equal(values, again[column])
    for listed in ("resources", "causes", "apis", "errors"):
        assert getattr(one, listed) == getattr(other, listed)


def test_round_trip(tmp_path: Path) -> None:
    """Tables, code lists and header survive, codes in an unhelpful order included."""
    store.save(by_hand(), tmp_path / "new" / "folder")
    assert_same(by_hand(), store.load(tmp_path / "new" / "folder"))


def test_round_trip_of_nothing(tmp_path: Path) -> None:
    """A record without rows keeps its columns' types."""
    record = Recorder(0).finish(header(0, scenario={"b": "2", "a": "1"}), np.zeros(0))
    store.save(record, tmp_path)
    assert_same(record, store.load(tmp_path))


def test_words_no_row_uses_keep_their_codes(tmp_path: Path) -> None:
    """A code list may be longer than the rows need, and in another order."""
    recorder = Recorder(1)
    for word in ("starting", "pool_empty", "subnet_full"):
        recorder.causes.code(word)
    recorder.refuse(1.0, 0, 0, "subnet_full")
    recorder.refuse(2.0, 0, 0, "pool_empty")
    record = recorder.finish(header(1), np.zeros(1))
    store.save(record, tmp_path)
    assert_same(record, store.load(tmp_path))


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    """Nothing of the clock or of the order of a mapping gets into the files."""
    store.save(by_hand(), tmp_path / "a")
    store.save(by_hand(), tmp_path / "b")
    for one in sorted((tmp_path / "a").iterdir()):
        assert one.read_bytes() == (tmp_path / "b" / one.name).read_bytes()


def test_the_files_read_without_us(tmp_path: Path) -> None:
    """Causes and APIs are words in the Parquet files."""
    store.save(by_hand(), tmp_path)
    causes = pq.read_table(tmp_path / "refusals.parquet")["cause"].to_pylist()
    assert causes == ["pool_empty", "subnet_full", "subnet_full"]


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    """A missing file, another format and a missing column are named."""
    with pytest.raises(FileNotFoundError):
        store.load(tmp_path)
    store.save(by_hand(), tmp_path)
    table = pq.read_table(tmp_path / "pool.parquet")
    pq.write_table(table.drop_columns(["enis"]), tmp_path / "pool.parquet")
    with pytest.raises(store.StoreError, match=r"pool\.parquet has no column enis"):
        store.load(tmp_path)
    (tmp_path / store.HEADER).write_text('{"format": 99}')
    with pytest.raises(store.StoreError, match=r"no record of format 2"):
        store.load(tmp_path)


# Any record: against a reference that asks at each instant who holds what.

QUARTERS = st.integers(-20, 480).map(lambda quarter: quarter / 4)


@st.composite
def records(draw: st.DrawFn) -> RunRecord:
    """Draw pods and pools of two nodes that hold more than enough."""
    count = draw(st.integers(0, 8))
    recorder = Recorder(count)
    for pod in range(count):
        added, wait, life = draw(QUARTERS), draw(st.integers(0, 40)), draw(st.integers(0, 200))
        served = added + wait / 4 if draw(st.booleans()) else NAN
        times = (added, served + life / 4) if draw(st.booleans()) else (added,)
        place(recorder, pod, draw(st.integers(0, 1)), *times, served=served)
        if len(times) == 2 and not math.isnan(times[1]) and draw(st.booleans()):
            # It goes back to EC2 somewhere within its cooldown.
            at = times[1] + draw(st.integers(0, 119)) / 4
            recorder.cut(at, recorder.node[pod], 1, times[1] + 30.0)
    for t in sorted(draw(st.lists(QUARTERS, max_size=8))):
        addresses = draw(st.integers(20, 30))
        recorder.pool(t, draw(st.integers(0, 1)), draw(st.integers(1, 3)), 1, addresses)
    return recorder.finish(header(count), np.zeros(count))


def at_instant(record: RunRecord, t: float, node: int | None) -> dict[str, int]:
    """Work out the bands at one instant, slowly and from the words' definitions."""
    nodes = range(len(record.header.nodes)) if node is None else [node]
    found = dict.fromkeys(("held", "assigned", "cooling", "enis"), 0)
    for where in nodes:
        rows = zip(*(record.pool[name].tolist() for name in record.pool), strict=True)
        earlier = [row for row in rows if row[1] == where and row[0] <= t]
        if earlier:
            found["enis"] += earlier[-1][2]
            found["held"] += earlier[-1][4]
    for pod in range(record.header.pods):
        if record.pods["node"][pod] not in nodes:
            continue
        served, released = record.pods["served_at"][pod], record.pods["released_at"][pod]
        found["assigned"] += bool(served <= t and not released <= t)
        found["cooling"] += bool(released <= t < released + record.header.cooldown_s)
    for at, where, count, until in zip(*record.cut.values(), strict=True):
        if where in nodes and at <= t < until:
            found["cooling"] -= int(count)
    found["idle"] = found["held"] - found["assigned"] - found["cooling"]
    return found


@given(record=records(), node=st.sampled_from([None, 0, 1]))
def test_steps_agree_with_a_slow_reference(record: RunRecord, node: int | None) -> None:
    """At every quarter of a second the steps say what the definitions say."""
    quarters = np.arange(0, 401) / 4
    slow = [at_instant(record, t, node) for t in quarters.tolist()]
    name = None if node is None else record.header.nodes[node]
    if any(min(state.values()) < 0 for state in slow[:-1]):
        with pytest.raises(metrics.UnbalancedBooksError):
            metrics.steps(record, node=name)
        return
    frame = metrics.steps(record, node=name)
    assert frame["t"].is_monotonic_increasing
    assert frame["t"].is_unique
    assert frame["lasts_s"].sum() == 100.0
    row = np.searchsorted(frame["t"].to_numpy(), quarters, side="right") - 1
    for band in ("held", "assigned", "cooling", "enis"):
        expected = [state[band] for state in slow]
        assert frame[band].to_numpy()[row].tolist() == expected
    # 0 to 100 s in quarters: each state but the last holds for one of them.
    assert metrics.time_weighted(frame, "held").mean == pytest.approx(
        np.mean([state["held"] for state in slow[:-1]])
    )


@given(record=records(), points=st.integers(1, 30))
def test_timelines_keep_means_and_peaks(record: RunRecord, points: int) -> None:
    """However coarse the grid, the means average to the mean and the peaks peak at the max."""
    try:
        frame = metrics.steps(record)
    except metrics.UnbalancedBooksError:
        return
    spread = metrics.time_weighted(frame, "held")
    mean = metrics.timeline(record, points, how="mean")
    assert mean["held"].mean() == pytest.approx(spread.mean)
    stacked = mean["assigned"] + mean["cooling"] + mean["idle"]
    assert stacked.to_numpy() == pytest.approx(mean["held"].to_numpy())
    assert metrics.timeline(record, points, how="max")["held"].max() == spread.max
