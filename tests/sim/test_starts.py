"""Nodes that start together: what they ask for, and how EC2's rates hold them up."""

import numpy as np
import pytest

from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.settings import Settings
from sim import metrics, starts
from sim.cloud_numbers import CloudNumbers
from sim.node_type import named
from sim.starts import Start, started

M5 = named("m5.large")
SMALL = Start(M5, Settings(), 5, pods=4, behaviour=UPSTREAM)


def test_every_node_gets_its_pods_at_once() -> None:
    """As many nodes start as were asked for, each with the same number of pods."""
    record = started(SMALL)

    assert starts.figures(record)["nodes"] == 5
    assert np.bincount(record.pods["node"]).tolist() == [4] * 5
    assert not np.isnan(record.pods["served_at"]).any()


def test_few_nodes_are_not_held_up() -> None:
    """Buckets are full at first, so five nodes are there within seconds and none is throttled."""
    found = starts.figures(started(SMALL))

    assert found["throttled"] == 0
    assert 0 < found["half_s"] <= found["all_s"] < 10


@pytest.mark.parametrize("behaviour", [UPSTREAM, NATIVE], ids=lambda one: one.name)
def test_a_start_cannot_beat_the_buckets(behaviour: Behaviour) -> None:
    """No API's last call comes earlier than the calls that succeeded could be accepted."""
    numbers = starts.scaled(0.1)
    record = started(Start(M5, Settings(), 40, behaviour=behaviour, numbers=numbers))

    floors = starts.floors(record, numbers)

    assert len(floors) >= 3
    frame = metrics.calls(record)
    for api, row in floors.iterrows():
        mine = frame[(frame["api"] == api) & (frame["error"] == "")]
        assert mine["ended"].max() - starts.BATCH_S >= row["floor_s"] - 0.2
    assert starts.figures(record)["throttled"] > 0


def test_batches_start_one_after_the_other() -> None:
    """Pods of a later batch have their addresses later by at least the time between."""
    batched = Start(M5, Settings(), 4, pods=4, behaviour=UPSTREAM, batch=2, every_s=60.0)

    served_at = np.sort(started(batched).pods["served_at"])

    assert served_at[8] - served_at[0] == pytest.approx(60.0, abs=5.0)


def test_the_course_ends_at_all_pods() -> None:
    """Shares grow from nothing to 100 %, and a table has a row for each run."""
    records = starts.grown({"small": SMALL}, [2, 3])

    course = starts.addressed({"small": records["small", 3]}, until_s=60.0, points=61)["small"]

    assert course.is_monotonic_increasing
    assert (course.iloc[0], course.iloc[-1]) == (0.0, 100.0)
    assert starts.table(records)["nodes"].to_dict() == {("small", 2): 2, ("small", 3): 3}


def test_limits_are_scaled_and_never_nothing() -> None:
    """Half of the rate is half of each bucket; of the smallest something is left."""
    half = starts.scaled(0.5)

    api = "AssignPrivateIpAddresses"
    whole = CloudNumbers.load()
    assert half.buckets[api].size == whole.buckets[api].size // 2
    assert half.buckets[api].refill_per_s == whole.buckets[api].refill_per_s / 2
    assert min(limit.size for limit in starts.scaled(0.001).buckets.values()) == 1
    assert starts.buckets(half).loc[api].tolist() == [50, 2.5]
    with pytest.raises(ValueError, match="something must be left"):
        starts.scaled(0.0)
