"""Request buckets let through exactly what EC2's numbers say."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.buckets import BucketLimit, RequestBuckets
from sim.cloud_numbers import CloudNumbers

ATTACH = "AttachNetworkInterface"


def test_150_attaches_need_20_seconds() -> None:
    """A burst of 50, then 5 a second: the 150th attach passes at 20 s and not before."""
    buckets = RequestBuckets(CloudNumbers.load().buckets)
    passed: list[float] = []
    for tenth in range(300):
        now = tenth / 10
        while len(passed) < 150 and buckets.take(ATTACH, now):
            passed.append(now)

    assert passed.count(0.0) == 50
    assert passed[-1] == 20.0


def test_asking_often_neither_gains_nor_loses_tokens() -> None:
    """After 200,000 questions at odd instants the count is exact: no drift."""
    buckets = RequestBuckets({ATTACH: BucketLimit(50, 5)})
    rng = random.Random(3)
    now = 0.0
    passed = 0
    for _ in range(200_000):
        now += rng.random() * 0.01
        passed += buckets.take(ATTACH, now)

    assert passed == 50 + int(now * 5)


def test_a_full_bucket_does_not_grow() -> None:
    """A week of rest gives a burst of 50 and no more."""
    buckets = RequestBuckets({ATTACH: BucketLimit(50, 5)})

    assert sum(buckets.take(ATTACH, 604_800.0) for _ in range(60)) == 50


def test_apis_do_not_share_a_bucket_and_unknown_ones_have_none() -> None:
    """EC2 counts each API by itself; what has no bucket is never refused."""
    buckets = RequestBuckets({ATTACH: BucketLimit(1, 1), "DescribeSubnets": BucketLimit(1, 1)})

    assert [buckets.take(ATTACH, 0) for _ in range(2)] == [True, False]
    assert buckets.take("DescribeSubnets", 0)
    assert all(buckets.take("ReadMetadata", 0) for _ in range(1000))


def test_time_cannot_run_backwards() -> None:
    """An earlier instant than the last one is a mistake of the caller."""
    buckets = RequestBuckets({ATTACH: BucketLimit(1, 1)})
    buckets.take(ATTACH, 5.0)

    with pytest.raises(AssertionError):
        buckets.take(ATTACH, 4.0)


@settings(max_examples=50, deadline=None)
@given(
    size=st.integers(1, 20),
    rate=st.sampled_from([0.5, 1, 3, 7.25]),
    gaps=st.lists(st.integers(0, 3000), max_size=60),
)
def test_a_bucket_never_lets_more_through_than_size_and_rate(
    size: int, rate: float, gaps: list[int]
) -> None:
    """In any window of t seconds at most size + rate * t requests pass."""
    buckets = RequestBuckets({ATTACH: BucketLimit(size, rate)})
    now_ms = 0
    passed: list[int] = []
    for gap in gaps:
        now_ms += gap
        if buckets.take(ATTACH, now_ms / 1000):
            passed.append(now_ms)
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            window_s = (passed[last] - start) / 1000
            assert last - first + 1 <= size + rate * window_s + 1e-9
