"""UPSTREAM does what amazon-vpc-cni-k8s v1.23 was seen to do when it was executed."""

from collections import Counter
from itertools import pairwise

import pytest

from cni.allocator.actions import AddBlocks, FailureReason
from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import NATIVE, UPSTREAM
from cni.allocator.errors import Cause, NoFreeAddress
from cni.allocator.model import BlockKind, Instant, PoolCounts
from cni.allocator.targets import WarmEni, WarmIp, WarmPrefix, WarmTarget
from cni.allocator.ticking import Ticking
from tests.allocator.fake_ec2 import Driver, FakeEc2, sandbox


def names_since(node: Driver, since: float) -> list[tuple[float, str]]:
    """Return instants and names of the actions since an instant."""
    return [(t, name) for t, name, _ in node.log(since)]


def test_default_target_grows_one_eni_a_tick_and_frees_one_a_tick() -> None:
    """3x3: ENIs come at 62.5 and 67.5, and go 32.5 and 37.5 s after the last DEL."""
    node = Driver(WarmEni(1), UPSTREAM, enis=3, per_eni=3)
    node.run(60)
    node.add_many(*range(9))
    node.run(670)
    assert names_since(node, 60) == [(62.5, "AttachEni"), (67.5, "AttachEni")]
    assert max(node.served.values()) == 70
    node.delete_many(*range(9))
    node.run(2000)
    assert names_since(node, 670) == [(702.5, "DetachEni"), (707.5, "DetachEni")]


def test_an_ip_target_ramps_by_five_each_tick_and_gives_cooling_addresses_back() -> None:
    """15x49 with 5/10: 10,5,5,5,5,5,5,5,4 then an ENI with 1; 40 go back 2.5 s after the DELs."""
    node = Driver(WarmIp(5, 10), UPSTREAM, enis=15, per_eni=49)
    node.run(60)
    node.add_many(*range(45))
    node.run(300)
    assert [size for _, name, size in node.log() if name == "AddBlocks"] == [
        10, 5, 5, 5, 5, 5, 5, 5, 4,
    ]  # fmt: skip
    assert [(name, size) for _, name, size in node.log()][-1] == ("AttachEni", 1)
    assert 32.5 <= max(node.served.values()) - 60 <= 37.5
    node.delete_many(*range(45))
    node.run(310)
    gone = [(t, size) for t, name, size in node.log(300) if name == "RemoveBlocks"]
    assert {t for t, _ in gone} == {302.5}
    assert sum(size for _, size in gone) == 40


def test_warm_eni_0_creates_and_frees_without_end() -> None:
    """3x3, 3 pods: create at 62.5, free at 122.5, create at 127.5 ...: 18 cycles in 20 minutes."""
    node = Driver(WarmEni(0), UPSTREAM, enis=3, per_eni=3)
    node.run(60)
    node.add_many(*range(3))
    node.run(60 + 1200)
    log = names_since(node, 60)
    assert log[:4] == [
        (62.5, "AttachEni"),
        (122.5, "DetachEni"),
        (127.5, "AttachEni"),
        (187.5, "DetachEni"),
    ]
    assert Counter(name for _, name in log)["DetachEni"] == 18


def stranded(target: WarmTarget, kind: BlockKind, pods: int, enis: int, per_eni: int) -> int:
    """Return how many of 40 nodes keep a second ENI after all their pods have gone."""
    kept = 0
    for seed in range(40):
        node = Driver(target, UPSTREAM, kind=kind, enis=enis, per_eni=per_eni, seed=seed)
        node.checks = False
        node.run(60)
        node.add_many(*range(pods))
        node.run(660)
        node.delete_many(*range(pods))
        node.run(2000)
        kept += len(node.allocator.enis()) > 1
    return kept


def test_the_last_free_prefix_strands_an_eni() -> None:
    """3x3 prefixes, 33 pods then none: 36 of 40 upstream runs keep a second ENI."""
    assert 28 <= stranded(WarmPrefix(1), BlockKind.PREFIX, 33, 3, 3) <= 40


