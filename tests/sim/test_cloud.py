"""A node meets EC2 as it is: slow, limited, sometimes silent, and shown late by the metadata."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import simpy

from cni.allocator.actions import FailureReason
from cni.allocator.model import BlockKind, EniId
from cni.cloud import calls
from cni.cloud.calls import Call, CallError, Reply
from sim.cloud import Account, CallFault, CloudModel, Faults
from sim.cloud_numbers import INSTANT, CloudNumbers, Delay
from sim.streams import Draws, stream
from sim.subnet import Subnet
from sim.vpc import InstanceShape, Vpc

IP = BlockKind.SECONDARY_IP
Attempt = tuple[str, float, float, str]


class World:
    """One VPC with one account, and nodes that each run a script of calls."""

    def __init__(
        self,
        numbers: CloudNumbers,
        faults: Faults | None = None,
        denied: frozenset[str] = frozenset(),
    ) -> None:
        """Start at instant 0 with a /20 and no node."""
        self.env = simpy.Environment()
        self.vpc = Vpc([Subnet("subnet-0", "10.0.0.0/20", stream(1, "placement"))])
        account = Account.of(numbers, self.vpc)
        self.account = replace(account, denied=denied)
        self.faults = faults
        self.attempts: list[Attempt] = []

    def node(self, number: int = 1) -> CloudModel:
        """Launch an instance."""
        shape = InstanceShape(enis=4, ipv4_per_eni=15)
        self.vpc.launch_instance(f"i-{number}", shape, "subnet-0", self.env.now)
        return CloudModel(
            self.env,
            self.account,
            f"i-{number}",
            Draws(1, f"node-{number}"),
            on_call=lambda *attempt: self.attempts.append(attempt),
            faults=self.faults,
        )

    def ask(self, cloud: CloudModel, call: Call) -> Reply:
        """Run one call to its end and return its reply."""
        reply: Any = self.env.run(self.env.process(cloud.answer(call)))
        assert isinstance(reply, Reply)
        return reply

    def attach(self, cloud: CloudModel, device_index: int, blocks: int = 0) -> tuple[EniId, str]:
        """Create and attach an ENI; return its id and its attachment's."""
        create = calls.CreateNetworkInterface(IP, blocks, f"token-{device_index}")
        created = self.ask(cloud, create)
        assert isinstance(created, calls.InterfaceCreated)
        attached = self.ask(cloud, calls.AttachNetworkInterface(created.eni_id, device_index))
        assert isinstance(attached, calls.InterfaceAttached)
        return created.eni_id, attached.attachment_id

    def primary(self, number: int = 1) -> EniId:
        """Return the primary ENI of a node."""
        return self.vpc.interfaces_of(f"i-{number}", self.env.now)[0].eni_id

    def shown(self, cloud: CloudModel) -> dict[EniId, int]:
        """Return how many blocks the metadata shows, by ENI."""
        reply = self.ask(cloud, calls.ReadMetadata())
        assert isinstance(reply, calls.InterfacesDescribed)
        return {shown.eni.eni_id: len(shown.eni.blocks) for shown in reply.interfaces}


def steady(**changes: Any) -> CloudNumbers:
    """Return numbers without chance: every EC2 call takes one second, the rest no time."""
    latencies = {
        api: INSTANT if api == "ReadMetadata" else Delay(1.0, 0.0)
        for api in CloudNumbers.load().latencies
    }
    sdk = replace(CloudNumbers.instant().sdk, timeout_s=10.0)
    return replace(CloudNumbers.instant(), latencies=latencies, sdk=sdk, **changes)


def throttled_twice() -> Faults:
    """Refuse the first two attempts for their rate."""
    left = [2]

    def fault(_call: Call, _now: float) -> CallFault | None:
        left[0] -= 1
        return CallFault("RequestLimitExceeded") if left[0] >= 0 else None

    return fault


