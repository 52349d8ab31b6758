import pytest

from cni.settings import Settings, SettingsError
from sim.grid import GridError, Place, axis_of, cells, settings_in, values_of
from sim.node_type import NodeType
from sim.scenario import Scenario, SubnetPlan, scenario_for

XEN = NodeType("m4.large", 2, 10, prefixes_allowed=False)
NITRO = NodeType("m5.large", 3, 10)


def place(node_type: NodeType = NITRO, behaviour: str = "native", seed: int = 0) -> Place:
    """Name a place to try a setting in."""
    return Place(node_type, behaviour, (SubnetPlan("10.0.0.0/24"),), 2, None, seed)


def make(where: Place, settings: Settings) -> Scenario:
    """Make the scenario of a cell as the command does."""
    return scenario_for(where.node_type, settings, subnets=where.subnets, nodes=where.nodes)


def test_a_cell_for_each_setting_in_each_place() -> None:
    """Settings vary slowest, so that the rows of one stand together."""
    settings = settings_in({"WARM_IP_TARGET": ["1", "2"]}, [["WARM_ENI_TARGET=2"]], [])
    made = cells(settings, [place(seed=0), place(seed=1)], make)
    assert [(cell.setting, cell.place.seed) for cell in made] == [
        ("WARM_IP_TARGET=1", 0),
        ("WARM_IP_TARGET=1", 1),
        ("WARM_IP_TARGET=2", 0),
        ("WARM_IP_TARGET=2", 1),
        ("WARM_ENI_TARGET=2", 0),
        ("WARM_ENI_TARGET=2", 1),
    ]


def test_what_does_not_go_together_is_one_cells_problem() -> None:
    """Prefixes on Xen fail there, and nowhere else."""
    made = cells([["ENABLE_PREFIX_DELEGATION=true"]], [place(XEN), place()], make)
    assert [cell.scenario is None for cell in made] == [True, False]
    assert "takes no prefixes" in made[0].problem


def test_a_setting_nobody_takes_is_refused_before_anything_runs() -> None:
    """A misspelt variable would fail in every cell."""
    with pytest.raises(SettingsError, match="WARM_IP_TARGET"):
        cells([["WARM_IP_TARGETS=1"]], [place()], make)


@pytest.mark.parametrize("text", ["WARM_IP_TARGET", "WARM_IP_TARGET=", "warm=1", "=1"])
def test_an_axis_that_is_none_is_refused(text: str) -> None:
    """The message says how an axis is written, or which there are."""
    with pytest.raises(GridError, match="--grid"):
        axis_of(text)


@pytest.mark.parametrize("text", ["5..1", "1..9/0", "0..99999999"])
def test_a_range_without_end_is_refused(text: str) -> None:
    """Ranges go upwards, by at least one, to what can be run."""
    with pytest.raises(GridError, match="range"):
        values_of(text)


def test_subnets_are_parted_by_blanks() -> None:
    """A subnet's share follows a comma of its own."""
    axis = axis_of("subnet=10.0.0.0/24,used=0.5 10.0.0.0/22")
    assert axis == ("subnet", ("10.0.0.0/24,used=0.5", "10.0.0.0/22"))
