"""EC2 as one node sees it, and a driver that plays a node's day on it in no time at all.

`FakeEc2` answers the calls of the recipes, so that the tests count the calls that a node makes.
`Driver` asks, performs and tells like the daemon does, on a clock that is a number.
"""

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from cni.allocator.actions import CloudAction, CloudOutcome, FailureReason
from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import NATIVE, Behaviour
from cni.allocator.errors import Cause, NoFreeAddress
from cni.allocator.model import (
    Assignment,
    AttachedEni,
    Block,
    BlockKind,
    EniId,
    Instant,
    NodeLimits,
    SandboxKey,
)
from cni.allocator.targets import WarmEni, WarmTarget
from cni.cloud.calls import (
    AssignPrivateIpAddresses,
    AttachNetworkInterface,
    BlocksAssigned,
    Call,
    CallError,
    CreateNetworkInterface,
    DeleteNetworkInterface,
    DescribeInstances,
    DescribeNetworkInterfaces,
    DescribeSubnets,
    DetachNetworkInterface,
    Done,
    InstanceDescribed,
    Interface,
    InterfaceAttached,
    InterfaceCreated,
    InterfacesDescribed,
    ModifyNetworkInterfaceAttribute,
    Pause,
    ReadMetadata,
    Reply,
    SubnetsDescribed,
    UnassignPrivateIpAddresses,
    UsableSubnet,
)
from cni.cloud.recipes import Recipe, recipe_for

PRIMARY = EniId("eni-0")


@dataclass
class FakeEni:
    """An ENI in the fake EC2; `device_index` None: detached."""

    eni_id: EniId
    device_index: int | None
    primary_ip: IPv4Address
    blocks: list[Block]
    subnet_id: str | None = None

    def as_attached(self) -> AttachedEni:
        """Return the ENI as a description shows it."""
        index = -1 if self.device_index is None else self.device_index
        return AttachedEni(self.eni_id, index, self.primary_ip, tuple(self.blocks))


@dataclass
class Fault:
    """The next call of that API fails; `takes_effect`: after EC2 has done it."""

    api: str
    reason: FailureReason
    takes_effect: bool = False