def test_a_call_takes_effect_halfway() -> None:
    """A call of one second changes EC2 after half a second and answers after a whole one."""
    world = World(steady())
    cloud = world.node()
    call = calls.AssignPrivateIpAddresses(world.primary(), IP, 2)
    answer = world.env.process(cloud.answer(call))

    world.env.run(until=0.49)
    assert world.vpc.interfaces_of("i-1", 0.49)[0].blocks == ()
    world.env.run(until=0.51)
    blocks = world.vpc.interfaces_of("i-1", 0.51)[0].blocks
    assert len(blocks) == 2
    assert world.env.run(answer) == calls.BlocksAssigned(blocks)
    assert world.env.now == 1.0
    assert world.attempts == [("AssignPrivateIpAddresses", 0, 1.0, "")]


def test_an_instant_cloud_never_waits() -> None:
    """With `instant` a whole life of an ENI happens at one instant, without any event."""
    world = World(CloudNumbers.instant())
    cloud = world.node()

    def life() -> Generator[simpy.Event, Any, calls.Reply]:
        created: Any = yield from cloud.answer(calls.CreateNetworkInterface(IP, 3, "token"))
        eni_id = created.eni_id
        attached: Any = yield from cloud.answer(calls.AttachNetworkInterface(eni_id, 1))
        yield from cloud.answer(
            calls.ModifyNetworkInterfaceAttribute(eni_id, attached.attachment_id)
        )
        shown: Any = yield from cloud.answer(calls.ReadMetadata())
        assert len(shown.interfaces) == 2
        yield from cloud.answer(calls.DetachNetworkInterface(eni_id, attached.attachment_id))
        yield from cloud.answer(calls.DeleteNetworkInterface(eni_id))
        return (yield from cloud.answer(calls.ReadMetadata()))

    steps = life()
    with pytest.raises(StopIteration) as finished:
        next(steps)
    assert len(finished.value.value.interfaces) == 1
    assert world.vpc.eni_count == 1


def test_a_throttled_call_is_repeated_as_the_sdk_does() -> None:
    """Two refusals and one success are three rows; the pauses are random up to 1 s and 2 s."""
    sdk = replace(CloudNumbers.load().sdk, backoff_base_s=1.0)
    world = World(replace(CloudNumbers.instant(), sdk=sdk), throttled_twice())
    cloud = world.node()

    world.ask(cloud, calls.AssignPrivateIpAddresses(world.primary(), IP, 1))

    codes = [code for _, _, _, code in world.attempts]
    starts = [started for _, started, _, _ in world.attempts]
    assert codes == ["RequestLimitExceeded", "RequestLimitExceeded", ""]
    assert 0 < starts[1] - starts[0] <= 1
    assert 0 < starts[2] - starts[1] <= 2


def test_a_rate_that_stays_too_high_ends_throttled() -> None:
    """After three refused attempts the call fails, and nothing has happened."""
    world = World(steady(), lambda _call, _now: CallFault("RequestLimitExceeded"))
    cloud = world.node()

    with pytest.raises(CallError) as failed:
        world.ask(cloud, calls.CreateNetworkInterface(IP, 1, "token"))
    assert failed.value.reason is FailureReason.THROTTLED
    assert len(world.attempts) == 3
    assert world.vpc.eni_count == 1


def test_all_nodes_share_the_buckets_of_their_account() -> None:
    """100 nodes that assign at once pass, the 101st is refused at first."""
    numbers = replace(CloudNumbers.instant(), buckets=CloudNumbers.load().buckets)
    world = World(replace(numbers, sdk=CloudNumbers.load().sdk))
    for number in range(101):
        cloud = world.node(number)
        call = calls.AssignPrivateIpAddresses(world.primary(number), IP, 1)
        world.env.process(cloud.answer(call))
    world.env.run()

    refused = [attempt for attempt in world.attempts if attempt[3]]
    assert len(refused) == 1
    assert len(world.attempts) == 102


