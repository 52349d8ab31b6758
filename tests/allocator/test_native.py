"""NATIVE acts at once where somebody waits, gathers what can wait, and does not oscillate."""

import random
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise
from typing import Any

import pytest

from cni.allocator.actions import (
    ActionFailed,
    AddBlocks,
    AttachEni,
    DescribeEnis,
    DetachEni,
    EnisDescribed,
    FailureReason,
    LookElsewhere,
    RemoveBlocks,
)
from cni.allocator.behaviour import NATIVE
from cni.allocator.errors import Cause, NoFreeAddress
from cni.allocator.model import AttachedEni, BlockKind, Instant
from cni.allocator.planner import DESCRIBE_PAUSE_S
from cni.allocator.targets import WarmEni, WarmIp, WarmPrefix, WarmTarget
from tests.allocator.fake_ec2 import Driver, FakeEc2, Fault, sandbox


def test_a_burst_is_served_by_one_minimal_set_of_calls() -> None:
    """200 ADDs at once on 15x49 with 20 free: one call fills the primary, four ENIs come whole."""
    node = Driver(WarmIp(20), enis=15, per_eni=49, latency_s=1.0)
    node.run(60)
    before = len(node.actions)
    node.add_many(*range(200))
    node.run(64)
    urgent = node.log(60)[: len(node.actions) - before]
    assert [name for _, name, _ in urgent] == ["AddBlocks"] + ["AttachEni"] * 4
    assert {t for t, _, _ in urgent} == {60.02}
    assert sum(size for _, _, size in urgent) == 200
    assert max(node.served.values()) <= 61.1


def churn(
    target: WarmTarget,
    kind: BlockKind,
    *,
    per_hour: float,
    life_s: float,
    seed: int,
    hours: float = 24,
) -> tuple[int, int, Driver]:
    """Return removals under Poisson churn, and how many were regretted within 10 minutes."""
    node = Driver(target, NATIVE, kind=kind, enis=15, per_eni=49, seed=seed)
    node.checks = False
    rng = random.Random(seed)
    t = 10.0
    for number in range(int(per_hour * hours)):
        t += rng.expovariate(per_hour / 3600)
        if t > hours * 3600:
            break
        node.at(t, lambda number=number: node.add(number))  # type: ignore[misc]
        gone_at = t + rng.expovariate(1 / life_s)
        node.at(gone_at, lambda number=number: leave(node, number))  # type: ignore[misc]
    node.run(hours * 3600)
    removed_at = [t for t, a in node.actions if isinstance(a, RemoveBlocks | DetachEni)]
    grown_at = [t for t, a in node.actions if isinstance(a, AddBlocks | AttachEni)]
    regretted = sum(any(0 <= g - r < 600 for g in grown_at) for r in removed_at)
    return len(removed_at), regretted, node


def leave(node: Driver, number: int) -> None:
    """DEL a pod, whether it was served or still waits."""
    if node.allocator.find(sandbox(number)) is None:
        node.allocator.stop_waiting(sandbox(number), Instant(node.now))
    else:
        node.delete(number)


CHURN = [
    (WarmIp(2), BlockKind.SECONDARY_IP),
    (WarmIp(5, 10), BlockKind.SECONDARY_IP),
    (WarmEni(1), BlockKind.SECONDARY_IP),
    (WarmIp(5), BlockKind.PREFIX),
    (WarmPrefix(1), BlockKind.PREFIX),
]


@pytest.mark.parametrize(("target", "kind"), CHURN)
@pytest.mark.parametrize(("per_hour", "life_s"), [(6, 600), (60, 300), (60, 1800), (600, 120)])
def test_stationary_churn_does_not_oscillate(
    target: WarmTarget, kind: BlockKind, per_hour: float, life_s: float
) -> None:
    """Under steady Poisson churn a removal is regretted as often as it takes to learn, no more.

    Each regret doubles the hold, five times from 600 s to its limit of 14,400 s.
    """
    removed, regretted, _ = churn(target, kind, per_hour=per_hour, life_s=life_s, seed=1)
    assert regretted <= 5, f"{regretted} of {removed} removals were regretted"


def test_no_cooling_address_is_given_back() -> None:
    """What was released less than a cooldown ago stays, however large the surplus."""
    node = Driver(WarmIp(2), enis=3, per_eni=9, cooldown_s=3600.0)
    node.add_many(*range(9))
    node.run(2000)
    node.delete_many(*range(9))
    node.run(2000 + 3600)
    assert not any(isinstance(a, RemoveBlocks | DetachEni) for _, a in node.actions)
    node.run(2000 + 40_000)
    assert node.allocator.counts(Instant(node.now)).addresses_total == 2