@dataclass
class FakeEc2:
    """Answer calls at once; never give a block twice while it is held."""

    enis_max: int = 15
    blocks_per_eni: int = 49
    subnet_free: float = float("inf")
    """Addresses left in the subnet."""

    elsewhere: dict[str, int] = field(default_factory=dict)
    """Addresses left in other subnets of the zone, by id; nothing is ever taken from them."""

    metadata_shows: bool = True
    interfaces: dict[EniId, FakeEni] = field(default_factory=dict)
    faults: deque[Fault] = field(default_factory=deque)
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start with a bare primary ENI."""
        self._names = itertools.count(1)
        self._singles = itertools.count(int(IPv4Address("10.0.0.10")))
        self._prefixes = itertools.count(int(IPv4Address("11.0.0.0")), 16)
        self._returned: dict[int, deque[Block]] = {32: deque(), 28: deque()}
        primary = FakeEni(PRIMARY, 0, IPv4Address("10.0.0.5"), [])
        self.interfaces.setdefault(PRIMARY, primary)

    # What tests look at.

    @property
    def counts(self) -> Counter[str]:
        """Calls by API name, pauses left out."""
        return Counter(call.api for call in self.calls if not isinstance(call, Pause))

    def attached(self) -> tuple[AttachedEni, ...]:
        """Return the ENIs on the instance, by device index."""
        shown = [eni for eni in self.interfaces.values() if eni.device_index is not None]
        return tuple(sorted((e.as_attached() for e in shown), key=lambda e: e.device_index))

    def has(self, address: IPv4Address) -> bool:
        """Whether a block on an attached ENI covers the address."""
        return any(address in block for eni in self.attached() for block in eni.blocks)

    # Answering.

    def answer(self, call: Call) -> Reply:
        """Do what the call asks; raise CallError where a fault or a limit says so."""
        self.calls.append(call)
        fault = next((f for f in self.faults if f.api in (call.api, "*")), None)
        if fault is not None and not isinstance(call, Pause):
            self.faults.remove(fault)
            if fault.takes_effect:
                self._do(call)
            raise CallError(fault.reason, fault.reason.name)
        return self._do(call)

    def _do(self, call: Call) -> Reply:  # noqa: C901 - one case for each call
        match call:
            case DescribeSubnets():
                free = int(min(self.subnet_free, 1000))
                others = [UsableSubnet(name, left) for name, left in self.elsewhere.items()]
                return SubnetsDescribed((*others, UsableSubnet("subnet-1", free, own=True)))
            case CreateNetworkInterface():
                if self._left_in(call.subnet_id) < call.blocks * call.kind.addresses + 1:
                    self._refuse_dry(call.kind)
                eni_id = EniId(f"eni-{next(self._names)}")
                (address,) = self._new_blocks(BlockKind.SECONDARY_IP, 1, call.subnet_id)
                blocks = self._new_blocks(call.kind, call.blocks, call.subnet_id)
                eni = FakeEni(eni_id, None, address.network_address, blocks, call.subnet_id)
                self.interfaces[eni_id] = eni
                return InterfaceCreated(eni_id, eni.primary_ip, tuple(blocks))
            case DescribeInstances():
                return InstanceDescribed(tuple(eni.device_index for eni in self.attached()))
            case AttachNetworkInterface():
                eni = self._find(call.eni_id)
                attached = self.attached()
                if len(attached) >= self.enis_max:
                    raise CallError(FailureReason.ENI_LIMIT, "AttachmentLimitExceeded")
                if call.device_index in {other.device_index for other in attached}:
                    raise CallError(FailureReason.OTHER, "InvalidParameterValue")
                eni.device_index = call.device_index
                return InterfaceAttached(f"attach-{eni.eni_id}")
            case AssignPrivateIpAddresses():
                eni = self._find(call.eni_id)
                if len(eni.blocks) + call.count > self.blocks_per_eni:
                    raise CallError(FailureReason.ENI_FULL, "PrivateIpAddressLimitExceeded")
                if self._left_in(eni.subnet_id) < call.count * call.kind.addresses:
                    self._refuse_dry(call.kind)
                blocks = self._new_blocks(call.kind, call.count, eni.subnet_id)
                eni.blocks += blocks
                return BlocksAssigned(tuple(blocks))
            case _:
                return self._do_more(call)

    def _do_more(self, call: Call) -> Reply:  # noqa: PLR0911 - one case for each call
        match call:
            case UnassignPrivateIpAddresses():
                eni = self._find(call.eni_id)
                if not set(call.blocks) <= set(eni.blocks):
                    raise CallError(FailureReason.OTHER, "InvalidParameterValue")
                self.take_away(call.eni_id, call.blocks)
                return Done()
            case DetachNetworkInterface():
                self._find(call.eni_id).device_index = None
                return Done()
            case DeleteNetworkInterface():
                self._find(call.eni_id)
                self.delete(call.eni_id)
                return Done()
            case DescribeNetworkInterfaces():
                if call.eni_ids:
                    found = [self._find(eni_id) for eni_id in call.eni_ids]
                    return InterfacesDescribed(tuple(_interface(eni) for eni in found))
                return self._shown()
            case ReadMetadata():
                return self._shown() if self.metadata_shows else InterfacesDescribed(())
            case ModifyNetworkInterfaceAttribute() | Pause():
                return Done()
            case _:
                raise AssertionError(call)

    def _shown(self) -> InterfacesDescribed:
        shown = [eni for eni in self.interfaces.values() if eni.device_index is not None]
        return InterfacesDescribed(tuple(_interface(eni) for eni in shown))

    def _find(self, eni_id: EniId) -> FakeEni:
        if eni_id not in self.interfaces:
            raise CallError(FailureReason.ENI_GONE, "InvalidNetworkInterfaceID.NotFound")
        return self.interfaces[eni_id]

    def _left_in(self, subnet_id: str | None) -> float:
        return self.elsewhere.get(subnet_id or "", self.subnet_free)

    def _refuse_dry(self, kind: BlockKind) -> None:
        if kind is BlockKind.PREFIX:
            raise CallError(FailureReason.NO_FREE_PREFIX, "InsufficientCidrBlocks")
        raise CallError(FailureReason.SUBNET_FULL, "InsufficientFreeAddressesInSubnet")

    # What happens beside the node.

    def _new_blocks(self, kind: BlockKind, count: int, subnet_id: str | None = None) -> list[Block]:
        """Take fresh blocks; after some time EC2 gives returned ones again."""
        if subnet_id not in self.elsewhere:
            self.subnet_free -= count * kind.addresses
        found: list[Block] = []
        for _ in range(count):
            returned = self._returned[kind.value]
            if len(returned) > 3:
                found.append(returned.popleft())
            elif kind is BlockKind.PREFIX:
                found.append(IPv4Network((next(self._prefixes), 28)))
            else:
                found.append(IPv4Network((next(self._singles), 32)))
        return found

    def put_on(self, eni_id: EniId, kind: BlockKind, count: int) -> list[Block]:
        """Let somebody else add blocks to an ENI."""
        blocks = self._new_blocks(kind, count)
        self.interfaces[eni_id].blocks += blocks
        return blocks

    def take_away(self, eni_id: EniId, blocks: tuple[Block, ...]) -> None:
        """Let blocks of an ENI go back to the subnet."""
        eni = self.interfaces[eni_id]
        for block in blocks:
            eni.blocks.remove(block)
            self._returned[block.prefixlen].append(block)
            if eni.subnet_id not in self.elsewhere:
                self.subnet_free += block.num_addresses

    def delete(self, eni_id: EniId) -> None:
        """Let an ENI disappear with all it holds."""
        self.take_away(eni_id, tuple(self.interfaces[eni_id].blocks))
        if self.interfaces.pop(eni_id).subnet_id not in self.elsewhere:
            self.subnet_free += 1

    def attach_stranger(self, device_index: int, kind: BlockKind, count: int) -> EniId:
        """Let somebody else attach an ENI of ours to the instance."""
        created = self._do(CreateNetworkInterface(kind, count, ""))
        assert isinstance(created, InterfaceCreated)
        self.interfaces[created.eni_id].device_index = device_index
        return created.eni_id


def _interface(eni: FakeEni) -> Interface:
    attachment = "" if eni.device_index is None else f"attach-{eni.eni_id}"
    return Interface(eni.as_attached(), attachment)


def run(recipe: Recipe, ec2: FakeEc2) -> CloudOutcome:
    """Run a recipe to its end against the fake; pauses take no time."""
    step: Callable[[], Call] = lambda: next(recipe)  # noqa: E731 - replaced each turn
    while True:
        try:
            call = step()
        except StopIteration as stop:
            outcome: CloudOutcome = stop.value
            return outcome
        try:
            reply = ec2.answer(call)
        except CallError as error:
            step = lambda error=error: recipe.throw(error)  # type: ignore[misc]  # noqa: E731
        else:
            step = lambda reply=reply: recipe.send(reply)  # type: ignore[misc]  # noqa: E731


def sandbox(number: int) -> SandboxKey:
    """Return the key of pod `number`."""
    return SandboxKey("net", f"pod-{number}", "eth0")


class Driver:
    """One node: an allocator, its EC2, pods by number, and a clock that is a number."""

    def __init__(
        self,
        target: WarmTarget = WarmEni(1),
        behaviour: Behaviour = NATIVE,
        *,
        kind: BlockKind = BlockKind.SECONDARY_IP,
        enis: int = 3,
        per_eni: int = 9,
        pods: int = 10**6,
        seed: int = 0,
        latency_s: float = 0.0,
        ec2: FakeEc2 | None = None,
        make: Callable[..., Allocator] = Allocator,
        now: float = 0.0,
        **given: Any,
    ) -> None:
        """Start a fresh node; `given` goes to the allocator as it is."""
        self.ec2 = ec2 or FakeEc2(enis_max=enis, blocks_per_eni=per_eni)
        self.kind = kind
        self.behaviour = behaviour
        self.now = now
        self.latency_s = latency_s
        fresh = {"attached": self.ec2.attached(), "taken": (), "assignments": (), "now": now}
        self.allocator = make(
            target=target,
            limits=NodeLimits(enis, per_eni, pods),
            kind=kind,
            behaviour=behaviour,
            seed=seed,
            **(fresh | given),
        )
        self.actions: list[tuple[float, CloudAction]] = []
        self.outcomes: list[tuple[float, CloudOutcome]] = []
        self.served: dict[int, float] = {}
        """When each pod got its address."""
        self.refusals: list[tuple[float, Cause]] = []
        self.retry_s = 2.5
        self.checks = True
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    # Time.

    def at(self, instant: float, event: Callable[[], None]) -> None:
        """Have something happen at an instant."""
        heapq.heappush(self._events, (instant, next(self._order), event))

    def run(self, until: float) -> None:
        """Let time pass."""
        while True:
            event_at = self._events[0][0] if self._events else float("inf")
            then = min(self.allocator.next_wakeup, event_at)
            if then > until:
                break
            self.now = max(then, self.now)
            if event_at <= self.now:
                heapq.heappop(self._events)[2]()
            self.pump()
        self.now = until

    def pump(self) -> None:
        """Serve who waits, and do all that the allocator asks for now."""
        allocator = self.allocator
        for _ in range(10_000):
            for assignment in allocator.serve_waiting(Instant(self.now)):
                self.served[_number(assignment)] = self.now
            action = allocator.next_action(Instant(self.now))
            if self.checks:
                allocator.check()
            if action is None:
                return
            self.actions.append((self.now, action))
            outcome = self.perform(action)
            if self.latency_s:
                self.at(self.now + self.latency_s, lambda outcome=outcome: self.tell(outcome))  # type: ignore[misc]
            else:
                self.tell(outcome)
        raise AssertionError(f"the allocator asks without end, last for {self.actions[-5:]}")

    def perform(self, action: CloudAction) -> CloudOutcome:
        """Run the action's recipe."""
        return run(recipe_for(action, self.kind, self.behaviour, "token"), self.ec2)

    def tell(self, outcome: CloudOutcome) -> None:
        """Tell the allocator what became of an action."""
        self.outcomes.append((self.now, outcome))
        self.allocator.apply(outcome, Instant(self.now))

    # Pods.

    def add(self, number: int) -> Assignment | None:
        """ADD a pod; refused, it waits in line or tries again, as the behaviour has it."""
        try:
            assignment = self.allocator.assign(sandbox(number), Instant(self.now))
        except NoFreeAddress as refusal:
            self.refusals.append((self.now, refusal.cause))
            if self.behaviour.add_wait_s and refusal.may_come:
                self.allocator.wait(sandbox(number), Instant(self.now))
            else:
                self.at(self.now + self.retry_s, lambda: _none(self.add(number)))
            return None
        self.served[number] = self.now
        return assignment

    def delete(self, number: int) -> None:
        """DEL a pod."""
        self.allocator.release(sandbox(number), Instant(self.now))

    def add_many(self, *numbers: int) -> None:
        """ADD pods at one instant."""
        for number in numbers:
            self.add(number)
        self.pump()

    def delete_many(self, *numbers: int) -> None:
        """DEL pods at one instant."""
        for number in numbers:
            self.delete(number)
        self.pump()

    # What tests look at.

    def log(self, since: float = 0.0) -> list[tuple[float, str, int]]:
        """Return instants, names and sizes of the actions since an instant."""
        return [(t, type(a).__name__, size_of(a)) for t, a in self.actions if t >= since]

    def per_eni(self) -> list[int]:
        """Return the number of blocks on each ENI."""
        return [len(eni.blocks) for eni in self.allocator.enis()]


def size_of(action: CloudAction) -> int:
    """Return the number of blocks that an action is about."""
    size = getattr(action, "count", getattr(action, "blocks", 0))
    return size if isinstance(size, int) else len(size)


def _number(assignment: Assignment) -> int:
    return int(assignment.sandbox.container_id.removeprefix("pod-"))


def _none(_: object) -> None:
    """Drop a result where an event gives none."""