@pytest.mark.parametrize(
    ("call", "bucket"),
    [
        (calls.DescribeInstances(), 50),
        (calls.DescribeNetworkInterfaces(), 100),
        (calls.DescribeNetworkInterfaces((EniId(f"eni-{1:017x}"),)), 50),
        (calls.DescribeSubnets(), 100),
    ],
)
def test_describing_by_id_draws_from_the_smaller_bucket(call: Call, bucket: int) -> None:
    """Requests with a filter have EC2's larger bucket, those with ids alone the smaller."""
    world = World(replace(CloudNumbers.instant(), buckets=CloudNumbers.load().buckets))
    cloud = world.node()
    for _ in range(bucket):
        world.ask(cloud, call)

    with pytest.raises(CallError) as failed:
        world.ask(cloud, call)
    assert failed.value.reason is FailureReason.THROTTLED


def test_an_attached_eni_is_shown_after_its_own_delay() -> None:
    """EC2 knows the ENI at once, the metadata after its visibility delay."""
    world = World(replace(CloudNumbers.instant(), eni_visible=Delay(3.0, 0.0)))
    cloud = world.node()
    eni_id, attachment_id = world.attach(cloud, 1, blocks=2)

    described = world.ask(cloud, calls.DescribeNetworkInterfaces())
    assert isinstance(described, calls.InterfacesDescribed)
    assert [shown.attachment_id for shown in described.interfaces][1] == attachment_id
    assert world.shown(cloud) == {world.primary(): 0}
    world.env.run(until=2.9)
    assert eni_id not in world.shown(cloud)
    world.env.run(until=3.0)
    world.env.run(until=3.1)
    assert world.shown(cloud)[eni_id] == 2


def test_blocks_are_shown_after_the_copy_lag_and_in_order() -> None:
    """Added blocks appear and removed ones linger; the copy is always a state EC2 once had."""
    lag = Delay(1.0, 0.0)
    world = World(replace(CloudNumbers.instant(), copy_lag=lag))
    cloud = world.node()
    primary = world.primary()
    added = world.ask(cloud, calls.AssignPrivateIpAddresses(primary, IP, 4))
    assert isinstance(added, calls.BlocksAssigned)
    world.env.run(until=0.5)
    world.ask(cloud, calls.UnassignPrivateIpAddresses(primary, added.blocks[:1]))

    seen = []
    for instant in (0.9, 1.1, 1.4, 1.6):
        world.env.run(until=instant)
        seen.append(world.shown(cloud)[primary])
    assert seen == [0, 4, 4, 3]


def test_a_later_version_never_overtakes_an_earlier_one() -> None:
    """Blocks added to an ENI that is not visible yet do not make it visible."""
    world = World(replace(CloudNumbers.instant(), eni_visible=Delay(30.0, 0.0)))
    cloud = world.node()
    eni_id, _ = world.attach(cloud, 1)
    world.ask(cloud, calls.AssignPrivateIpAddresses(eni_id, IP, 1))

    world.env.run(until=29.9)
    assert eni_id not in world.shown(cloud)
    world.env.run(until=30.1)
    assert world.shown(cloud)[eni_id] == 1


def test_a_detached_eni_can_be_deleted_some_seconds_later() -> None:
    """Two to three seconds long it is in use; the metadata may show it longer still."""
    numbers = CloudNumbers.load()
    world = World(
        replace(
            CloudNumbers.instant(),
            detach_min_s=numbers.detach_min_s,
            detach_max_s=numbers.detach_max_s,
            copy_lag=Delay(5.0, 0.0),
        )
    )
    cloud = world.node()
    eni_id, attachment_id = world.attach(cloud, 1)
    world.ask(cloud, calls.DetachNetworkInterface(eni_id, attachment_id))

    world.env.run(until=1.99)
    with pytest.raises(CallError) as failed:
        world.ask(cloud, calls.DeleteNetworkInterface(eni_id))
    assert failed.value.code == "InvalidParameterValue"
    world.env.run(until=3.01)
    assert world.ask(cloud, calls.DeleteNetworkInterface(eni_id)) == calls.Done()
    assert eni_id in world.shown(cloud)
    world.env.run(until=8.02)
    assert eni_id not in world.shown(cloud)


