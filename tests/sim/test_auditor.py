"""The auditor, by its victims: faults planted in allocator, EC2 and record must stop the run."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from cni.allocator.actions import AddBlocks, BlocksAdded, CloudOutcome
from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.allocator.model import (
    Assignment,
    AttachedEni,
    BlockKind,
    EniId,
    Instant,
    NodeLimits,
    SandboxKey,
)
from cni.allocator.targets import WarmIp
from sim import checks, simulation
from sim.checks import Auditor, CheckFailed
from sim.kubelet import Kubelet
from sim.record import Recorder, RunRecord
from sim.simulation import run
from sim.streams import stream
from sim.subnet import Subnet
from sim.vpc import EniDescription, InstanceShape, Vpc
from tests.sim.worlds import BOTH, pods, scenario

NOW = Instant(0.0)


class World:
    """One node with a pool of three addresses, EC2's books, and the auditor."""

    def __init__(self, *, thorough: bool = False) -> None:
        self.vpc = Vpc([Subnet("subnet-0", "10.0.0.0/24", stream(0, "placement"))])
        primary = self.launch("node-0")
        blocks = self.vpc.assign_private_ip_addresses(
            primary.eni_id, BlockKind.SECONDARY_IP, 3, 0.0
        )
        self.eni = AttachedEni(primary.eni_id, 0, primary.primary_ip, blocks)
        self.allocator = Allocator(
            target=WarmIp(3),
            limits=NodeLimits(3, 9, 29),
            kind=BlockKind.SECONDARY_IP,
            attached=(self.eni,),
            taken=(),
            assignments=(),
            now=NOW,
            behaviour=NATIVE,
        )
        self.auditor = Auditor(self.vpc, thorough=thorough)

    def launch(self, name: str) -> EniDescription:
        """Start an instance."""
        return self.vpc.launch_instance(name, InstanceShape(3, 10), "subnet-0", 0.0)

    def assign(self, pod: str) -> Assignment:
        """Assign an address, as the kubelet does."""
        assignment = self.allocator.assign(SandboxKey("n", pod, "eth0"), NOW)
        self.auditor.assigned("node-0", assignment, self.allocator, 0.0)
        return assignment

    def release(self, pod: str) -> None:
        """Release it."""
        assignment = self.allocator.release(SandboxKey("n", pod, "eth0"), NOW)
        self.auditor.released(assignment, self.allocator)


def test_what_is_right_passes() -> None:
    """Pods that come and go on addresses of their node are fine."""
    world = World(thorough=True)
    world.assign("a")
    world.assign("b")
    world.release("a")
    world.auditor.changed("node-0", world.allocator, 0.0)


def test_one_address_at_two_pods() -> None:
    """An address given to a second pod names both."""
    world = World()
    first = world.assign("a")
    second = first._replace(sandbox=SandboxKey("n", "b", "eth0"))

    with pytest.raises(CheckFailed, match=r"pod b on node-0 is held by \('node-0', 'a'\)"):
        world.auditor.assigned("node-0", second, world.allocator, 1.0)


def test_an_address_ec2_does_not_know() -> None:
    """An address that is on no ENI, or on another one, is none of this pod's."""
    world = World()
    good = world.allocator.assign(SandboxKey("n", "a", "eth0"), NOW)

    with pytest.raises(CheckFailed, match="is on None for EC2"):
        world.auditor.assigned(
            "node-0", good._replace(address=IPv4Address("10.9.9.9")), world.allocator, 1.0
        )
    with pytest.raises(CheckFailed, match="is on eni-"):
        world.auditor.assigned(
            "node-0", good._replace(eni_id=EniId("eni-other")), world.allocator, 1.0
        )


def test_an_address_of_another_node() -> None:
    """A pod may hold addresses of its own node's ENIs only."""
    world = World()
    world.launch("node-1")
    good = world.allocator.assign(SandboxKey("n", "a", "eth0"), NOW)

    with pytest.raises(CheckFailed, match="is not attached to node-1"):
        world.auditor.assigned("node-1", good, world.allocator, 1.0)


def test_a_block_that_ec2_took() -> None:
    """A pool that believes in a block EC2 does not have is stopped at its next change."""
    world = World()
    world.vpc.unassign_private_ip_addresses(world.eni.eni_id, world.eni.blocks[:1], 0.0)

    with pytest.raises(CheckFailed, match=r"at 2.000 s: node-0 believes .* EC2 shows"):
        world.auditor.changed("node-0", world.allocator, 2.0)


def test_a_block_that_the_pool_forgot() -> None:
    """A block that EC2 has and the pool does not know is leaked."""
    world = World()
    world.vpc.assign_private_ip_addresses(world.eni.eni_id, BlockKind.SECONDARY_IP, 1, 0.0)

    with pytest.raises(CheckFailed, match="EC2 shows"):
        world.auditor.changed("node-0", world.allocator, 2.0)


def test_counts_that_lie() -> None:
    """A pool whose counts do not add up is stopped, by a thorough auditor at once."""
    world = World(thorough=True)
    world.allocator._pool.total += 1

    with pytest.raises(AssertionError, match="total"):
        world.assign("a")


