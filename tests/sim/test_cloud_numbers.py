"""The numbers are the published ones, and a file that makes no sense is refused whole."""

import pickle
import tomllib
from pathlib import Path

import pytest

from cni.cloud.calls import MUTATING
from sim.cloud_numbers import CloudNumbers, Delay
from sim.streams import Draws

SHIPPED = Path(__file__).parents[2] / "sim" / "data" / "ec2.toml"


def test_the_shipped_numbers_say_where_they_come_from() -> None:
    """Every entry names a known source and a grade from A to D."""
    tables = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    sources = tables.pop("sources")
    tables.pop("dated")

    entries = [entry for table in tables.values() for entry in table.values()]
    assert len(entries) > 20
    assert all(entry["source"] in sources and entry["grade"] in "ABCD" for entry in entries)
    assert {entry["source"] for entry in entries} == set(sources)


def test_every_mutating_api_has_a_bucket_and_a_latency() -> None:
    """A forgotten API would be free of charge without anybody noticing."""
    numbers = CloudNumbers.load()

    assert numbers.buckets.keys() >= MUTATING
    assert numbers.latencies.keys() >= MUTATING
    assert numbers.buckets["AttachNetworkInterface"].size == 50
    assert numbers.sdk.attempts == 3
    assert numbers.enis_per_region == 5000


def test_numbers_are_values() -> None:
    """They compare, hash and pickle, so that a sweep can be cached and spread over processes."""
    numbers = CloudNumbers.load()

    copy = pickle.loads(pickle.dumps(numbers))  # noqa: S301 - our own bytes
    assert copy == numbers == CloudNumbers.load()
    assert hash(copy) == hash(numbers)
    assert numbers != CloudNumbers.instant()


def test_latencies_have_the_published_mean() -> None:
    """A log-normal by mean and coefficient of variation has this mean."""
    delay = CloudNumbers.load().latencies["AttachNetworkInterface"]
    draws = Draws(1, "test")

    mean = sum(delay.at(draws.uniform("x")) for _ in range(20_000)) / 20_000
    assert mean == pytest.approx(0.438, rel=0.02)


def test_visibility_has_the_published_quantiles_and_a_tail() -> None:
    """Median 3 s, p99 20 s, and one in a thousand up to 150 s; longer for a larger share."""
    delay = CloudNumbers.load().eni_visible

    assert delay.at(0.5) == pytest.approx(3)
    assert delay.at(0.99) == pytest.approx(20)
    assert delay.at(0.999) < 40
    assert delay.at(0.9999) > 120
    assert delay.at(1 - 1e-12) == pytest.approx(150, rel=1e-3)
    shares = [number / 10_000 for number in range(1, 10_000)]
    times = [delay.at(share) for share in shares]
    assert times == sorted(times)


def test_no_time_is_exactly_zero() -> None:
    """A delay of mean zero is zero at every quantile."""
    assert Delay.of_mean(0, 0.5).at(0.99) == 0
    assert Delay.of_p99(0, 0).at(0.5) == 0


def test_a_file_of_the_user_replaces_single_numbers(tmp_path: Path) -> None:
    """What the file does not mention stays as shipped."""
    path = tmp_path / "mine.toml"
    path.write_text(
        '[buckets]\nAttachNetworkInterface = { size = 200, grade = "K" }\n'
        "[quotas.enis_per_region]\ncount = 20000\n",
        encoding="utf-8",
    )

    numbers = CloudNumbers.load(path)

    assert numbers.buckets["AttachNetworkInterface"].size == 200
    assert numbers.buckets["AttachNetworkInterface"].refill_per_s == 5
    assert numbers.enis_per_region == 20_000
    assert numbers.latencies == CloudNumbers.load().latencies


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[buckets]\nAttachNetworkInterfaces = { size = 1 }",
            "did you mean AttachNetworkInterface",
        ),
        ("[bukets]\nx = 1", r"bukets is unknown; did you mean buckets\?"),
        ("[buckets.DescribeSubnets]\nsize = 0", "size must be a whole number from 1, not 0"),
        ("[buckets.DescribeSubnets]\nsize = true", "whole number from 1, not True"),
        ("[buckets.DescribeSubnets]\nrefill_per_s = -1", "must be a number from 0, not -1"),
        ("[latencies.ReadMetadata]\nmean_s = 'fast'", "must be a number from 0, not 'fast'"),
        ("[latencies.ReadMetadata]\nmean_s = nan", "must be a number from 0, not nan"),
        ("[metadata.copy_lag]\np99_s = 0.5", "p99_s must be a number from 1, not 0.5"),
        ("[metadata.eni_visible]\ntail_share = 1", "tail_share must be below 1"),
        ("[detach.gone]\nmax_s = 1", "max_s must be a number from 2, not 1"),
        ("[detach]\ngone = 3", "detach.gone must be a table, not 3"),
        ("[detach", "not TOML"),
    ],
)
def test_a_bad_file_is_refused_with_file_key_and_reason(
    tmp_path: Path, text: str, says: str
) -> None:
    """The message leads to the line and says what would be right."""
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ValueError, match=says) as refused:
        CloudNumbers.load(path)
    assert str(path) in str(refused.value)
