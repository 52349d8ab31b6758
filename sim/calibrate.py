"""From the metrics of real nodes to EC2's latencies: numbers of your own account.

`awscni_aws_api_latency_ms` is a summary by api, error and status, in milliseconds; upstream's
daemon and ours expose it alike. Its _sum and _count give the mean over all calls since the
daemon's start, so that is what is fitted. Neither tells quantiles today; where a scrape has some,
the spread is fitted too, else the shipped one stays, which is an assumption.

Only calls that succeeded count: a refused one takes another time. Several nodes, restarts of a
daemon included, are added up. A figure with too few calls behind it stays as shipped.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from sim.cloud_numbers import CloudNumbers

METRIC = "awscni_aws_api_latency_ms"
SUM, COUNT = f"{METRIC}_sum", f"{METRIC}_count"
QUERY = f'{{__name__=~"{METRIC}(_sum|_count)?"}}'
"""What a Prometheus server is asked for: the newest sample of each series."""

SAMPLES_MIN = 30
"""With a coefficient of variation of 0.5, the mean of so many calls is within 18 % (two sigma)."""

SPREAD_MAX = 5.0
"""A larger coefficient of variation is no log-normal time any more but a broken metric."""

NAMES = {"GetMetadata": "ReadMetadata"}
"""What upstream calls otherwise than we do."""

_MS = 1e-3
_NORMAL = NormalDist()
_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r"(?:\{(?P<labels>(?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*)\})?"
    r"\s+(?P<value>\S+)(?:\s+-?\d+)?\s*"
)
_LABEL = re.compile(
    r"\s*(?P<key>[a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*\"(?P<value>(?:[^\"\\]|\\.)*)\"\s*,?"
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric, with its labels."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Fit:
    """One latency: what was measured, and what becomes of it.

    `mean_s` and `cv` are those to use, measured or shipped. `why` says in words what was kept of
    the shipped numbers, and is empty where nothing was. `shipped_*` are None for a call that
    the model does not know, which then is not used.
    """

    api: str
    samples: int
    series: int
    mean_s: float | None
    cv: float | None
    shipped_mean_s: float | None
    shipped_cv: float | None
    mean_fitted: bool
    cv_fitted: bool
    why: str


@dataclass(slots=True)
class _Series:
    """A summary of one node, by its labels: sum and count since its daemon's start."""

    total_ms: float = 0.0
    count: float = 0.0
    quantiles: dict[float, float] = field(default_factory=dict)


def parse(text: str, origin: str) -> list[Sample]:
    """Read the latency samples of a scrape, or of the answer of a Prometheus server in JSON.

    Other metrics are passed over. Raises ValueError in one line, with origin and place, for what
    is neither, is broken, or has no such metric.

    >>> [sample.value for sample in parse('awscni_aws_api_latency_ms_count{api="X"} 3', "x")]
    [3.0]
    """
    answer = text.lstrip().startswith("{")
    samples = list(_of_answer(text, origin) if answer else _of_scrape(text, origin))
    if not any(sample.name == COUNT for sample in samples):
        raise ValueError(
            f"{origin}: no {COUNT} in it; a node's daemon tells it on port 61678, at /metrics"
        )
    return samples


def fit(
    samples: Iterable[Sample], origin: str, *, samples_min: int = SAMPLES_MIN
) -> tuple[Fit, ...]:
    """Fit each call's latency, those that the model knows first, in its order.

    Raises ValueError for counts or sums that make no sense.
    """
    gathered = _gather(samples, origin)
    shipped = CloudNumbers.load_means()
    unknown = sorted(gathered.keys() - shipped.keys())
    return tuple(
        _fit(api, gathered.get(api, []), shipped.get(api), samples_min)
        for api in (*shipped, *unknown)
    )


def overlay(fits: Iterable[Fit], origin: str, dated: str) -> str:
    """Return the TOML text that `CloudNumbers.load` lays over the shipped numbers.

    Raises ValueError where nothing was fitted.
    """
    fitted = [one for one in fits if one.mean_fitted]
    if not fitted:
        raise ValueError(f"{origin}: too few calls behind every figure, nothing to write")
    lines = [
        "# EC2's latencies as measured, by `warmbench calibrate`. Times are seconds, cv is the",
        "# standard deviation over the mean. What is not here stays as shipped.",
        "",
        f"dated = {dated}",
        "",
        "[sources]",
        f"measured = {json.dumps(origin)}",
        "",
        "[latencies]",
    ]
    for one in fitted:
        values = [f"mean_s = {_number(one.mean_s)}"]
        if one.cv_fitted:
            values.append(f"cv = {_number(one.cv)}")
        values += ['source = "measured"', 'grade = "C"']
        spread = "" if one.cv_fitted else "; cv as shipped"
        lines += [f"# {one.samples:,} calls{spread}", f"{one.api} = {{ {', '.join(values)} }}"]
    return "\n".join(lines) + "\n"


# Reading.