def test_nothing_is_said_while_something_is_open() -> None:
    """With an action in flight, or its outcome unknown, pool and EC2 may differ."""
    world = World()
    world.assign("a")
    (action,) = iter(lambda: world.allocator.next_action(Instant(10.0)), None)
    assert isinstance(action, AddBlocks)
    world.vpc.assign_private_ip_addresses(world.eni.eni_id, BlockKind.SECONDARY_IP, 1, 10.0)

    world.auditor.changed("node-0", world.allocator, 10.0)


# Faults planted into whole runs.


def one_pod_too_many(allocator: Allocator) -> None:
    """Make an allocator that gives its first address to everybody."""
    given: list[Assignment] = []
    assign = allocator.assign

    def fault(sandbox: SandboxKey, now: Instant) -> Assignment:
        if not given:
            given.append(assign(sandbox, now))
        return given[0]._replace(sandbox=sandbox)

    plant(allocator, "assign", fault)


def deaf(allocator: Allocator) -> None:
    """Make an allocator that takes EC2's blocks for others."""
    apply = allocator.apply

    def fault(outcome: CloudOutcome, now: Instant) -> None:
        if isinstance(outcome, BlocksAdded):
            strange = tuple(IPv4Network(int(b.network_address) ^ 1) for b in outcome.blocks)
            outcome = replace(outcome, blocks=strange)
        apply(outcome, now)

    plant(allocator, "apply", fault)


def leaky(allocator: Allocator) -> None:
    """Make an allocator that forgets one block of what it gets."""
    apply = allocator.apply

    def fault(outcome: CloudOutcome, now: Instant) -> None:
        if isinstance(outcome, BlocksAdded):
            outcome = replace(outcome, blocks=outcome.blocks[1:])
        apply(outcome, now)

    plant(allocator, "apply", fault)


def plant(allocator: Allocator, name: str, fault: Callable[..., object]) -> None:
    """Put a fault in place of a method of this one allocator."""
    changed = type("Faulty", (type(allocator),), {"__slots__": (), name: staticmethod(fault)})
    allocator.__class__ = changed


FAULTS = {
    one_pod_too_many: "is held by",
    deaf: "believes|for EC2",
    leaky: "believes",
}


@pytest.mark.parametrize("behaviour", BOTH, ids=lambda behaviour: behaviour.name)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_faulty_allocator_stops_the_run(
    fault: Callable[[Allocator], None], behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with a faulty allocator raises CheckFailed."""
    start = simulation.SimNode.start

    def faulty_start(node: simulation.SimNode, *arguments: object) -> None:
        start(node, *arguments)  # type: ignore[arg-type]
        fault(node.allocator)

    monkeypatch.setattr(simulation.SimNode, "start", faulty_start)
    made = scenario("WARM_IP_TARGET=2", behaviour=behaviour, warm=False)

    with pytest.raises(CheckFailed, match=FAULTS[fault]):
        run(made, pods([30.0, 31.0, 32.0, 33.0], end=100.0))


def test_a_pod_that_is_lost_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod that no node took and nobody noted is missing from the books."""
    monkeypatch.setattr(Recorder, "unplace", lambda *_: None)

    with pytest.raises(CheckFailed, match="pods without a node are not all accounted for"):
        run(scenario(max_pods=3), pods([0.0, 1.0]))


def test_a_pod_that_is_noted_twice_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod that a node took cannot be unplaced as well."""
    add = Kubelet.add

    def noted_too(kubelet: Kubelet, pod: int, node: simulation.SimNode) -> None:
        add(kubelet, pod, node)
        kubelet._recorder.unplace(pod, "cpu")

    monkeypatch.setattr(Kubelet, "add", noted_too)

    with pytest.raises(CheckFailed, match="accounted for"):
        run(scenario(), pods([0.0, 1.0]))


def test_a_release_that_is_not_recorded_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods that hold addresses for the record and not for the auditor do not add up."""
    released = Auditor.released

    def too_much(auditor: Auditor, assignment: Assignment, allocator: Allocator) -> None:
        released(auditor, assignment, allocator)
        auditor._holders.clear()

    monkeypatch.setattr(checks.Auditor, "released", too_much)

    with pytest.raises(CheckFailed, match="1 pods hold addresses, 0 are held"):
        run(scenario(behaviour=UPSTREAM), pods([0.0, 1.0], [5.0, 1000.0], end=10.0))


def test_a_leak_in_ec2s_own_books_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The books of the model of EC2 are checked at the end, too."""
    made = scenario()
    finished = Auditor.finished

    def with_leak(auditor: Auditor, record: RunRecord) -> None:
        auditor._vpc.subnets[0].take_singles(1)
        finished(auditor, record)

    monkeypatch.setattr(Auditor, "finished", with_leak)

    with pytest.raises(AssertionError):
        run(made, pods([0.0]))


def test_without_checks_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scenario without checks builds no auditor."""
    monkeypatch.setattr(simulation, "Auditor", None)
    run(replace(scenario(), checks=False), pods([0.0]))
