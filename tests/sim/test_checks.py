"""The auditor sees what must never happen; each bug is planted once."""

import dataclasses
from collections.abc import Callable

import pytest

from cni.allocator.behaviour import NATIVE
from cni.allocator.pool import Pool
from sim.checks import CheckFailed
from sim.node import SimNode
from sim.record import Recorder
from sim.vpc import Vpc
from tests.sim.test_simulation import burst, replay

Plant = Callable[[pytest.MonkeyPatch], None]


def same_address_twice(patch: pytest.MonkeyPatch) -> None:
    """Hand an address out and leave it on its shelf."""
    original = Pool._hand_out

    def careless(self, slot, shelf, sandbox, now):  # noqa: ANN001, ANN202 - a bug
        assignment = original(self, slot, shelf, sandbox, now)
        shelf.slots.appendleft(slot)
        return assignment

    patch.setattr(Pool, "_hand_out", careless)


def address_that_ec2_does_not_have(patch: pytest.MonkeyPatch) -> None:
    """Answer every question for an owner with nobody."""
    patch.setattr(Vpc, "owner_of", lambda _self, _address: None)


def pool_beside_ec2(patch: pytest.MonkeyPatch) -> None:
    """Show EC2's ENIs without their blocks."""
    original = Vpc.interfaces_of

    def bare(self, instance_id, now):  # noqa: ANN001, ANN202 - a bug
        shown = original(self, instance_id, now)
        return tuple(dataclasses.replace(interface, blocks=()) for interface in shown)

    patch.setattr(Vpc, "interfaces_of", bare)


def a_pod_lost_from_the_books(patch: pytest.MonkeyPatch) -> None:
    """Forget the pods no node took."""
    patch.setattr(Recorder, "unplace", lambda _self, _pod, _resource: None)


def a_release_that_is_not_recorded(patch: pytest.MonkeyPatch) -> None:
    """Let addresses go before their pods do."""
    original = SimNode.maintain

    def forgetful(self):  # noqa: ANN001, ANN202 - a bug
        for assignment in self.allocator.assignments()[:1]:
            self.allocator.release(assignment.sandbox, self._env.now)
        original(self)

    patch.setattr(SimNode, "maintain", forgetful)


@pytest.mark.parametrize(
    "plant",
    [
        same_address_twice,
        address_that_ec2_does_not_have,
        pool_beside_ec2,
        a_pod_lost_from_the_books,
        a_release_that_is_not_recorded,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_bug_stops_the_run(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures come out of a run in which something is wrong."""
    pods = burst(40, life_s=1e6, end_s=400.0)
    replay(pods, "WARM_IP_TARGET=3", behaviour=NATIVE)
    plant(monkeypatch)
    with pytest.raises((CheckFailed, AssertionError, LookupError)):
        replay(pods, "WARM_IP_TARGET=3", behaviour=NATIVE)