def _of_scrape(text: str, origin: str) -> Iterator[Sample]:
    """Read Prometheus's text format, or OpenMetrics, as far as our metric goes."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith(METRIC):
            continue
        # OpenMetrics may add an exemplar behind a hash; labels have no use for " # ".
        found = _SAMPLE.fullmatch(line.split(" # ", 1)[0])
        if found is None:
            raise ValueError(f"{origin}, line {number}: not a sample: {line[:60]!r}")
        where = f"{origin}, line {number}"
        labels = _labels(found["labels"] or "", where)
        yield Sample(found["name"], labels, _value(found["value"], where))


def _labels(text: str, where: str) -> dict[str, str]:
    labels = {}
    at = 0
    while at < len(text.rstrip()):
        found = _LABEL.match(text, at)
        if found is None:
            raise ValueError(f"{where}: labels that are none: {text[at : at + 60]!r}")
        labels[found["key"]] = found["value"]
        at = found.end()
    return labels


def _value(text: object, where: str) -> float:
    try:
        return float(str(text))
    except ValueError:
        raise ValueError(f"{where}: the value is no number: {str(text)[:60]!r}") from None


def _of_answer(text: str, origin: str) -> Iterator[Sample]:
    """Read what /api/v1/query answers: an instant vector."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{origin}: not JSON: {str(error)[:80]}") from None
    if answer.get("status") != "success":
        told = answer.get("error", "no word why")
        raise ValueError(f"{origin}: not a Prometheus answer with status success: {told}")
    data = answer.get("data")
    if not isinstance(data, dict) or data.get("resultType") != "vector":
        raise ValueError(f"{origin}: not an instant vector; ask /api/v1/query for {QUERY}")
    for number, entry in enumerate(_list(data.get("result"))):
        where = f"{origin}, result {number}"
        labels, value = _dict(entry).get("metric"), _list(_dict(entry).get("value"))
        if not isinstance(labels, dict) or len(value) != 2:  # noqa: PLR2004 - time and value
            raise ValueError(f"{where}: not a metric with a value")
        name = str(labels.get("__name__", ""))
        if name.startswith(METRIC):
            yield Sample(name, {str(k): str(v) for k, v in labels.items()}, _value(value[1], where))


def _list(found: Any) -> list[Any]:  # noqa: ANN401 - JSON is anything
    return found if isinstance(found, list) else []


def _dict(found: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON is anything
    return found if isinstance(found, dict) else {}


# Fitting.


def _gather(samples: Iterable[Sample], origin: str) -> dict[str, list[_Series]]:
    """Return the summaries of successful calls by API, one for each node and status."""
    series: dict[str, dict[tuple[tuple[str, str], ...], _Series]] = {}
    for sample in samples:
        labels = {key: value for key, value in sample.labels.items() if key != "__name__"}
        quantile = labels.pop("quantile", None)
        api = labels.get("api", "")
        if not api or labels.get("error", "false") not in ("false", ""):
            continue
        key = tuple(sorted(labels.items()))
        known = series.setdefault(NAMES.get(api, api), {})
        one = known.setdefault(key, _Series())
        if sample.name in (SUM, COUNT):
            if not math.isfinite(sample.value) or sample.value < 0:
                raise ValueError(
                    f"{origin}: {sample.name} of {api} is {sample.value:g}: must be 0 or more"
                )
            # The same series twice: two nodes whose scrapes were put into one file.
            if sample.name == SUM:
                one.total_ms += sample.value
            else:
                one.count += sample.value
        elif quantile is not None and math.isfinite(sample.value):
            one.quantiles[_value(quantile, f"{origin}: quantile of {api}")] = sample.value
    return {api: list(known.values()) for api, known in series.items()}


def _fit(
    api: str, series: list[_Series], shipped: tuple[float, float] | None, samples_min: int
) -> Fit:
    """Decide what to use of one call: the mean by its count, the spread where quantiles tell."""
    count = round(sum(one.count for one in series))
    mean_s = _MS * sum(one.total_ms for one in series) / count if count else None
    spread = _spread(series)
    known = shipped is not None
    fitted = known and mean_s is not None and mean_s > 0 and count >= samples_min
    mean, cv = shipped or (None, None)
    why = ""
    if not known:
        why = "not in the model"
    elif not fitted:
        why = (
            "no call"
            if not count
            else f"fewer than {samples_min} calls"
            if count < samples_min
            else "no time at all"
        ) + ": as shipped"
    elif spread is None:
        why = "no quantiles: cv as shipped"
    return Fit(
        api,
        samples=count,
        series=len([one for one in series if one.count]),
        mean_s=mean_s if fitted or not known else mean,
        cv=spread if fitted and spread is not None else cv,
        shipped_mean_s=mean,
        shipped_cv=cv,
        mean_fitted=fitted,
        cv_fitted=fitted and spread is not None,
        why=why,
    )


def _spread(series: Iterable[_Series]) -> float | None:
    """Return the coefficient of variation that the quantiles tell, weighted by calls.

    A log-normal time's logarithm grows by sigma with each unit of the normal quantile, so the
    slope through a summary's quantiles is sigma. A quantile counts where ten calls or more are
    beyond it; two are needed.
    """
    weights = squares = 0.0
    for one in series:
        points = [
            (_NORMAL.inv_cdf(q), math.log(value))
            for q, value in one.quantiles.items()
            if 0 < q < 1 and value > 0 and one.count * min(q, 1 - q) >= 10  # noqa: PLR2004
        ]
        sigma = _slope(points)
        if sigma is not None and sigma >= 0:
            weights += one.count
            squares += one.count * sigma * sigma
    if not weights:
        return None
    cv = math.sqrt(math.expm1(squares / weights))
    return cv if cv <= SPREAD_MAX else None


def _slope(points: list[tuple[float, float]]) -> float | None:
    """Return the slope of the line that fits the points best, None for fewer than two."""
    if len(points) < 2:  # noqa: PLR2004 - a line has two
        return None
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    across = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / across if across else None


def _number(value: float | None) -> str:
    """Write a number as TOML reads it, with six digits."""
    assert value is not None
    return f"{float(f'{value:.6g}')!r}"
