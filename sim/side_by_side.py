"""Several runs side by side, as tables: their figures in words, and how long their pods waited.

Runs are a mapping from a label to a record, in the order in which they are to be shown. Both
tables are plain DataFrames, ready for `plot`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sim import metrics
from sim.cell import figures_of
from sim.record import RunRecord


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: the figure of `sim.cell` it shows, its words, and how it is written."""

    figure: str
    words: str
    digits: int = 0
    times: float = 1.0


ROWS = (
    Row("pods", "pods"),
    Row("served", "pods served"),
    Row("wait_p50_s", "wait for an address, p50, s", 1),
    Row("wait_p99_s", "wait for an address, p99, s", 1),
    Row("wait_max_s", "wait for an address, longest, s", 1),
    Row("refused_share", "pods refused at first, %", 1, 100.0),
    Row("taken_mean", "addresses taken from the subnets, mean", 1),
    Row("taken_max", "addresses taken from the subnets, most"),
    Row("idle_mean", "of these idle, mean", 1),
    Row("mutating", "EC2 calls that change something"),
    Row("throttled", "EC2 calls throttled"),
)
"""What a comparison shows unless it is told otherwise."""


def figures(records: Mapping[str, RunRecord], rows: Sequence[Row] = ROWS) -> pd.DataFrame:
    """Return the figures of some runs: a row for each figure, a column for each run.

    "taken" counts the ENIs' primary addresses, which no pod can have. Numbers are rounded for
    reading; `sim.cell.figures_of` has them exact.
    """
    columns = {}
    for label, record in records.items():
        found = figures_of(record)
        columns[label] = [_written(found[row.figure] * row.times, row.digits) for row in rows]
    return pd.DataFrame(columns, index=[row.words for row in rows], dtype=object)


def waited_longer(
    records: Mapping[str, RunRecord], at_s: Sequence[float] | None = None
) -> pd.DataFrame:
    """Return which share of pods waited longer than so many seconds, in %, a column for each run.

    The index is the seconds: 0.1 to 200 on a logarithmic scale unless given. Pods still waiting
    count with the wait they have had so far. 0 is a share like any other; on a logarithmic axis
    it is not to be seen.
    """
    seconds = np.geomspace(0.1, 200.0, 200) if at_s is None else np.asarray(at_s, dtype=float)
    columns = {}
    for label, record in records.items():
        waited = np.sort(metrics.waits(record)["waited_s"].to_numpy())
        longer = len(waited) - np.searchsorted(waited, seconds, side="right")
        columns[label] = 100.0 * longer / len(waited) if len(waited) else longer * np.nan
    return pd.DataFrame(columns, index=pd.Index(seconds, name="seconds"))


def _written(value: float, digits: int) -> float | int:
    if np.isnan(value):
        return value
    return round(value, digits) if digits else round(value)
