"""A pod's life on one node, with an EC2 that answers at once or never."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
import simpy

from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.allocator.model import AttachedEni, SandboxKey
from sim.checks import Auditor
from sim.cloud import Account, CloudModel
from sim.cloud_numbers import CloudNumbers
from sim.kubelet import IFNAME, NETWORK, Kubelet
from sim.node import SimNode
from sim.record import Recorder
from sim.streams import Draws, stream
from sim.subnet import Subnet
from sim.vpc import Vpc
from tests.sim.worlds import BOTH, NodeType, scenario

behaviours = pytest.mark.parametrize("behaviour", BOTH, ids=lambda behaviour: behaviour.name)


class World:
    """One started node with three addresses at most, and its kubelet."""

    def __init__(
        self,
        behaviour: Behaviour,
        lives: list[float],
        *,
        settings: str = "WARM_IP_TARGET=3",
        end_s: float = inf,
        add_wait_s: float | None = None,
        node_type: NodeType = NodeType("one ENI", 1, 4),  # noqa: B008 - a frozen value
    ) -> None:
        if add_wait_s is not None:
            behaviour = replace(behaviour, add_wait_s=add_wait_s)
        pool = scenario(settings, behaviour=behaviour, node_type=node_type).pool
        self.env = simpy.Environment()
        self.recorder = Recorder(len(lives))
        self.gone: list[int] = []
        vpc = Vpc([Subnet("subnet-0", "10.0.0.0/24", stream(0, "placement"))])
        launched = vpc.launch_instance("node-0", pool.shape, "subnet-0", 0.0)
        account = Account.of(CloudNumbers.instant(), vpc)
        cloud = CloudModel(self.env, account, "node-0", Draws(0, "node"))
        self.kubelet = Kubelet(
            self.env,
            self.recorder,
            lives,
            end_s,
            Draws(0, "kubelet"),
            lambda pod, _node: self.gone.append(pod),
        )
        self.node = SimNode(
            self.env,
            0,
            "node-0",
            pool,
            cloud,
            self.recorder,
            Auditor(vpc, thorough=True),
            self.kubelet.served_in_line,
        )
        self.node.start(AttachedEni(launched.eni_id, 0, launched.primary_ip, ()), 0.0, 1)
        self.node.poke()
        self.until(10.0)

    def until(self, instant: float) -> None:
        """Let time pass."""
        self.env.run(until=instant)

    def add(self, *pods: int) -> None:
        """Run pods."""
        for pod in pods:
            self.kubelet.add(pod, self.node)

    def holds(self, pod: int) -> bool:
        """Whether the pod has an address."""
        sandbox = SandboxKey(NETWORK, str(pod), IFNAME)
        return self.node.allocator.find(sandbox) is not None

    @property
    def refused(self) -> list[int]:
        """Refused ADDs by pod."""
        return self.recorder.refused.tolist()


@behaviours
def test_a_warm_pod_is_served_at_once(behaviour: Behaviour) -> None:
    """A pod that finds an address has it at the instant of its ADD, and leaves after its life."""
    world = World(behaviour, [5.0])
    world.add(0)

    assert world.recorder.served_at[0] == world.recorder.added_at[0] == 10.0
    assert world.recorder.node[0] == 0
    world.until(15.5)
    assert (world.recorder.released_at[0], world.gone) == (15.0, [0])
    assert not world.holds(0)


@behaviours
def test_who_leaves_after_the_end_never_leaves(behaviour: Behaviour) -> None:
    """A departure beyond the end of the trace is not even scheduled; one exactly there is."""
    world = World(behaviour, [5.0, 5.1], end_s=15.0)
    world.add(0, 1)
    world.until(100.0)

    assert world.gone == [0]
    assert np.isnan(world.recorder.released_at[1])


def test_a_refused_add_comes_back_for_ever() -> None:
    """Under UPSTREAM a pod too many is refused every 10 to 15 s until an address is free."""
    world = World(UPSTREAM, [60.0, inf, inf, inf])
    world.add(0, 1, 2, 3)
    world.until(70.0)
    before = world.refused[3]

    assert world.refused[:3] == [0, 0, 0]
    assert 4 <= before <= 6
    assert not world.holds(3)
    # The first pod leaves at 70 s, its address cools until 100 s.
    world.until(100.0)
    assert not world.holds(3)
    world.until(116.0)
    assert world.holds(3)
    assert 100.0 < world.recorder.served_at[3] < 115.0


def test_an_add_that_waits_is_served_when_an_address_ends_cooling() -> None:
    """Under NATIVE a pod too many waits in line and is served at that very instant."""
    world = World(NATIVE, [5.0, inf, inf, inf])
    world.add(0, 1, 2)
    world.until(20.0)
    world.add(3)
    world.until(44.9)
    assert not world.holds(3)
    world.until(45.1)

    assert world.holds(3)
    assert world.recorder.served_at[3] == pytest.approx(45.0)
    assert world.refused == [0, 0, 0, 0]


def test_an_add_loses_patience_once_and_only_if_it_still_waits() -> None:
    """After its time an ADD is refused; one that was served in time is not."""
    world = World(NATIVE, [5.0, inf, inf, inf, inf], add_wait_s=30.0)
    world.add(0, 1, 2)
    world.until(18.0)
    world.add(3, 4)  # One address comes at 45 s, for the first of them.
    world.until(47.9)
    assert (world.holds(3), world.refused[4]) == (True, 0)
    world.until(48.1)

    assert world.refused == [0, 0, 0, 0, 1]
    assert world.node.allocator.waiting == 0
    # Nothing is on its way: it comes back as the kubelet does, and is refused at once.
    world.until(120.0)
    assert 4 <= world.refused[4] <= 8
    assert not world.holds(4)


def test_who_cannot_hope_does_not_wait() -> None:
    """Under NATIVE an ADD on a node that can have no more is refused at once, with the cause."""
    world = World(NATIVE, [inf] * 4)
    world.add(0, 1, 2, 3)

    assert world.refused == [0, 0, 0, 1]
    assert world.recorder.causes.words() == ("eni_limit",)


@behaviours
@pytest.mark.parametrize("served", [True, False])
def test_remove(served: bool, behaviour: Behaviour) -> None:  # noqa: FBT001 - a parameter
    """A pod that is deleted gives its address back; one without never takes one."""
    world = World(behaviour, [inf] * 4)
    world.add(0, 1, 2, 3)
    world.until(12.0)
    victim = 0 if served else 3
    world.kubelet.remove(victim, world.node)
    world.until(200.0)

    assert not world.holds(victim)
    assert world.holds(3) == served
    assert world.recorder.released_at[victim] == 12.0
    assert world.node.allocator.waiting == 0


def test_remove_from_the_line() -> None:
    """A pod deleted while its ADD waits leaves the line, and nobody calls its name later."""
    world = World(NATIVE, [5.0, inf, inf, inf, inf])
    world.add(0, 1, 2)
    world.until(20.0)
    world.add(3, 4)
    assert world.node.allocator.waiting == 2
    world.kubelet.remove(3, world.node)
    world.until(200.0)

    assert (world.holds(3), world.holds(4)) == (False, True)
    assert world.refused[3] == 0


def test_retries_of_one_pod_are_drawn_one_by_one() -> None:
    """Pauses lie between 10 and 15 s, differ, and depend on pod and number alone."""

    def pauses(others: int) -> list[float]:
        world = World(UPSTREAM, [inf] * (4 + others))
        world.add(0, 1, 2, 3, *range(4, 4 + others))
        world.until(100.0)
        rows = zip(*world.recorder._refusals[:3], strict=True)
        times = [t for t, _node, pod in rows if pod == 3]
        return np.diff(times).tolist()

    alone = pauses(0)
    assert all(10.0 <= pause <= 15.0 for pause in alone)
    assert len(set(alone)) == len(alone) > 3
    assert pauses(5) == pytest.approx(alone)
