"""How a trace's pods come and go, as a table: what to look at before any setting is tried."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.trace import Trace


def over_time(trace: Trace, step_s: float = 60.0) -> pd.DataFrame:
    """Return arrivals, departures and pods alive, in steps of equal length from zero on.

    t           the step's beginning, s
    arrivals    pods that come in the step; those there at zero are in none
    departures  pods that go in the step
    alive       the most pods that are alive at one instant of the step

    What happens at the very end belongs to the last step. Raises ValueError for a step of no
    length.

    >>> from sim.sources.shapes import scale
    >>> rush = scale(pods=5, ramp_s=0, hold_s=60, rest_s=60, repeats=1)
    >>> over_time(rush)[["arrivals", "departures", "alive"]].to_numpy().tolist()
    [[0, 0, 0], [5, 0, 5], [0, 5, 0]]
    """
    if not step_s > 0:
        raise ValueError(f"step_s={step_s:g}: a step is longer than 0 s")
    count = max(int(np.ceil(trace.end_s / step_s)), 1)
    came, went = trace.arrival_s, np.sort(trace.departure_s())
    arrivals = np.bincount(_step(came[came > 0], step_s, count), minlength=count)
    departures = np.bincount(_step(went[went <= trace.end_s], step_s, count), minlength=count)
    # Between a step's edges the most are alive just after an arrival, or at its beginning.
    begins = np.arange(count) * step_s
    instants = np.concatenate([came, begins])
    alive = np.searchsorted(came, instants, side="right") - np.searchsorted(
        went, instants, side="right"
    )
    most = np.zeros(count, dtype=np.int64)
    np.maximum.at(most, _step(instants, step_s, count), alive)
    return pd.DataFrame(
        {"t": begins, "arrivals": arrivals, "departures": departures, "alive": most}
    )


def _step(instants: NDArray[np.float64], step_s: float, count: int) -> NDArray[np.int64]:
    """Return the number of the step that each instant is in."""
    step: NDArray[np.int64] = np.minimum((instants // step_s).astype(np.int64), count - 1)
    return step
