"""Whatever EC2, pods and restarts do in whatever order, the allocator keeps its promises."""

import json
from itertools import count
from math import inf

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cni.allocator.actions import (
    AddBlocks,
    AttachEni,
    CloudAction,
    CloudOutcome,
    DescribeEnis,
    DetachEni,
    FailureReason,
    RemoveBlocks,
)
from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.allocator.errors import NoFreeAddress
from cni.allocator.journal import Journaled, Start, replay
from cni.allocator.model import BlockKind, EniId, Instant, NodeLimits
from cni.allocator.targets import WarmEni, WarmIp, WarmPrefix, WarmTarget
from cni.cloud.recipes import recipe_for
from tests.allocator.fake_ec2 import PRIMARY, FakeEc2, Fault, run, sandbox
from tests.allocator.likeness import difference_of

MAX_EXAMPLES = 150
ENIS = 4
PER_ENI = 4
COOLDOWN_S = 30.0

APIS = (
    "*",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "DescribeNetworkInterfaces",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "ReadMetadata",
)


class Machine(RuleBasedStateMachine):
    """Pods come and go, calls fail, EC2 changes behind the node's back, the daemon restarts."""

    behaviour: Behaviour
    kind: BlockKind
    targets: tuple[WarmTarget, ...]

    def __init__(self) -> None:
        super().__init__()
        self.ec2 = FakeEc2(enis_max=ENIS, blocks_per_eni=PER_ENI)
        self.now = Instant(1000.1)
        self.pods: dict[int, object] = {}
        self.waiting: set[int] = set()
        self.numbers = count()
        self.released: dict[object, float] = {}
        self.taken_away: set[object] = set()
        self.under_way: list[tuple[CloudAction, CloudOutcome | None]] = []
        self.early = False
        self.actions = 0

    @initialize(which=st.integers(0, 20), pods=st.sampled_from((3, 7, 10**6)), seed=st.integers(0))
    def begin(self, which: int, pods: int, seed: int) -> None:
        self.target = self.targets[which % len(self.targets)]
        self.limits = NodeLimits(ENIS, PER_ENI, pods)
        self.seed = seed
        self.start(())

    def start(self, assignments: tuple) -> None:
        cooling = sorted(
            ((a, Instant(t + COOLDOWN_S)) for a, t in self.released.items()),
            key=lambda pair: pair[1],
        )
        self.lines: list[str] = []
        start = Start(
            target=self.target,
            limits=self.limits,
            kind=self.kind,
            behaviour=self.behaviour,
            now=self.now,
            attached=self.ec2.attached(),
            assignments=assignments,
            cooldown_s=COOLDOWN_S,
            cooling=tuple(cooling),
            seed=self.seed,
        )
        self.allocator = Journaled(start, self.lines.append)
        self.under_way.clear()
        self.waiting.clear()
        held = {a.sandbox: a.address for a in self.allocator.assignments()}
        self.pods = {n: held[sandbox(n)] for n in self.pods if sandbox(n) in held}
        self.pump()

    # What the node does by itself.

    def pump(self) -> None:
        """Serve and ask until nothing is left to do now."""
        for _ in range(200):
            for assignment in self.allocator.serve_waiting(self.now):
                number = int(assignment.sandbox.container_id.removeprefix("pod-"))
                self.waiting.remove(number)
                self.got(number, assignment.address)
            action = self.allocator.next_action(self.now)
            if action is None:
                return
            self.accept(action)
        raise AssertionError("it asks without end")

    def accept(self, action: CloudAction) -> None:
        self.actions += 1
        on_eni = [
            a.eni_id for a, _ in self.under_way if not isinstance(a, AttachEni | DescribeEnis)
        ]
        attaching = sum(isinstance(a, AttachEni) for a, _ in self.under_way)
        enis = {eni.eni_id: eni for eni in self.allocator.enis()}
        if not self.behaviour.parallel:
            assert not self.under_way
        leaving: tuple = ()
        match action:
            case AttachEni():
                assert len(enis) + attaching < ENIS, "one ENI too many"
                assert 0 < action.blocks <= PER_ENI
                assert action.device_index not in {eni.device_index for eni in enis.values()}
            case AddBlocks():
                assert action.eni_id not in on_eni, "two actions on one ENI"
                assert 0 < action.count <= PER_ENI - len(enis[action.eni_id].blocks)
            case RemoveBlocks():
                assert action.eni_id not in on_eni, "two actions on one ENI"
                leaving = action.blocks
            case DetachEni():
                assert action.eni_id not in on_eni, "two actions on one ENI"
                assert action.eni_id != PRIMARY
                leaving = enis[action.eni_id].blocks
        held = [str(address) for address in self.pods.values()]
        for block in leaving:
            assert not any(str(host) in held for host in block), f"{block} is held and leaves"
            if self.behaviour.spares_cooling or isinstance(action, DetachEni):
                assert not any(self.cools(host) for host in block), f"{block} cools and leaves"
        self.under_way.append((action, self.do(action) if self.early else None))

    def do(self, action: CloudAction) -> CloudOutcome:
        before = {eni.eni_id: set(eni.blocks) for eni in self.ec2.attached()}
        outcome = run(recipe_for(action, self.kind, self.behaviour, "t"), self.ec2)
        after = {eni.eni_id: set(eni.blocks) for eni in self.ec2.attached()}
        for eni_id, blocks in before.items():
            self.forget_cooling(blocks - after.get(eni_id, set()))
        return outcome

    def forget_cooling(self, blocks: object) -> None:
        """Given back to EC2, an address cools for nobody: EC2 may give it again at once."""
        for block in blocks:  # type: ignore[attr-defined]
            for address in [a for a in self.released if a in block]:  # type: ignore[operator]
                del self.released[address]

    def cools(self, address: object) -> bool:
        return self.now <= self.released.get(address, -inf) + COOLDOWN_S

    def got(self, number: int, address: object) -> None:
        assert address not in self.pods.values(), f"{address} is held twice"
        assert not self.cools(address), f"{address} still cools"
        self.released.pop(address, None)
        self.pods[number] = address

    # What happens to it.

    @rule(pods=st.integers(1, 9), waits=st.booleans())
    def add(self, pods: int, waits: bool) -> None:  # noqa: FBT001 - Hypothesis calls by name
        for _ in range(pods):
            number = next(self.numbers)
            try:
                assignment = self.allocator.assign(sandbox(number), self.now)
            except NoFreeAddress:
                if waits:
                    self.allocator.wait(sandbox(number), self.now)
                    self.waiting.add(number)
            else:
                self.got(number, assignment.address)
        self.pump()

    @precondition(lambda self: self.pods)
    @rule(data=st.data(), pods=st.integers(1, 9))
    def delete(self, data: st.DataObject, pods: int) -> None:
        for _ in range(min(pods, len(self.pods))):
            number = data.draw(st.sampled_from(sorted(self.pods)))
            address = self.pods.pop(number)
            assert self.allocator.release(sandbox(number), self.now).address == address
            if address not in self.taken_away:
                self.released[address] = self.now
        self.pump()

    @precondition(lambda self: self.waiting)
    @rule()
    def give_up(self) -> None:
        number = min(self.waiting)
        self.waiting.remove(number)
        self.allocator.stop_waiting(sandbox(number), self.now)
        self.pump()

    @rule(seconds=st.sampled_from((0.0, 0.02, 1.0, 5.0, 29.0, 30.0, 61.7, 125.0, 700.0)))
    def wait(self, seconds: float) -> None:
        """Let time pass, waking as a driver does."""
        until = self.now + seconds
        for _ in range(500):
            wakeup = self.allocator.next_wakeup
            if wakeup > until:
                break
            self.now = Instant(max(self.now, wakeup))
            self.pump()
        self.now = Instant(until)
        self.pump()

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """Tell the outcome of one action under way; EC2 may have acted on it long before."""
        action, outcome = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.allocator.apply(outcome or self.do(action), self.now)
        self.pump()

    @rule(early=st.booleans())
    def act(self, early: bool) -> None:  # noqa: FBT001 - Hypothesis calls by name
        """From now on EC2 acts when an action is handed out, or when its outcome is told."""
        self.early = early

    @rule(
        api=st.sampled_from(APIS),
        reason=st.sampled_from(FailureReason),
        takes_effect=st.booleans(),
        times=st.integers(1, 3),
    )
    def break_calls(
        self,
        api: str,
        reason: FailureReason,
        takes_effect: bool,  # noqa: FBT001 - Hypothesis calls by name
        times: int,
    ) -> None:
        effect = takes_effect and reason is FailureReason.UNKNOWN_OUTCOME
        self.ec2.faults.extend(Fault(api, reason, effect) for _ in range(times))

    @rule(data=st.data())
    def lose_a_block(self, data: st.DataObject) -> None:
        """Somebody else takes a block away."""
        blocks = [(eni.eni_id, b) for eni in self.ec2.attached() for b in eni.blocks]
        if blocks:
            eni_id, block = data.draw(st.sampled_from(blocks))
            self.ec2.take_away(eni_id, (block,))
            self.lost((block,))

    @rule(data=st.data())
    def lose_an_eni(self, data: st.DataObject) -> None:
        """Somebody else deletes an ENI."""
        enis = [eni for eni in self.ec2.attached() if eni.eni_id != PRIMARY]
        if enis:
            eni = data.draw(st.sampled_from(enis))
            self.ec2.delete(eni.eni_id)
            self.lost(eni.blocks)

    def lost(self, blocks: tuple) -> None:
        self.forget_cooling(blocks)
        self.taken_away.update(host for block in blocks for host in block)

    @rule(data=st.data(), kind=st.sampled_from(BlockKind))
    def meet_a_strange_block(self, data: st.DataObject, kind: BlockKind) -> None:
        """Somebody else adds a block, perhaps of the other kind."""
        enis = [eni for eni in self.ec2.attached() if len(eni.blocks) < PER_ENI]
        if enis:
            self.ec2.put_on(EniId(data.draw(st.sampled_from(enis)).eni_id), kind, 1)

    @rule()
    def meet_a_strange_eni(self) -> None:
        """Somebody else attaches an ENI of ours."""
        taken = {eni.device_index for eni in self.ec2.attached()}
        free = [index for index in range(ENIS) if index not in taken]
        if free:
            self.ec2.attach_stranger(free[0], self.kind, 2)

    @rule()
    def reconcile(self) -> None:
        self.allocator.suspect("a minute has gone by", self.now)
        self.pump()

    @rule(keeps=st.booleans())
    def restart(self, keeps: bool) -> None:  # noqa: FBT001 - Hypothesis calls by name
        """Come back with the ledger; actions under way took effect or did not."""
        self.check_replay()
        for action, outcome in self.under_way:
            if keeps and outcome is None:
                self.do(action)
        self.start(self.allocator.assignments())

    @rule()
    def cut(self) -> None:
        """Open a new segment of the journal: what follows replays from a snapshot."""
        self.check_replay()
        header = self.allocator.snapshot()
        restored = Start.decode(json.loads(header)).allocator()
        assert difference_of(self.allocator, restored) is None
        self.lines[:] = [header]

    # What must hold.

    @invariant()
    def books_balance(self) -> None:
        if hasattr(self, "allocator"):
            self.allocator.check()
            held = [a.address for a in self.allocator.assignments()]
            assert len(set(held)) == len(held), "an address at two sandboxes"
            assert sorted(map(int, held)) == sorted(map(int, self.pods.values()))
            for address in held:
                assert self.ec2.has(address) or address in self.taken_away, address
            assert self.allocator.in_flight == tuple(action for action, _ in self.under_way)
            assert self.allocator.waiting == len(self.waiting)

    def check_replay(self) -> None:
        report = replay(self.lines)
        assert report.mismatch is None, report.mismatch
        assert not report.torn

    def teardown(self) -> None:
        """Left alone with an EC2 that works, it comes to rest, and its journal replays."""
        if not hasattr(self, "allocator"):
            return
        self.ec2.faults.clear()
        # NATIVE may remember a limit for an hour; the pods that wait get an answer meanwhile.
        for _ in range(3):
            self.allocator.suspect("the end", self.now)
            self.settle(300.0)
        self.actions = 0
        self.settle(86_400.0)
        flaps = isinstance(self.target, WarmEni) and self.target.enis == 0
        if not (flaps and self.behaviour is UPSTREAM):
            assert self.actions <= 30, "it does not come to rest"
        self.books_balance()
        self.check_replay()

    def settle(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(5000):
            self.pump()
            while self.under_way:
                action, outcome = self.under_way.pop()
                self.allocator.apply(outcome or self.do(action), self.now)
                self.pump()
            wakeup = self.allocator.next_wakeup
            if wakeup > until:
                break
            self.now = Instant(max(self.now, wakeup))
            if self.actions > 300:
                break
        else:
            raise AssertionError("it wakes without end")
        self.now = Instant(until)
        self.pump()


IPS = (WarmIp(2), WarmIp(1, 5), WarmIp(0, 3), WarmIp(8, 3))
VARIANTS = {
    "native-ips": (NATIVE, BlockKind.SECONDARY_IP, (*IPS, WarmEni(1), WarmEni(0), WarmEni(2))),
    "native-prefixes": (NATIVE, BlockKind.PREFIX, (*IPS, WarmPrefix(1), WarmPrefix(0))),
    "upstream-ips": (UPSTREAM, BlockKind.SECONDARY_IP, (*IPS, WarmEni(1), WarmEni(0))),
    "upstream-prefixes": (UPSTREAM, BlockKind.PREFIX, (*IPS, WarmPrefix(1), WarmPrefix(2))),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_promises_hold(variant: str) -> None:
    """Books balance, no address is held twice or while it cools, limits hold, and peace comes."""
    behaviour, kind, targets = VARIANTS[variant]
    body = {"behaviour": behaviour, "kind": kind, "targets": targets}
    machine = type("Machine", (Machine,), body)
    checks = settings(
        max_examples=MAX_EXAMPLES,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    machine.TestCase.settings = checks
    machine.TestCase().runTest()
