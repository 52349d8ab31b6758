"""One script through the simulator and through the daemon's maintainer: one identical log.

What the workbench says of settings holds on nodes as far as this test reaches: the same actions,
the same EC2 calls, the same addresses, at the same instants.
"""

import os
from collections.abc import Iterator

import pytest

from cni.cloud import ec2
from sim.lab.services import Services
from tests.daemon import daemon_driver, sim_driver
from tests.daemon.boto_effect import BotoEffect
from tests.daemon.effects import ModelEffect
from tests.daemon.scripts import generate

SCRIPTS = int(os.environ.get("WARMBENCH_SCRIPTS", "20"))
"""Scripts through real boto3: `make soak` asks for 200."""


@pytest.fixture
def services() -> Iterator[Services]:
    """Run a loop for the lab's servers in a thread of its own."""
    served = Services()
    yield served
    served.close()


@pytest.mark.parametrize("seed", range(100))
def test_both_drivers_write_one_log(seed: int) -> None:
    """The daemon's maintainer does what the simulator's node does, come what may."""
    script = generate(seed)

    assert daemon_driver.play(script, ModelEffect).lines == sim_driver.play(script)


@pytest.mark.parametrize("seed", range(SCRIPTS))
def test_real_boto3_against_the_labs_ec2_changes_nothing(
    seed: int, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same log again where every call goes through boto3, HTTP and the lab's endpoint."""
    script = generate(seed)
    # The simulator's script has one attempt for each call; the driver charges no other.
    monkeypatch.setattr(ec2, "ATTEMPTS", 1)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    effects: list[BotoEffect] = []

    def make_effect(one: object) -> BotoEffect:
        assert one is script
        effects.append(BotoEffect(script, services))
        return effects[0]

    try:
        played = daemon_driver.play(script, make_effect)
    finally:
        for effect in effects:
            effect.close()
    assert played.lines == sim_driver.play(script)


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
        "LookElsewhere(",
        "elsewhere=True",
    ):
        assert any(wanted in line for line in lines), wanted
