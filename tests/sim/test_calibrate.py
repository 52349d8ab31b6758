"""Latencies out of metrics: what was put in comes out; what cannot be known stays as shipped."""

import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Summary, generate_latest

from sim.calibrate import COUNT, METRIC, SUM, Fit, Sample, fit, overlay, parse
from sim.cloud_numbers import CloudNumbers, Delay
from sim.streams import Draws

QUANTILES = (0.5, 0.9, 0.99)


def scrape(
    api: str, delay: Delay | None = None, calls: int = 1000, *, labels: str = "", mean_ms: float = 0
) -> str:
    """Expose a summary as a Go daemon with objectives would: draws of a delay, or a mean alone."""
    series = f'api="{api}",error="false",status="200"{labels}'
    lines = [f"# TYPE {METRIC} summary"]
    total = calls * mean_ms
    if delay is not None:
        draws = Draws(3, api)
        drawn = sorted(1000 * delay.at(draws.uniform("x")) for _ in range(calls))
        total = sum(drawn)
        lines += [f'{METRIC}{{{series},quantile="{q}"}} {drawn[int(q * calls)]}' for q in QUANTILES]
    lines += [f"{SUM}{{{series}}} {total}", f"{COUNT}{{{series}}} {calls}"]
    return "\n".join(lines) + "\n"


def fits(text: str, samples_min: int = 30) -> dict[str, Fit]:
    """Fit a text."""
    return {one.api: one for one in fit(parse(text, "test"), "test", samples_min=samples_min)}


def test_what_was_put_in_comes_out(tmp_path: Path) -> None:
    """Calls of known mean and spread, exposed, fitted, written, loaded: the same delay again."""
    delays = {
        "AttachNetworkInterface": Delay.of_mean(0.9, 0.8),
        "AssignPrivateIpAddresses": Delay.of_mean(0.2, 0.3),
    }
    text = "".join(scrape(api, delay, 20_000) for api, delay in delays.items())
    path = tmp_path / "mine.toml"
    path.write_text(overlay(fit(parse(text, "test"), "test"), "test", "2026-11-23"))

    loaded, shipped = CloudNumbers.load(path), CloudNumbers.load()

    for api, delay in delays.items():
        assert loaded.latencies[api].median_s == pytest.approx(delay.median_s, rel=0.02)
        assert loaded.latencies[api].sigma == pytest.approx(delay.sigma, rel=0.05)
    others = shipped.latencies.keys() - delays.keys()
    assert all(loaded.latencies[api] == shipped.latencies[api] for api in others)
    assert loaded.buckets == shipped.buckets


def test_a_summary_without_quantiles_gives_the_mean_alone() -> None:
    """Upstream's daemon, and ours, tell sums and counts: the spread stays as shipped, and is so."""
    found = fits(scrape("CreateNetworkInterface", calls=50, mean_ms=240))["CreateNetworkInterface"]
    assert (found.mean_s, found.mean_fitted) == (pytest.approx(0.24), True)
    assert (found.cv, found.cv_fitted, found.why) == (0.5, False, "no quantiles: cv as shipped")
    assert "cv =" not in overlay([found], "test", "2026-11-23").partition("[latencies]")[2]


def test_the_summary_of_our_own_daemon_is_read() -> None:
    """What prometheus_client writes, `_created` and comments and all."""
    registry = CollectorRegistry()
    summary = Summary(METRIC, "x", ["api", "error", "status"], registry=registry)
    for _ in range(40):
        summary.labels("DetachNetworkInterface", "false", "200").observe(300)
        summary.labels("DetachNetworkInterface", "true", "").observe(9000)
    found = fits(generate_latest(registry).decode())["DetachNetworkInterface"]
    assert (found.samples, found.mean_s) == (40, pytest.approx(0.3))


def test_too_few_calls_leave_the_shipped_figure() -> None:
    """29 calls are one too few, and no call is none; what is said tells which."""
    text = scrape("DescribeSubnets", calls=29, mean_ms=500) + scrape(
        "DeleteNetworkInterface", calls=0
    )
    found = fits(text)
    shipped = CloudNumbers.load_means()["DescribeSubnets"][0]
    assert found["DescribeSubnets"].mean_s == shipped
    assert (found["DescribeSubnets"].samples, found["DescribeSubnets"].mean_fitted) == (29, False)
    assert found["DescribeSubnets"].why == "fewer than 30 calls: as shipped"
    assert found["DeleteNetworkInterface"].why == "no call: as shipped"
    assert fits(text, samples_min=29)["DescribeSubnets"].mean_s == pytest.approx(0.5)
    with pytest.raises(ValueError, match="nothing to write"):
        overlay(found.values(), "test", "2026-11-23")