def test_surplus_goes_after_the_hold_and_enis_empty() -> None:
    """Nothing goes within 10 minutes of the DELs; in the end the primary alone is left."""
    node = Driver(WarmIp(2), enis=3, per_eni=9)
    node.add_many(*range(20))
    node.run(1000)
    assert len(node.allocator.enis()) == 3
    node.delete_many(*range(20))
    node.run(1599)
    assert not node.log(1000)
    node.run(10_000)
    assert node.per_eni() == [2]
    assert node.allocator.next_wakeup == float("inf")


def test_regret_doubles_the_hold() -> None:
    """Blocks asked for again soon after they went make the next surplus stay twice as long."""
    node = Driver(WarmIp(2), enis=3, per_eni=9)
    held = []
    for turn in range(3):
        start = turn * 20_000.0 + 100
        node.run(start)
        node.add_many(*range(9))
        node.run(start + 100)
        node.delete_many(*range(9))
        while not node.log(start + 100) and node.now < start + 19_000:
            node.run(node.now + 10)
        held.append(node.log(start + 100)[0][0] - start - 100)
        node.run(node.now + 60)
        node.add_many(100 + turn)
        node.add_many(*range(200, 209))
        node.run(node.now + 100)
        node.delete_many(100 + turn, *range(200, 209))
    assert held[1] >= 2 * NATIVE.surplus_hold_s
    assert held[2] >= 4 * NATIVE.surplus_hold_s


def test_failures_are_repeated_after_growing_pauses() -> None:
    """5, 10, 20 … s, never more than 120 s, until one call succeeds."""
    node = Driver(WarmIp(2))
    denied = FailureReason.DENIED
    node.ec2.faults.extend(Fault("AssignPrivateIpAddresses", denied) for _ in range(7))
    node.run(1000)
    tries = [t for t, _, _ in node.log()]
    pauses = [round(b - a, 3) for a, b in pairwise(tries)]
    assert pauses[:6] == [5, 10, 20, 40, 80, 120]
    assert node.allocator.counts(Instant(node.now)).available == 2


def test_nodes_that_were_throttled_together_do_not_come_back_together() -> None:
    """Pauses grow from 5 to 30 s, halved or half as long again by each node's own chance."""
    found = []
    for seed in range(20):
        node = Driver(WarmIp(2), seed=seed)
        fault = Fault("AssignPrivateIpAddresses", FailureReason.THROTTLED)
        node.ec2.faults.extend(fault for _ in range(7))
        node.run(1000)
        found.append([b - a for a, b in pairwise(t for t, _, _ in node.log())])
        assert node.allocator.counts(Instant(node.now)).available == 2

    for nth, middle in enumerate([5, 10, 20, 30, 30, 30]):
        pauses = sorted(pauses[nth] for pauses in found)
        assert 0.5 * middle <= pauses[0] < 0.7 * middle
        assert 1.3 * middle < pauses[-1] <= 1.5 * middle + 0.1
    assert len({round(pauses[0], 3) for pauses in found}) == 20


def test_a_dry_subnet_is_left_alone_for_two_minutes() -> None:
    """What the subnet has is taken, halving; then no call for 120 s, and the refusal says why."""
    ec2 = FakeEc2(enis_max=1, blocks_per_eni=9, subnet_free=2)
    node = Driver(WarmIp(8), enis=1, ec2=ec2)
    node.run(119)
    assert [(t, size) for t, _, size in node.log()] == [(0.0, 8)]
    node.add_many(1, 2)
    with pytest.raises(NoFreeAddress) as refusal:
        node.allocator.assign(sandbox(3), Instant(119))
    assert refusal.value.cause is Cause.SUBNET_FULL
    ec2.subnet_free = 100
    node.run(130)
    assert [t for t, _, _ in node.log(1)] == [pytest.approx(120)]


