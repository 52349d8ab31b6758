"""One script through the simulator and through the daemon's maintainer: one identical log.

What the workbench says of settings holds on nodes as far as this test reaches: the same actions,
the same EC2 calls, the same addresses, at the same instants.
"""

import pytest

from tests.daemon import daemon_driver, sim_driver
from tests.daemon.effects import ModelEffect
from tests.daemon.scripts import generate


@pytest.mark.parametrize("seed", range(100))
def test_both_drivers_write_one_log(seed: int) -> None:
    """The daemon's maintainer does what the simulator's node does, come what may."""
    script = generate(seed)

    assert daemon_driver.play(script, ModelEffect).lines == sim_driver.play(script)


def test_scripts_reach_what_they_are_for() -> None:
    """The generator makes scripts in which calls fail, ADDs wait, and ENIs come and go."""
    lines = [line for seed in range(100) for line in sim_driver.play(generate(seed))]

    for wanted in (
        "AttachEni(",
        "AddBlocks(",
        "RemoveBlocks(",
        "DetachEni(",
        "DescribeEnis(",
        "is served",
        "refused",
        "found no daemon",
        "call DeleteNetworkInterface",
    ):
        assert any(wanted in line for line in lines), wanted
