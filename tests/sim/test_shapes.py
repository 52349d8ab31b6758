"""Generated traces: rates, lives and peaks are what was asked for, and seeds repeat them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.sources.shapes import (
    SHAPES,
    day,
    generate,
    job,
    minute_jobs,
    rolling_restart,
    scale,
    steady,
)
from sim.trace import Trace, TraceError, describe, validate


def alive_at(trace: Trace, instant_s: float) -> int:
    """Return how many pods are alive at an instant."""
    come = trace.arrival_s <= instant_s
    return int((come & (trace.departure_s() > instant_s)).sum())


@pytest.mark.parametrize("name", SHAPES)
def test_a_seed_repeats_a_shape(name: str) -> None:
    """Equal seeds give equal pods, other seeds others; the defaults give a valid trace."""
    first, again, other = (generate(name, {}, seed=seed) for seed in (1, 1, 2))

    validate(first)
    assert np.array_equal(first.arrival_s, again.arrival_s)
    assert np.array_equal(first.life_s, again.life_s)
    assert not np.array_equal(first.life_s, other.life_s)
    assert first.origin.startswith(f"{name}(")
    assert first.origin.endswith(", seed=1)")


@pytest.mark.parametrize("name", SHAPES)
def test_times_are_whole_milliseconds(name: str) -> None:
    """Every arrival and known life is written with at most three decimals."""
    trace = generate(name, {})
    for column in (trace.arrival_s, trace.life_s[np.isfinite(trace.life_s)]):
        assert all(len(repr(value).partition(".")[2]) <= 3 for value in column.tolist())


@pytest.mark.parametrize("life", ["log-normal", "exponential", "fixed"])
def test_steady_is_steady_from_the_start(life: str) -> None:
    """Arrivals come at the rate, lives have their mean, and as many are alive at 0 as later."""
    trace = steady(
        rate_per_s=2.0, mean_life_s=500.0, life=life, sigma=1.0, duration_s=20_000.0, seed=3
    )
    born = trace.arrival_s > 0

    # Four standard deviations: of a Poisson count, and of a mean of lives.
    assert abs(int(born.sum()) - 40_000) < 4 * math.sqrt(40_000)
    deviation = {"log-normal": math.sqrt(math.e - 1), "exponential": 1.0, "fixed": 0.0}[life]
    assert abs(trace.life_s[born].mean() - 500) <= 4 * 500 * deviation / math.sqrt(40_000) + 1e-3
    for instant in (0.0, 400.0, 5_000.0, 19_999.0):
        assert abs(alive_at(trace, instant) - 1000) < 4.5 * math.sqrt(1000)


def test_log_normal_lives_have_the_spread_asked_for() -> None:
    """The ratio of p90 to median is exp(1.2816 sigma)."""
    trace = steady(rate_per_s=20.0, mean_life_s=60.0, sigma=1.5, duration_s=5000.0, seed=1)
    lives = trace.life_s[trace.arrival_s > 0]

    ratio = float(np.quantile(lives, 0.9) / np.median(lives))
    assert ratio == pytest.approx(math.exp(1.2816 * 1.5), rel=0.05)


def test_a_rolling_restart_never_has_too_few_or_too_many() -> None:
    """At every instant there are between all pods and all pods and one batch."""
    trace = rolling_restart(
        pods=170, batch=43, between_s=30, ready_s=10, restarts=2, rest_s=300, seed=5
    )
    counts = [alive_at(trace, instant) for instant in np.unique(trace.arrival_s)]

    assert len(trace) == 3 * 170
    assert min(counts) == 170
    assert max(counts) == 170 + 43
    assert alive_at(trace, trace.end_s) == 170
    assert describe(trace).arrivals_worst_5_s == 170


def test_scale_goes_up_and_down() -> None:
    """N pods are alive through every hold and none between; the ramp is even."""
    trace = scale(pods=130, ramp_s=60, hold_s=600, rest_s=300, repeats=3, seed=1)

    assert len(trace) == 390
    assert describe(trace).peak_pods == 130
    for cycle in range(3):
        start = 300 + cycle * 1020
        assert alive_at(trace, start - 1) == 0
        assert alive_at(trace, start + 30) == pytest.approx(65, abs=1)
        assert alive_at(trace, start + 60) == 130
        assert alive_at(trace, start + 659) == 130
        assert alive_at(trace, start + 690) == pytest.approx(65, abs=2)
    assert alive_at(trace, trace.end_s) == 0


def test_scale_can_go_at_once() -> None:
    """With a ramp of 0 s all pods come and go in one instant."""
    trace = scale(pods=50, ramp_s=0, hold_s=10, rest_s=0, repeats=1)

    assert trace.arrival_s.tolist() == [0.0] * 50
    assert trace.life_s.tolist() == [10.0] * 50


def test_jobs_come_with_the_minute() -> None:
    """Every job has a pod in the first two seconds of each minute, that lives 30 to 50 s."""
    trace = minute_jobs(jobs=20, duration_s=600, seed=2)

    assert len(trace) == 200
    assert np.bincount((trace.arrival_s // 60).astype(int)).tolist() == [20] * 10
    assert float((trace.arrival_s % 60).max()) <= 2.0
    assert (float(trace.life_s.min()) >= 30, float(trace.life_s.max()) <= 50) == (True, True)
    assert describe(trace).peak_pods == 20


def test_a_job_keeps_to_its_parallelism() -> None:
    """Never more pods than asked for at once, a gap after each, and the published 17 minutes."""
    trace = job(seed=4)
    figures = describe(trace)

    assert (figures.pods, figures.peak_pods) == (1000, 50)
    took_s = float(trace.departure_s().max()) - 60
    assert 16 * 60 < took_s < 20 * 60
    ended = np.sort(trace.departure_s())
    later = trace.arrival_s[50:]
    assert np.allclose(later, ended[: len(later)] + 3.0, atol=0.01)


def test_a_narrow_job_may_be_wider_than_its_pods() -> None:
    """A job of three pods, ten wide, starts all three at once."""
    trace = job(completions=3, parallelism=10, start_s=5)

    assert trace.arrival_s.tolist() == [5.0] * 3


def test_a_day_has_its_peaks() -> None:
    """Around the peaks arrivals come at the peak rate, at night at the base rate."""
    trace = day(base_rate_per_s=0.1, peak_rate_per_s=2.0, width_h=1.0, days=2, seed=6)

    def rate_around(hour: float) -> float:
        near_hour = np.abs(trace.arrival_s[trace.arrival_s > 0] / 3600 % 24 - hour) < 0.25
        return float(near_hour.sum()) / (2 * 1800)

    assert rate_around(10) == pytest.approx(2.0, rel=0.1)
    assert rate_around(20) == pytest.approx(2.0, rel=0.1)
    assert rate_around(4) == pytest.approx(0.1, rel=0.25)
    assert trace.end_s == 2 * 86_400


@given(
    name=st.sampled_from(sorted(SHAPES)),
    data=st.data(),
)
@settings(max_examples=120, deadline=None)
def test_any_settings_give_a_trace_or_a_refusal(name: str, data: st.DataObject) -> None:
    """Whatever numbers a shape is given, the trace is valid or the refusal is one line."""
    numbers = st.sampled_from(
        [
            "0",
            "1",
            "2",
            "7",
            "0.001",
            "0.5",
            "30",
            "-1",
            "nan",
            "inf",
            "1e9",
            "1e13",
            "x",
            "",
            "fixed",
        ]
    )
    names = [parameter.name for parameter in SHAPES[name].parameters]
    chosen = data.draw(st.dictionaries(st.sampled_from(names), numbers, max_size=3))
    try:
        trace = generate(name, chosen, seed=1)
    except TraceError as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017 - either outcome is right.
        return
    validate(trace)


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("stedy", {}, 'shape: "stedy": no such shape; did you mean "steady"?'),
        ("steady", {"rate": "1"}, 'did you mean "rate_per_s"?'),
        ("steady", {"rate_per_s": "x"}, 'rate_per_s: "x": not a number (allowed: above 0)'),
        ("steady", {"rate_per_s": "0"}, 'rate_per_s: "0.0": not possible (allowed: above 0)'),
        ("steady", {"life": "lognormal"}, 'did you mean "log-normal"?'),
        ("steady", {"rate_per_s": "1e9"}, "at most 20,000,000"),
        ("job", {"completions": "1.5"}, "not a whole number"),
        ("minute-jobs", {"life_s": "5"}, "below life_s, 5"),
        ("day", {"peak_rate_per_s": "0.001"}, "from base_rate_per_s, 0.02"),
    ],
)
def test_refusals_name_the_setting(name: str, chosen: dict[str, str], message: str) -> None:
    """A wrong shape, setting or value is named with what is allowed or was meant."""
    with pytest.raises(TraceError) as caught:
        generate(name, chosen)

    assert message in str(caught.value)


def test_shapes_describe_themselves() -> None:
    """Every shape has a summary and, for each parameter, help, type, default and bounds."""
    for shape in SHAPES.values():
        assert shape.summary
        assert shape.parameters
        for parameter in shape.parameters:
            assert isinstance(parameter.default, parameter.type), parameter
            assert parameter.help, parameter
            assert parameter.allowed, parameter