def test_a_dry_subnet_is_left_for_another_one() -> None:
    """No ENI of the dry subnet is asked again for two minutes; new ENIs go where there is room."""
    ec2 = FakeEc2(enis_max=4, blocks_per_eni=9, subnet_free=2, elsewhere={"roomy": 1000})
    node = Driver(WarmIp(8), enis=4, ec2=ec2)
    node.run(100)
    assert [action for _, action in node.actions] == [
        AddBlocks(1, node.allocator.enis()[0].eni_id, 8, ""),
        LookElsewhere(2, ""),
        AttachEni(3, 1, 6, "", elsewhere=True),
    ]
    assert {at for at, _ in node.actions} == {0.0}
    node.add_many(*range(5))
    node.run(119)
    assert [(name, size) for _, name, size in node.log(100)] == [("AddBlocks", 3), ("AttachEni", 2)]
    assert not node.refusals
    ec2.subnet_free = 1000
    node.add_many(*range(5, 12))
    node.run(600)
    assert isinstance(node.actions[-1][1], AddBlocks)
    assert len(node.served) == 12


def test_a_zone_that_is_dry_is_looked_at_once_a_backoff() -> None:
    """Looking delays nothing and changes nothing: growth is tried as if nobody looked."""
    ec2 = FakeEc2(enis_max=4, blocks_per_eni=9, subnet_free=2, elsewhere={"dry": 1})
    node = Driver(WarmIp(8), enis=4, ec2=ec2, latency_s=0.5)
    node.run(350)
    names = [(t, name) for t, name, _ in node.log()]
    adds = [t for t, name in names if name == "AddBlocks"]
    looks = [t for t, name in names if name == "LookElsewhere"]
    assert adds == [0.0, pytest.approx(120.5), pytest.approx(241.0)]
    assert looks == [pytest.approx(at + 0.5) for at in adds]
    assert len(names) == 6


def test_a_dry_subnet_with_no_room_for_an_eni_is_asked_again_after_two_minutes() -> None:
    """Room elsewhere is of no use to an instance that holds all ENIs it can."""
    ec2 = FakeEc2(enis_max=1, blocks_per_eni=9, subnet_free=2, elsewhere={"roomy": 1000})
    node = Driver(WarmIp(8), enis=1, ec2=ec2)
    node.run(500)
    assert [t for t, _, _ in node.log()] == [0.0, *(pytest.approx(120.0 * n) for n in range(1, 5))]
    node.add_many(1, 2)
    with pytest.raises(NoFreeAddress) as refusal:
        node.allocator.assign(sandbox(3), Instant(500))
    assert refusal.value.cause is Cause.SUBNET_FULL
    assert not refusal.value.may_come


def test_a_missing_prefix_has_its_own_cause() -> None:
    """A subnet without an aligned /28 is fragmented, not full."""
    ec2 = FakeEc2(enis_max=1, subnet_free=5)
    node = Driver(WarmPrefix(1), kind=BlockKind.PREFIX, enis=1, ec2=ec2)
    node.run(1)
    with pytest.raises(NoFreeAddress) as refusal:
        node.allocator.assign(sandbox(1), Instant(1))
    assert refusal.value.cause is Cause.SUBNET_FRAGMENTED


def test_an_unknown_outcome_is_looked_into_before_anything_else() -> None:
    """After a time-out the ENI is described, and what EC2 did is taken in, not asked for twice."""
    node = Driver(WarmIp(2))
    fault = Fault("AssignPrivateIpAddresses", FailureReason.UNKNOWN_OUTCOME, takes_effect=True)
    node.ec2.faults.append(fault)
    node.run(600)
    assert [type(a) for _, a in node.actions] == [AddBlocks, DescribeEnis]
    assert node.allocator.counts(Instant(600)).addresses_total == 2


def test_an_eni_that_an_attach_hid_is_looked_for_again() -> None:
    """Its attach got no answer, and EC2 was asked while another attach was under way.

    Which of the two a new ENI belongs to, EC2's answer did not tell; that they are over does.
    """
    node = Driver(WarmIp(1), enis=4, per_eni=2, latency_s=1.0)
    node.run(10)
    shown = node.ec2.attached()
    node.add_many(*range(6))
    node.run(node.now + 0.5)
    allocator, now = node.allocator, Instant(node.now)
    lost, *_others = (one for one in allocator.in_flight if isinstance(one, AttachEni))
    allocator.apply(ActionFailed(lost, FailureReason.UNKNOWN_OUTCOME, "no answer"), now)
    made = AttachedEni("eni-lost", 1, IPv4Address("10.0.9.1"), (IPv4Network("10.0.9.2/32"),))
    shown = (*shown, made)
    allocator.apply(EnisDescribed(_taken(node, DescribeEnis).id, shown), now)
    for action in list(allocator.in_flight):
        allocator.apply(ActionFailed(action, FailureReason.THROTTLED, "too many"), now)
    assert "eni-lost" not in {eni.eni_id for eni in allocator.enis()}
    assert allocator.in_doubt

    later = Instant(now + DESCRIBE_PAUSE_S + 1)
    allocator.apply(EnisDescribed(_taken(node, DescribeEnis, later).id, shown), later)
    assert "eni-lost" in {eni.eni_id for eni in allocator.enis()}
    assert not allocator.in_doubt


