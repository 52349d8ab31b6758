"""Scripts for both drivers: pods, EC2 failures and a restart, and the log that they must share."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from cni.allocator.actions import CloudAction
from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.allocator.errors import NoFreeAddress
from cni.allocator.journal import Start
from cni.allocator.model import Assignment, AttachedEni, BlockKind, Instant, NodeLimits, SandboxKey
from cni.allocator.targets import WarmEni, WarmIp, WarmPrefix, WarmTarget
from cni.cloud.calls import Call
from sim.cloud import CallFault
from sim.cloud_numbers import CloudNumbers
from sim.streams import Draws, stream
from sim.subnet import Subnet
from sim.vpc import InstanceShape, Vpc

INSTANCE = "i-0123456789abcdef0"
SUBNET = "subnet-0123456789abcdef0"
ELSEWHERE = "subnet-0123456789abcdef1"
COOLDOWN_S = 30.0
ADD_WAIT_S = 60.0
END_S = 600.0

FAULTS = (
    "InsufficientFreeAddressesInSubnet",
    "RequestLimitExceeded",
    "UnauthorizedOperation",
    "InternalError",
)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that comes and goes at these instants."""

    name: str
    comes: float
    goes: float


@dataclass(frozen=True, slots=True)
class Script:
    """One life of one node; `faults` fail the n-th attempt of an API, counted from 1."""

    seed: int
    kind: BlockKind
    behaviour: Behaviour
    target: WarmTarget
    shape: InstanceShape
    cidr: str
    pods: tuple[Pod, ...]
    faults: dict[tuple[str, int], CallFault]
    restart_at: float
    pods_max: int = 110
    elsewhere: str = ""
    """Another subnet of the zone; empty: there is none."""

    @property
    def numbers(self) -> CloudNumbers:
        """EC2's latencies; one attempt each, so that the SDK's own pauses play no part."""
        numbers = CloudNumbers.load()
        return replace(numbers, sdk=replace(numbers.sdk, attempts=1), buckets={})

    def vpc(self) -> Vpc:
        """Return the VPC before the instance is launched."""
        subnet = Subnet(SUBNET, self.cidr, stream(self.seed, "subnet"), zone="eu-west-1a")
        if not self.elsewhere:
            return Vpc([subnet])
        other = Subnet(ELSEWHERE, self.elsewhere, stream(self.seed, "elsewhere"), zone="eu-west-1a")
        return Vpc([subnet, other])

    def draws(self) -> Draws:
        """Return this node's random numbers."""
        return Draws(self.seed, INSTANCE)


def generate(seed: int) -> Script:
    """Make up a script: any kind, behaviour and target, with a burst, churn and failures."""
    rng = random.Random(seed)
    kind = rng.choice(list(BlockKind))
    shape = rng.choice([InstanceShape(3, 10), InstanceShape(4, 15), InstanceShape(3, 4)])
    targets: list[WarmTarget] = [WarmIp(rng.randint(1, 6), rng.randint(0, 12))]
    targets.append(WarmEni(1) if kind is BlockKind.SECONDARY_IP else WarmPrefix(1))
    room = shape.enis * (shape.ipv4_per_eni - 1)
    pods = []
    for number in range(rng.randint(5, room)):
        comes = rng.choice([rng.uniform(20, 25), rng.uniform(20, 400)])
        pods.append(Pod(f"pod-{number}", comes, comes + rng.uniform(1, 400)))
    apis = [
        "AssignPrivateIpAddresses",
        "CreateNetworkInterface",
        "AttachNetworkInterface",
        "DetachNetworkInterface",
        "UnassignPrivateIpAddresses",
        "DescribeNetworkInterfaces",
        "ModifyNetworkInterfaceAttribute",
    ]
    faults = {
        (rng.choice(apis), rng.randint(1, 4)): CallFault(
            rng.choice(FAULTS), takes_effect=rng.random() < 0.3
        )
        for _ in range(rng.randint(0, 4))
    }
    cidr, restart_at = rng.choice(["10.0.0.0/24", "10.0.0.0/25"]), rng.uniform(100, 400)
    elsewhere = rng.random() < 0.3
    return Script(
        seed=seed,
        kind=kind,
        behaviour=rng.choice([NATIVE, UPSTREAM]),
        target=rng.choice(targets),
        shape=shape,
        # Beside another one it is so small that it runs dry.
        cidr=cidr if not elsewhere else "10.0.0.0/27" if kind.addresses == 1 else "10.0.0.0/26",
        pods=tuple(pods),
        faults=faults,
        restart_at=restart_at,
        elsewhere="10.0.2.0/23" if elsewhere else "",
    )


@dataclass(slots=True)
class Log:
    """What happened, one line each; two drivers of one script must write the same."""

    lines: list[str] = field(default_factory=list)

    def add(self, now: float, *what: object) -> None:
        """Note what happened at an instant, to the microsecond."""
        self.lines.append(f"{now:11.6f} " + " ".join(map(str, what)))

    def call(self, now: float, call: Call) -> None:
        """Note a call as it is made."""
        self.add(now, "call", call)