def test_a_fault_before_the_effect_changes_nothing() -> None:
    """The call fails with the code of the fault, classified, and costs its latency."""
    world = World(steady(), lambda _call, _now: CallFault("InternalError", delay_s=2.0))
    cloud = world.node()

    with pytest.raises(CallError) as failed:
        world.ask(cloud, calls.AssignPrivateIpAddresses(world.primary(), IP, 1))
    assert failed.value.reason is FailureReason.UNKNOWN_OUTCOME
    assert world.env.now == 3.0
    assert world.vpc.interfaces_of("i-1", 3.0)[0].blocks == ()


@pytest.mark.parametrize("takes_effect", [False, True])
def test_no_answer_may_mean_that_it_happened(takes_effect: bool) -> None:  # noqa: FBT001
    """The SDK gives up after its time-out, does not repeat, and cannot know what happened."""
    fault = CallFault("RequestTimeout", takes_effect=takes_effect)
    world = World(steady(), lambda _call, _now: fault)
    cloud = world.node()

    with pytest.raises(CallError) as failed:
        world.ask(cloud, calls.AssignPrivateIpAddresses(world.primary(), IP, 1))
    assert failed.value.reason is FailureReason.UNKNOWN_OUTCOME
    assert world.env.now == 10.0
    assert len(world.vpc.interfaces_of("i-1", 10.0)[0].blocks) == int(takes_effect)
    assert world.attempts == [("AssignPrivateIpAddresses", 0, 10.0, "RequestTimeout")]


def test_an_answer_after_the_time_out_is_none() -> None:
    """A request that EC2 answers after 11 s has its effect, but the SDK gave up after 10 s."""
    world = World(steady(), lambda _call, _now: CallFault(delay_s=10.0))
    cloud = world.node()

    with pytest.raises(CallError) as failed:
        world.ask(cloud, calls.AssignPrivateIpAddresses(world.primary(), IP, 1))
    assert failed.value.reason is FailureReason.UNKNOWN_OUTCOME
    assert world.env.now == 10.0
    assert len(world.vpc.interfaces_of("i-1", 10.0)[0].blocks) == 1


def test_the_metadata_can_fail_too() -> None:
    """A fault on a metadata read is classified like any other."""
    world = World(steady(), lambda _call, _now: CallFault("ReadTimeoutError", delay_s=1.0))
    cloud = world.node()

    with pytest.raises(CallError) as failed:
        world.ask(cloud, calls.ReadMetadata())
    assert failed.value.reason is FailureReason.UNKNOWN_OUTCOME
    assert world.env.now == 1.0


def test_a_lost_create_is_found_by_its_token() -> None:
    """Repeating a create that got no answer returns the ENI it made; nodes do not mix."""
    faults = iter([CallFault("RequestTimeout", takes_effect=True)])
    world = World(steady(), lambda _call, _now: next(faults, None))
    cloud, other = world.node(1), world.node(2)
    call = calls.CreateNetworkInterface(IP, 2, "token")
    with pytest.raises(CallError):
        world.ask(cloud, call)
    (lost,) = world.vpc.detached(world.env.now)

    again = world.ask(cloud, call)
    elsewhere = world.ask(other, call)

    assert isinstance(again, calls.InterfaceCreated)
    assert isinstance(elsewhere, calls.InterfaceCreated)
    assert again.eni_id == lost
    assert elsewhere.eni_id != lost


def test_a_missing_permission_is_denied() -> None:
    """An API that the role lacks has no effect."""
    world = World(steady(), denied=frozenset({"AssignPrivateIpAddresses"}))
    cloud = world.node()

    with pytest.raises(CallError) as failed:
        world.ask(cloud, calls.AssignPrivateIpAddresses(world.primary(), IP, 1))
    assert failed.value.reason is FailureReason.DENIED


