"""Runs side by side: figures as `sim.cell` has them, and who waited how long."""

import pytest

from cni.allocator.behaviour import NATIVE, UPSTREAM
from cni.settings import Settings
from sim.cell import figures_of
from sim.node_type import named
from sim.record import RunRecord
from sim.scenario import scenario_for
from sim.side_by_side import ROWS, figures, waited_longer
from sim.simulation import run
from sim.sources import shapes

PODS = shapes.scale(pods=12, ramp_s=0, hold_s=120, rest_s=60, repeats=1)


@pytest.fixture(scope="module")
def records() -> dict[str, RunRecord]:
    """Run a burst that both behaviours make wait."""
    return {
        behaviour.name: run(
            scenario_for(
                named("m5.large"),
                Settings(warm_ip_target=1),
                subnets="10.0.0.0/24",
                behaviour=behaviour,
            ),
            PODS,
        )
        for behaviour in (UPSTREAM, NATIVE)
    }


def test_a_column_for_each_run_in_their_order(records: dict[str, RunRecord]) -> None:
    """Labels and rows stay in the order in which a reader is to see them."""
    table = figures(records)

    assert list(table.columns) == ["upstream", "native"]
    assert list(table.index) == [row.words for row in ROWS]


def test_figures_are_those_of_a_cell(records: dict[str, RunRecord]) -> None:
    """Rounded, and shares in %."""
    exact = figures_of(records["upstream"])

    column = figures(records)["upstream"]

    assert column["pods"] == 12
    assert column["pods refused at first, %"] == round(100 * exact["refused_share"], 1) > 0
    assert column["wait for an address, p99, s"] == round(exact["wait_p99_s"], 1)


def test_shares_fall_from_all_that_waited_to_none(records: dict[str, RunRecord]) -> None:
    """At zero seconds it is the share of pods that waited at all, at the longest wait nothing."""
    exact = figures_of(records["upstream"])

    longer = waited_longer(records, [0.0, 1.0, exact["wait_max_s"] + 0.01])["upstream"]

    assert longer.iloc[0] == pytest.approx(100 * exact["refused_share"])
    assert longer.is_monotonic_decreasing
    assert longer.iloc[-1] == 0