def test_nodes_are_added_up_by_their_calls() -> None:
    """A node with nine times the calls weighs nine times as much; two statuses are two series."""
    text = scrape("DescribeInstances", calls=900, mean_ms=100, labels=',instance="a"')
    text += scrape("DescribeInstances", calls=100, mean_ms=600, labels=',instance="b"')
    found = fits(text)["DescribeInstances"]
    assert (found.samples, found.series) == (1000, 2)
    assert found.mean_s == pytest.approx(0.15)
    assert fits(text.replace('"b"', '"a"'))["DescribeInstances"].mean_s == pytest.approx(0.15)


def test_names_of_upstream_are_ours_and_strangers_are_told() -> None:
    """GetMetadata is ReadMetadata here; CreateFleet is in no model, and in no overlay."""
    found = fits(scrape("GetMetadata", calls=99, mean_ms=0.06) + scrape("CreateFleet", mean_ms=112))
    assert found["ReadMetadata"].mean_s == pytest.approx(6e-5)
    assert (found["CreateFleet"].why, found["CreateFleet"].mean_fitted) == (
        "not in the model",
        False,
    )
    assert "CreateFleet" not in overlay(found.values(), "test", "2026-11-23")


def test_quantiles_with_too_few_calls_beyond_them_do_not_count() -> None:
    """Of 90 calls nine are beyond the 90th percentile: one quantile is left, and no slope."""
    delay = Delay.of_mean(0.5, 0.9)
    assert not fits(scrape("DescribeSubnets", delay, 90))["DescribeSubnets"].cv_fitted
    assert fits(scrape("DescribeSubnets", delay, 110))["DescribeSubnets"].cv_fitted
    stale = scrape("DescribeSubnets", delay, 110)
    gone = "".join(
        f"{line.rpartition(' ')[0]} NaN\n" if "quantile" in line else f"{line}\n"
        for line in stale.splitlines()
    )
    assert fits(gone)["DescribeSubnets"].why == "no quantiles: cv as shipped"


def test_the_answer_of_a_prometheus_server_is_the_same_as_scrapes() -> None:
    """The instant vector of all series gives the same fits as the text they came from."""
    text = scrape("AttachNetworkInterface", Delay.of_mean(0.4, 0.4), 500)
    result = [
        {"metric": {"__name__": one.name, **one.labels}, "value": [1.7e9, str(one.value)]}
        for one in parse(text, "test")
    ]
    answer = {"status": "success", "data": {"resultType": "vector", "result": result}}
    assert fits(json.dumps(answer)) == fits(text)


GOOD = 'awscni_aws_api_latency_ms_count{api="X"} 3'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", f"no {COUNT}"),
        ("<html>not found</html>", f"no {COUNT}"),
        (f"{METRIC}_count", "line 1: not a sample"),
        (f'{GOOD}\n{METRIC}_sum{{api="X"', "line 2: not a sample"),
        (f"{METRIC}_count{{api=X}} 3", "line 1: labels that are none"),
        (f'{METRIC}_count{{api="X"}} many', "line 1: the value is no number: 'many'"),
        (f'{METRIC}_count{{api="X"}} -3', "of X is -3: must be 0 or more"),
        (f'{METRIC}_sum{{api="X"}} NaN\n{GOOD}', "of X is nan: must be"),
        (f'{METRIC}{{api="X",quantile="half"}} 1\n{GOOD}', "quantile of X: the value is no"),
        ("{", "not JSON"),
        ("{" * 100_000, "not JSON"),
        ('{"status":"error","error":"no such query"}', "status success: no such query"),
        ('{"status":"success","data":[]}', "not an instant vector"),
        ('{"status":"success","data":{"resultType":"matrix"}}', "not an instant vector"),
        ('{"status":"success","data":{"resultType":"vector","result":[3]}}', "result 0: not a"),
        ('{"status":"success","data":{"resultType":"vector","result":[]}}', f"no {COUNT}"),
    ],
)
def test_bad_text_is_refused_in_one_line(text: str, says: str) -> None:
    """The line names the origin, the place and what is wrong."""
    with pytest.raises(ValueError, match=r"nodes\.txt") as refused:
        fit(parse(text, "nodes.txt"), "nodes.txt")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_labels_may_hold_anything() -> None:
    """Escaped quotes, braces, commas and a time stamp do not end a sample."""
    (one,) = parse(f'{METRIC}_count{{api="X",zone="a\\"}},{{b",}} 3 1700000000000', "test")
    assert one == Sample(COUNT, {"api": "X", "zone": 'a\\"},{b'}, 3.0)