def test_pauses_and_metadata_reads_are_no_requests() -> None:
    """A pause lasts its seconds and up to its jitter more; neither is told to the observer."""
    world = World(CloudNumbers.instant())
    cloud = world.node()

    world.ask(cloud, calls.Pause(2.0))
    assert world.env.now == 2.0
    world.ask(cloud, calls.Pause(10.0, jitter=0.15))
    assert 12.0 < world.env.now <= 13.5
    world.ask(cloud, calls.ReadMetadata())
    assert world.attempts == []


def test_an_eni_is_made_in_the_subnet_of_its_node_unless_told_otherwise() -> None:
    """No subnet means the primary ENI's; DescribeSubnets names all of the zone."""
    world = World(CloudNumbers.instant())
    rng = stream(1, "other")
    small, large = Subnet("small", "10.1.0.0/24", rng), Subnet("large", "10.2.0.0/22", rng)
    world.vpc = Vpc([small, large])
    world.account = replace(world.account, vpc=world.vpc)
    world.vpc.launch_instance("i-1", InstanceShape(4, 15), "small", 0)
    cloud = CloudModel(world.env, world.account, "i-1", Draws(1))

    large_one, small_one = calls.UsableSubnet("large", 1019), calls.UsableSubnet("small", 250, True)
    found = world.ask(cloud, calls.DescribeSubnets())
    assert found == calls.SubnetsDescribed((large_one, small_one))
    assert world.ask(cloud, calls.DescribeInstances()) == calls.InstanceDescribed((0,))
    world.ask(cloud, calls.CreateNetworkInterface(IP, 0, "a"))
    assert small.free == 249
    world.ask(cloud, calls.CreateNetworkInterface(IP, 0, "b", "large"))
    assert large.free == 1018


def test_latencies_do_not_depend_on_other_nodes() -> None:
    """The n-th call of an API on a node takes as long whether its neighbours call or not."""

    def durations(busy: int) -> list[float]:
        world = World(replace(CloudNumbers.load(), buckets={}))
        cloud = world.node(1)
        for number in range(2, 2 + busy):
            world.env.process(ten_assigns(world, world.node(number), number))
        world.env.run(world.env.process(ten_assigns(world, cloud, 1)))
        return [end - start for node, start, end in log if node == 1]

    log: list[tuple[int, float, float]] = []

    def ten_assigns(
        world: World, cloud: CloudModel, number: int
    ) -> Generator[simpy.Event, Any, None]:
        for _ in range(10):
            started = world.env.now
            yield from cloud.answer(calls.AssignPrivateIpAddresses(world.primary(number), IP, 1))
            log.append((number, started, world.env.now))

    alone = durations(0)
    log.clear()
    assert durations(3) == pytest.approx(alone)


def a_story() -> str:
    """Run five nodes against real numbers and tell every attempt and address as JSON."""
    world = World(CloudNumbers.load())

    def live(number: int, cloud: CloudModel) -> Generator[simpy.Event, Any, None]:
        for index in (1, 2, 3):
            created: Any = yield from cloud.answer(calls.CreateNetworkInterface(IP, 5, str(index)))
            yield from cloud.answer(calls.AttachNetworkInterface(created.eni_id, index))
            yield from cloud.answer(calls.Pause(0.5, jitter=0.5))
            yield from cloud.answer(calls.AssignPrivateIpAddresses(created.eni_id, IP, number))

    for number in range(1, 6):
        world.env.process(live(number, world.node(number)))
    world.env.run()
    world.vpc.check()
    held = [
        [str(eni.primary_ip), *map(str, eni.blocks)]
        for number in range(1, 6)
        for eni in world.vpc.interfaces_of(f"i-{number}", world.env.now)
    ]
    return json.dumps([world.attempts, held])


def test_a_run_repeats_under_any_hash_seed() -> None:
    """The same story, to the byte, in processes whose `hash()` differs."""
    root = Path(__file__).parents[2]
    stories = set()
    for seed in ("0", "1", "random"):
        finished = subprocess.run(  # noqa: S603 - this very file
            [sys.executable, __file__],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        )
        stories.add(finished.stdout.strip())

    assert stories == {a_story()}


if __name__ == "__main__":
    print(a_story())  # noqa: T201 - read by the test above