def test_free_addresses_left_on_a_second_eni_strand_it() -> None:
    """15x49 with 5/10, 45 pods then none: 33 of 40 upstream runs keep the second ENI."""
    assert 25 <= stranded(WarmIp(5, 10), BlockKind.SECONDARY_IP, 45, 15, 49) <= 39


def test_a_dry_subnet_pauses_new_enis_for_120_s() -> None:
    """3x9, 20 free addresses, 20 pods: 18 get one, and CreateNetworkInterface fails every 125 s."""
    ec2 = FakeEc2(enis_max=3, blocks_per_eni=9, subnet_free=20)
    node = Driver(WarmEni(1), UPSTREAM, enis=3, per_eni=9, ec2=ec2)
    node.run(60)
    node.add_many(*range(20))
    node.run(1200)
    tries = [t for t, name, _ in node.log() if name == "AttachEni"]
    later = [b - a for a, b in pairwise(tries)][1:]
    assert len(node.served) == 18
    assert len(later) > 5
    assert set(later) == {125.0}


def test_a_dry_subnet_met_by_an_assign_starts_no_pause() -> None:
    """With no ENI to create, two calls fail each tick: 1440 an hour on one ENI (ipamd.go:1140)."""
    ec2 = FakeEc2(enis_max=1, blocks_per_eni=9, subnet_free=0)
    node = Driver(WarmIp(5), UPSTREAM, enis=1, per_eni=9, ec2=ec2)
    node.run(60)
    before = ec2.counts["AssignPrivateIpAddresses"]
    node.run(3660)
    assert ec2.counts["AssignPrivateIpAddresses"] - before == 1440


def test_the_missing_prefix_that_ec2_names_badly_starts_no_pause() -> None:
    """Upstream does not know the bad value that a create reports for a missing /28 (cni#3105)."""
    tries = {}
    for reason in (FailureReason.NO_FREE_PREFIX, FailureReason.NO_FREE_PREFIX_UNNAMED):
        node = Driver(WarmPrefix(1), UPSTREAM, kind=BlockKind.PREFIX, enis=3, per_eni=1)
        node.run(60)
        node.ec2.subnet_free = 0
        node.ec2._refuse_dry = lambda _kind, reason=reason: refuse(reason)  # type: ignore[method-assign,misc]
        node.add_many(1)
        node.run(660)
        tries[reason] = len(node.log(60))
    assert tries[FailureReason.NO_FREE_PREFIX] == 5
    assert tries[FailureReason.NO_FREE_PREFIX_UNNAMED] == 120


def refuse(reason: FailureReason) -> None:
    """Fail as EC2 does."""
    from cni.cloud.calls import CallError

    raise CallError(reason, reason.name)


def test_nothing_grows_at_max_pods() -> None:
    """The pool stops at max-pods, though a whole ENI may lead beyond it (ipamd.go:2623)."""
    node = Driver(WarmEni(1), UPSTREAM, enis=4, per_eni=9, pods=10)
    node.run(60)
    node.add_many(*range(10))
    node.run(600)
    assert node.per_eni() == [9, 9]
    for number in range(10, 18):
        node.allocator.assign(sandbox(number), Instant(600))
    with pytest.raises(NoFreeAddress) as refusal:
        node.allocator.assign(sandbox(18), Instant(600))
    assert refusal.value.cause is Cause.MAX_PODS
    assert not refusal.value.may_come


def test_max_eni_bounds_the_enis_and_unmanaged_ones_count() -> None:
    """The limit holds for ours and theirs together."""
    ec2 = FakeEc2(enis_max=3, blocks_per_eni=2)
    ours = ec2.attached()
    ec2.attach_stranger(1, BlockKind.SECONDARY_IP, 0)
    node = Driver(WarmEni(1), UPSTREAM, enis=3, per_eni=2, ec2=ec2, attached=ours, taken=(1,))
    node.run(60)
    node.add_many(*range(6))
    node.run(600)
    assert [eni.device_index for eni in node.allocator.enis()] == [0, 2]
    assert {cause for _, cause in node.refusals[-5:]} == {Cause.ENI_LIMIT}


