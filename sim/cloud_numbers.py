"""How EC2 behaves, in numbers: read from `sim/data/ec2.toml`, or from a file laid over it.

Numbers are data (dated, with source and grade), so that they can be replaced by what somebody
measured in an account of their own. A file that makes no sense is refused whole, with the file,
the key and what is allowed.
"""

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from statistics import NormalDist
from typing import Any

from sim.buckets import BucketLimit

_STANDARD_NORMAL = NormalDist()
_Z99 = _STANDARD_NORMAL.inv_cdf(0.99)
_NOTES = ("source", "grade")

Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delay:
    """A log-normal time in seconds, of which the slowest `tail_share` reach to `tail_max_s`."""

    median_s: float
    sigma: float
    tail_share: float = 0.0
    tail_max_s: float = 0.0

    @classmethod
    def of_mean(cls, mean_s: float, cv: float) -> "Delay":
        """Make one from its mean and its coefficient of variation.

        >>> round(Delay.of_mean(0.438, 0.5).median_s, 3)
        0.392
        """
        variance = math.log1p(cv * cv)
        return cls(mean_s * math.exp(-variance / 2), math.sqrt(variance))

    @classmethod
    def of_p99(
        cls, median_s: float, p99_s: float, tail_share: float = 0.0, tail_max_s: float = 0.0
    ) -> "Delay":
        """Make one from its median and its 99th percentile, with a tail if there is one."""
        sigma = math.log(p99_s / median_s) / _Z99 if median_s > 0 else 0.0
        return cls(median_s, sigma, tail_share, tail_max_s)

    def at(self, u: float) -> float:
        """Return the quantile in seconds: the share `u` of all delays, in (0, 1), is shorter."""
        if self.median_s == 0:
            return 0.0
        body = 1 - self.tail_share
        seconds = self.median_s * math.exp(self.sigma * _STANDARD_NORMAL.inv_cdf(min(u, body)))
        if u <= body:
            return seconds
        return seconds + (u - body) / self.tail_share * max(self.tail_max_s - seconds, 0)


INSTANT = Delay(0.0, 0.0)
"""No time at all."""


@dataclass(frozen=True, slots=True)
class SdkNumbers:
    """What the SDK does by itself: attempts in all, back-off between them, time-out, in seconds."""

    attempts: int
    backoff_base_s: float
    backoff_max_s: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class CloudNumbers:
    """All numbers of the simulated EC2; times are seconds, tables are by name of the API."""

    buckets: Mapping[str, BucketLimit] = field(hash=False)
    latencies: Mapping[str, Delay] = field(hash=False)
    eni_visible: Delay
    copy_lag: Delay
    detach_min_s: float
    detach_max_s: float
    sdk: SdkNumbers
    enis_per_region: int

    @classmethod
    def load(cls, path: Path | None = None) -> "CloudNumbers":
        """Read the shipped numbers, with those of the file at `path` in place of theirs.

        Raises ValueError with the file, the key and what is allowed; OSError where the file
        cannot be read.
        """
        shipped = files("sim").joinpath("data/ec2.toml").read_text(encoding="utf-8")
        tables = tomllib.loads(shipped)
        if path is None:
            return cls._of(_Reader("sim/data/ec2.toml"), tables)
        try:
            own = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            message = f"{path}: not TOML: {error}"
            raise ValueError(message) from error
        reader = _Reader(str(path))
        return cls._of(reader, reader.overlay(tables, own))

    @classmethod
    def load_means(cls) -> dict[str, tuple[float, float]]:
        """Return the shipped latencies as the file has them: mean in seconds, and cv."""
        shipped = files("sim").joinpath("data/ec2.toml").read_text(encoding="utf-8")
        latencies = tomllib.loads(shipped)["latencies"]
        return {api: (entry["mean_s"], entry["cv"]) for api, entry in latencies.items()}

    @classmethod
    def instant(cls) -> "CloudNumbers":
        """Return an EC2 that answers at once, shows everything at once and refuses no rate."""
        return cls(
            buckets={},
            latencies={},
            eni_visible=INSTANT,
            copy_lag=INSTANT,
            detach_min_s=0.0,
            detach_max_s=0.0,
            sdk=SdkNumbers(attempts=3, backoff_base_s=0.0, backoff_max_s=0.0, timeout_s=0.0),
            enis_per_region=1_000_000,
        )

    @classmethod
    def _of(cls, reader: "_Reader", tables: Table) -> "CloudNumbers":
        """Turn checked tables into numbers."""
        visible = tables["metadata"]["eni_visible"]
        lag = tables["metadata"]["copy_lag"]
        gone = tables["detach"]["gone"]
        retry = tables["sdk"]["retry"]
        timeout = tables["sdk"]["request_timeout"]
        enis = tables["quotas"]["enis_per_region"]
        detach_min_s = reader.at_least(gone, "detach.gone.min_s", 0)
        return cls(
            buckets={
                api: reader.bucket(entry, f"buckets.{api}")
                for api, entry in tables["buckets"].items()
            },
            latencies={
                api: Delay.of_mean(
                    reader.at_least(entry, f"latencies.{api}.mean_s", 0),
                    reader.at_least(entry, f"latencies.{api}.cv", 0),
                )
                for api, entry in tables["latencies"].items()
            },
            eni_visible=reader.delay(visible, "metadata.eni_visible"),
            copy_lag=reader.delay(lag, "metadata.copy_lag"),
            detach_min_s=detach_min_s,
            detach_max_s=reader.at_least(gone, "detach.gone.max_s", detach_min_s),
            sdk=SdkNumbers(
                attempts=reader.whole(retry, "sdk.retry.attempts"),
                backoff_base_s=reader.at_least(retry, "sdk.retry.backoff_base_s", 0),
                backoff_max_s=reader.at_least(retry, "sdk.retry.backoff_max_s", 0),
                timeout_s=reader.at_least(timeout, "sdk.request_timeout.seconds", 0),
            ),
            enis_per_region=reader.whole(enis, "quotas.enis_per_region.count"),
        )