def _taken(node: Driver, kind: type[Any], now: Instant | None = None) -> Any:
    """Take actions until one of this kind comes; the others stay under way."""
    while True:
        action = node.allocator.next_action(Instant(node.now) if now is None else now)
        assert action is not None, kind
        if isinstance(action, kind):
            return action


def test_a_description_that_keeps_failing_is_repeated_slowly() -> None:
    """No tight loop: at most six descriptions a minute, and growth goes on meanwhile."""
    node = Driver(WarmIp(2))
    node.run(10)
    node.ec2.faults.extend(
        Fault("DescribeNetworkInterfaces", FailureReason.DENIED) for _ in range(1000)
    )
    node.allocator.suspect("a test", Instant(10))
    node.add_many(*range(5))
    node.run(70)
    described = [t for t, a in node.actions if isinstance(a, DescribeEnis)]
    assert 2 <= len(described) <= 7
    assert len(node.served) == 5


@pytest.mark.parametrize("api", ["UnassignPrivateIpAddresses", "DetachNetworkInterface"])
def test_a_removal_that_keeps_failing_is_repeated_slowly(api: str) -> None:
    """A failed removal pauses removals for two minutes, and its addresses serve again."""
    node = Driver(WarmIp(2), enis=3, per_eni=9)
    node.add_many(*range(20))
    node.run(100)
    node.ec2.faults.extend(Fault(api, FailureReason.DENIED) for _ in range(1000))
    node.delete_many(*range(20))
    node.run(2000)
    failed = [t for t, o in node.outcomes if isinstance(o, ActionFailed)]
    assert 1 <= len(failed) <= 12
    node.add_many(*range(100, 120))
    assert len(node.allocator.assignments()) >= 9


def test_a_learnt_eni_limit_is_remembered_for_an_hour() -> None:
    """EC2 allowed fewer ENIs than the type's limit: no attach for an hour, then one try."""
    ec2 = FakeEc2(enis_max=2, blocks_per_eni=4)
    node = Driver(WarmEni(1), enis=4, per_eni=4, ec2=ec2)
    node.run(10)
    node.add_many(*range(8))
    node.run(3000)
    tried = [t for t, a in node.actions if isinstance(a, AttachEni)]
    assert len(tried) == 2
    with pytest.raises(NoFreeAddress) as refusal:
        node.allocator.assign(sandbox(99), Instant(3000))
    assert refusal.value.cause is Cause.ENI_LIMIT
    node.run(tried[-1] + 3700)
    assert len([a for _, a in node.actions if isinstance(a, AttachEni)]) == 3


def test_a_full_eni_is_read_again_and_left_alone() -> None:
    """Blocks that somebody else added are taken in; the next one goes on another ENI."""
    node = Driver(WarmIp(4), enis=2, per_eni=9)
    node.run(1)
    node.ec2.put_on(node.allocator.enis()[0].eni_id, BlockKind.SECONDARY_IP, 5)
    node.add_many(*range(4))
    node.run(20)
    assert node.per_eni() == [9]
    node.add_many(*range(10, 18))
    node.run(40)
    assert [len(eni.blocks) for eni in node.ec2.attached()] == node.per_eni()
    assert len(node.served) == 12


def test_an_eni_that_is_gone_serves_nobody_from_then_on() -> None:
    """EC2 is asked what there is, but no pod gets an address of the ENI meanwhile."""
    node = Driver(WarmIp(3), enis=3, per_eni=9, latency_s=1.0)
    node.add_many(*range(9))
    node.run(100)
    gone = node.allocator.enis()[1].eni_id
    node.ec2.delete(gone)
    node.ec2.faults.extend(
        Fault("DescribeNetworkInterfaces", FailureReason.THROTTLED) for _ in range(5)
    )
    node.add_many(9)
    node.run(106.5)
    assert isinstance(node.outcomes[-1][1], ActionFailed)
    assert node.allocator.counts(Instant(node.now)).available == 0
    node.add_many(10, 11, 12)
    node.run(300)
    later = [one for one in node.allocator.assignments() if one.since > 106]
    assert len(later) == 3
    assert gone not in {one.eni_id for one in later}