def test_the_same_sandbox_gets_the_same_address() -> None:
    """ADD is idempotent on its key."""
    node = Driver(WarmIp(2), UPSTREAM)
    node.run(60)
    first = node.allocator.assign(sandbox(1), Instant(60))
    assert node.allocator.assign(sandbox(1), Instant(70)) == first
    assert node.allocator.counts(Instant(70)).assigned == 1


@pytest.mark.parametrize("behaviour", [UPSTREAM, NATIVE])
def test_cooling_addresses_hide_a_shortfall(behaviour: object) -> None:
    """Warm 2, minimum 23, 19 assigned, 4 cooling: upstream refuses until they cool (cni#2896)."""
    node = Driver(WarmIp(2, 23), behaviour, enis=3, per_eni=29)  # type: ignore[arg-type]
    node.run(60)
    node.add_many(*range(23))
    node.run(61)
    node.delete_many(*range(19, 23))
    grown = node.allocator.counts(Instant(61)).addresses_total
    node.run(61.5)
    if behaviour is UPSTREAM:
        assert grown == 23
        node.add_many(100)
        assert node.refusals == [(61.5, Cause.ALL_COOLING)]
        node.run(85)
        assert {cause for _, cause in node.refusals} == {Cause.ALL_COOLING}
        assert node.log(61) == []
        node.run(100)
        assert node.served[100] == pytest.approx(91.5, abs=2.5)
    else:
        node.add_many(100)
        node.run(62)
        assert node.served[100] == pytest.approx(61.5, abs=0.1)


class EveryTick(Ticking):
    """Look at every tick, as ipamd does."""

    def _next_change(self, _counts: PoolCounts, now: Instant) -> float:
        return self._tick_after(now)

    def stir(self, now: Instant) -> None:
        """Need no call: the next tick comes anyway."""


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (WarmEni(1), BlockKind.SECONDARY_IP),
        (WarmEni(0), BlockKind.SECONDARY_IP),
        (WarmIp(2, 5), BlockKind.SECONDARY_IP),
        (WarmIp(3), BlockKind.PREFIX),
        (WarmPrefix(1), BlockKind.PREFIX),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_skipped_ticks_change_nothing(
    target: WarmTarget,
    kind: BlockKind,
    dry: bool,  # noqa: FBT001 - a parameter of the test
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Woken only when a decision can change, the same actions come at the same instants."""
    logs = []
    for planner in (Ticking, EveryTick):
        monkeypatch.setattr("cni.allocator.allocator.Ticking", planner)
        ec2 = FakeEc2(enis_max=4, blocks_per_eni=5, subnet_free=100 if dry else 10**6)
        node = Driver(target, UPSTREAM, kind=kind, enis=4, per_eni=5, ec2=ec2, seed=3)
        # Without this the dice of shuffled choices would fall more often where more ticks look.
        node.allocator._pool.enis_in_ring = lambda pool=node.allocator._pool: list(pool._places)  # type: ignore[method-assign,misc]
        node.run(31.7)
        for turn in range(12):
            node.run(node.now + 0.37 * turn)
            node.add_many(*range(turn * 3, turn * 3 + 3))
            node.run(node.now + 17.3 * turn)
            done = sorted(n for n in node.served if node.allocator.find(sandbox(n)))
            node.delete_many(*done[: turn % 4])
            node.run(node.now + 41.9)
        node.delete_many(*sorted(n for n in node.served if node.allocator.find(sandbox(n))))
        node.run(node.now + 900)
        logs.append((node.actions, node.served))
    assert logs[0] == logs[1]


def test_one_action_at_a_time() -> None:
    """The pool loop is one goroutine: while a call is under way nothing else is asked for."""
    node = Driver(WarmIp(5), UPSTREAM, latency_s=7.0)
    assert isinstance(node.allocator, Allocator)
    node.pump()
    (action,) = node.allocator.in_flight
    assert isinstance(action, AddBlocks)
    assert node.allocator.next_action(Instant(6)) is None
    assert node.allocator.next_wakeup == float("inf")
    node.run(7)
    assert node.allocator.next_wakeup == 9.5