class LoggedAllocator(Allocator):
    """The allocator, with every action it hands out in the log."""

    def __init__(self, start: Start, log: Log) -> None:
        super().__init__(**start.arguments())
        self._log = log

    def next_action(self, now: Instant) -> CloudAction | None:
        action = super().next_action(now)
        if action is not None:
            self._log.add(now, "action", action)
        return action


@dataclass(slots=True)
class Player:
    """Plays a script's pods against an allocator; the driver calls it at the right instants."""

    script: Script
    log: Log
    poke: Callable[[], None]
    at: Callable[[float, Callable[[], None]], object]
    """Calls back at an instant, on the driver's clock."""
    now: Callable[[], Instant]
    allocator: LoggedAllocator = field(init=False)
    waiting: dict[str, float] = field(default_factory=dict)
    cooling: dict[IPv4Address, float] = field(default_factory=dict)
    between: bool = False
    """Whether the daemon is stopping: no command is served."""

    def start(self, attached: tuple[AttachedEni, ...]) -> None:
        """Start the daemon's allocator with what EC2 has and what it held before."""
        script = self.script
        now = self.now()
        before = self.allocator.assignments() if hasattr(self, "allocator") else ()
        self.allocator = LoggedAllocator(
            Start(
                target=script.target,
                limits=NodeLimits(
                    script.shape.enis, script.shape.ipv4_per_eni - 1, script.pods_max
                ),
                kind=script.kind,
                behaviour=script.behaviour,
                now=now,
                attached=attached,
                assignments=before,
                cooldown_s=COOLDOWN_S,
                cooling=tuple(
                    (address, Instant(until))
                    for address, until in self.cooling.items()
                    if until > now
                ),
                seed=script.seed,
            ),
            self.log,
        )
        self.log.add(now, "started with", len(before), "held,", *self.allocator.dropped)
        self.between = False

    def play(self) -> None:
        """Have every pod come and go."""
        for pod in self.script.pods:
            self.at(pod.comes, lambda pod=pod: self.come(pod))
            self.at(pod.goes, lambda pod=pod: self.go(pod))

    def come(self, pod: Pod) -> None:
        now = self.now()
        if self.between:
            self.log.add(now, pod.name, "found no daemon")
            return
        try:
            assignment = self.allocator.assign(_key(pod.name), now)
        except NoFreeAddress as refusal:
            if not refusal.may_come:
                self.log.add(now, pod.name, "refused", refusal.cause.value)
                self.poke()
                return
            self.allocator.wait(_key(pod.name), now)
            self.waiting[pod.name] = now
            self.at(now + ADD_WAIT_S, lambda: self.lose_patience(pod, now))
        else:
            self.log.add(now, pod.name, "has", assignment.address)
        self.poke()

    def served(self, assignment: Assignment) -> None:
        name = assignment.sandbox.container_id
        del self.waiting[name]
        self.log.add(self.now(), name, "is served", assignment.address)

    def lose_patience(self, pod: Pod, since: float) -> None:
        if self.between or self.waiting.get(pod.name) != since:
            return
        now = self.now()
        del self.waiting[pod.name]
        self.allocator.stop_waiting(_key(pod.name), now)
        self.log.add(now, pod.name, "refused", self.allocator.refusal(now).cause.value)
        self.poke()

    def go(self, pod: Pod) -> None:
        now = self.now()
        if self.between:
            self.at(now + 10.0, lambda: self.go(pod))
            return
        key = _key(pod.name)
        if self.allocator.find(key) is not None:
            address = self.allocator.release(key, now).address
            self.cooling[address] = now + COOLDOWN_S
            self.log.add(now, pod.name, "gives back", address)
        elif self.waiting.pop(pod.name, None) is not None:
            self.allocator.stop_waiting(key, now)
            self.log.add(now, pod.name, "gives up")
        self.poke()

    def stop(self) -> None:
        """Stop serving; who waits in line is refused."""
        self.between = True
        for name in list(self.waiting):
            self.allocator.stop_waiting(_key(name), self.now())
            self.log.add(self.now(), name, "refused: stopping")
        self.waiting.clear()


def life_of(number: int) -> str:
    """Return what tells one start of the daemon from the next, in the tokens of its calls."""
    return f"{INSTANCE}-{number}"


def _key(name: str) -> SandboxKey:
    return SandboxKey("aws-cni", name, "eth0")


class Faulty:
    """Tells which attempt of an API fails; both drivers count alike."""

    def __init__(self, script: Script) -> None:
        self._faults = script.faults
        self._counts: dict[str, int] = {}

    def __call__(self, call: Call, _now: float) -> CallFault | None:
        count = self._counts[call.api] = self._counts.get(call.api, 0) + 1
        return self._faults.get((call.api, count))