def test_waiting_adds_are_served_in_order_of_arrival() -> None:
    """Nobody overtakes: not a later ADD, even where an address is free again."""
    node = Driver(WarmIp(1), enis=1, per_eni=2, cooldown_s=5.0)
    node.run(1)
    node.add_many(1, 2, 3, 4)
    node.run(2)
    node.delete(1)
    node.delete(2)
    node.add(5)
    node.run(30)
    assert [n for n in node.served if n > 2] == [3, 4]
    assert node.allocator.waiting == 1


def test_who_stops_waiting_gives_its_demand_back() -> None:
    """An ADD that hung up before the call went out asks for nothing."""
    node = Driver(WarmEni(0), enis=2, per_eni=2)
    node.run(1)
    node.add(1)
    node.allocator.stop_waiting(sandbox(1), Instant(1))
    node.run(100)
    assert node.actions == []


def test_warm_eni_0_acts_on_demand_only() -> None:
    """Nothing is kept warm, whole ENIs come when an ADD waits, and nothing flaps."""
    node = Driver(WarmEni(0), enis=3, per_eni=3)
    node.run(60)
    assert node.actions == []
    node.add_many(*range(4))
    node.run(3660)
    assert [(name, size) for _, name, size in node.log()] == [("AddBlocks", 3), ("AttachEni", 3)]
    assert len(node.served) == 4


def test_nothing_is_asked_for_beyond_max_pods() -> None:
    """The pool stops at max-pods, rounded up to whole blocks, whatever the target wants."""
    for kind, blocks in ((BlockKind.SECONDARY_IP, 20), (BlockKind.PREFIX, 2)):
        node = Driver(WarmIp(50), kind=kind, enis=4, per_eni=30, pods=20)
        node.run(3600)
        node.add_many(*range(20))
        node.run(7200)
        assert sum(node.per_eni()) == blocks


def test_two_actions_never_meet_on_one_eni() -> None:
    """While a call on an ENI is under way, more demand goes elsewhere or waits."""
    node = Driver(WarmIp(2), enis=2, per_eni=9, latency_s=3.0)
    node.run(10)
    node.add_many(*range(4))
    node.run(11)
    node.add_many(*range(10, 13))
    node.run(12)
    on_primary = [a for a in node.allocator.in_flight if isinstance(a, AddBlocks)]
    assert len(on_primary) == 1
    node.run(60)
    assert len(node.served) == 7


def test_a_description_older_than_an_action_does_not_undo_it() -> None:
    """EC2 looked before the blocks came: they stay."""
    node = Driver(WarmIp(2))
    node.run(10)
    node.allocator.suspect("a test", Instant(10))
    question = node.allocator.next_action(Instant(15))
    assert isinstance(question, DescribeEnis)
    old = node.perform(question)
    node.now = 15
    node.add_many(*range(5))
    node.now = 16
    node.pump()
    assert len(node.served) == 5
    total = node.allocator.counts(Instant(16)).addresses_total
    node.tell(old)
    node.allocator.check()
    assert node.allocator.counts(Instant(16)).addresses_total == total


def test_an_eni_under_way_is_taken_in_once() -> None:
    """A description may show an ENI before the outcome of its attach is told."""
    node = Driver(WarmEni(1), enis=3, per_eni=3)
    node.run(10)
    node.add_many(1)
    attach = node.allocator.next_action(Instant(15))
    assert isinstance(attach, AttachEni)
    came = node.perform(attach)
    node.allocator.suspect("a test", Instant(15))
    question = node.allocator.next_action(Instant(20))
    assert isinstance(question, DescribeEnis)
    node.now = 20
    node.tell(node.perform(question))
    node.tell(came)
    node.allocator.check()
    assert node.allocator.counts(Instant(20)).addresses_total == 6


def test_a_later_add_does_not_overtake() -> None:
    """An address that came free belongs to who waits longest, though nobody served it yet."""
    node = Driver(WarmIp(1), enis=1, per_eni=1, cooldown_s=5.0)
    node.run(1)
    node.add_many(1)
    node.delete(1)
    node.add(2)
    with pytest.raises(NoFreeAddress):
        node.allocator.assign(sandbox(3), Instant(50))
    (served,) = node.allocator.serve_waiting(Instant(50))
    assert served.sandbox == sandbox(2)
