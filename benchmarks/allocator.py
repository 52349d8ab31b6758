"""(a) One pair of assign and release on a 15 x 49 node, with 20 and with 700 pods on it."""

from ipaddress import IPv4Address, IPv4Network
from time import perf_counter

from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.allocator.model import AttachedEni, BlockKind, EniId, Instant, NodeLimits, SandboxKey
from cni.allocator.targets import WarmIp

ENIS, PER_ENI = 15, 49
PAIRS, ROUNDS = 20_000, 7
STEP_S = 2.0
WANTED_US, WANTED_RATIO = 3.0, 1.3


def measure() -> list[tuple[str, str, str]]:
    """Return rows of (what, measured, wanted)."""
    rows = []
    for behaviour in (NATIVE, UPSTREAM):
        few = many = float("inf")
        for _ in range(ROUNDS):
            # In alternation, so that both meet the same noise.
            few = min(few, pair_us(behaviour, 20))
            many = min(many, pair_us(behaviour, 700))
        name = behaviour.name
        rows.append((f"{name}: pair with 20 assigned", f"{few:.2f} us", ""))
        rows.append((f"{name}: pair with 700 assigned", f"{many:.2f} us", f"<= {WANTED_US:.0f} us"))
        rows.append((f"{name}: 700 over 20", f"{many / few:.2f}", f"<= {WANTED_RATIO}"))
    return rows


def pair_us(behaviour: Behaviour, assigned: int) -> float:
    """Return microseconds for assign, release and the question for the next action.

    Time advances 2 s a pair, so that addresses cool and thaw and upstream's ticks pass; no
    journal. MINIMUM_IP_TARGET holds all 735 addresses, so that nothing is asked of EC2.
    """
    allocator = _node(behaviour, assigned)
    now = 1.0
    while allocator.next_action(Instant(now)) is not None:
        raise AssertionError("the node is meant to be at rest")
    keys = [SandboxKey("aws-cni", f"pod-{n}", "eth0") for n in range(PAIRS)]
    assign, release, next_action = allocator.assign, allocator.release, allocator.next_action
    started = perf_counter()
    for key in keys:
        assign(key, now)  # type: ignore[arg-type]
        release(key, now)  # type: ignore[arg-type]
        next_action(now)  # type: ignore[arg-type]
        now += STEP_S
    elapsed = perf_counter() - started
    allocator.check()
    return elapsed / PAIRS * 1e6


def _node(behaviour: Behaviour, assigned: int) -> Allocator:
    attached = [
        AttachedEni(
            EniId(f"eni-{n}"),
            n,
            IPv4Address(f"10.1.{n}.4"),
            tuple(IPv4Network((f"10.0.{n}.{host}", 32)) for host in range(1, PER_ENI + 1)),
        )
        for n in range(ENIS)
    ]
    allocator = Allocator(
        target=WarmIp(5, minimum=ENIS * PER_ENI),
        limits=NodeLimits(ENIS, PER_ENI, ENIS * PER_ENI + 2),
        kind=BlockKind.SECONDARY_IP,
        attached=attached,
        taken=(),
        assignments=(),
        now=Instant(0.0),
        behaviour=behaviour,
    )
    for n in range(assigned):
        allocator.assign(SandboxKey("aws-cni", f"held-{n}", "eth0"), Instant(0.0))
    return allocator
