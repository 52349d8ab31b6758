"""How pods come and go, step by step."""

import numpy as np
import pytest

from sim import trace
from sim.churn import over_time


def test_steps_add_up_to_the_trace() -> None:
    """Every pod that arrives after zero and every one that goes by the end is in one step."""
    pods = trace.example()

    frame = over_time(pods, step_s=300.0)

    assert frame["arrivals"].sum() == (pods.arrival_s > 0).sum()
    assert frame["departures"].sum() == (pods.departure_s() <= pods.end_s).sum()
    assert frame["alive"].max() == trace.describe(pods).peak_pods
    assert np.allclose(np.diff(frame["t"]), 300.0)


def test_a_step_of_no_length_is_refused() -> None:
    """It would never end."""
    with pytest.raises(ValueError, match="longer than 0 s"):
        over_time(trace.example(), step_s=0.0)