class _Reader:
    """Reads values of one file and says where a bad one stands."""

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def overlay(self, tables: Table, own: Table, where: str = "") -> dict[str, Any]:
        """Return `tables` with the values of `own` in their places; keys must be known."""
        merged = dict(tables)
        for key, value in own.items():
            name = f"{where}{key}"
            if key in _NOTES or name in ("dated", "sources"):
                continue
            if key not in tables:
                raise self._error(name, f"is unknown{self._near(key, tables)}")
            if isinstance(tables[key], dict):
                if not isinstance(value, dict):
                    raise self._error(name, f"must be a table, not {value!r}")
                merged[key] = self.overlay(tables[key], value, f"{name}.")
            else:
                merged[key] = value
        return merged

    def at_least(self, entry: Table, name: str, lowest: float) -> float:
        """Return the number that `name` ends with."""
        value = self._get(entry, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < lowest:
            raise self._error(name, f"must be a number from {lowest:g}, not {value!r}")
        return float(value)

    def whole(self, entry: Table, name: str) -> int:
        """Return the positive whole number that `name` ends with."""
        value = self._get(entry, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._error(name, f"must be a whole number from 1, not {value!r}")
        return value

    def bucket(self, entry: Table, name: str) -> BucketLimit:
        """Return a request bucket."""
        refill_per_s = self.at_least(entry, f"{name}.refill_per_s", 0)
        return BucketLimit(self.whole(entry, f"{name}.size"), refill_per_s)

    def delay(self, entry: Table, name: str) -> Delay:
        """Return a delay that is given by median and 99th percentile, perhaps with a tail."""
        median_s = self.at_least(entry, f"{name}.median_s", 0)
        p99_s = self.at_least(entry, f"{name}.p99_s", median_s)
        if "tail_share" not in entry:
            return Delay.of_p99(median_s, p99_s)
        share = self.at_least(entry, f"{name}.tail_share", 0)
        if share >= 1:
            raise self._error(f"{name}.tail_share", f"must be below 1, not {share:g}")
        return Delay.of_p99(
            median_s, p99_s, share, self.at_least(entry, f"{name}.tail_max_s", p99_s)
        )

    def _get(self, entry: Table, name: str) -> Any:  # noqa: ANN401 - TOML values are anything
        key = name.rpartition(".")[2]
        if key not in entry:
            raise self._error(name, "is missing")
        return entry[key]

    def _error(self, name: str, problem: str) -> ValueError:
        return ValueError(f"{self._origin}: {name} {problem}")

    @staticmethod
    def _near(key: str, known: Iterable[str]) -> str:
        near = difflib.get_close_matches(key, known)
        return f"; did you mean {' or '.join(near)}?" if near else ""
