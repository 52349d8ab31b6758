"""What the allocator costs by the wall clock, as ratios to a loop that is measured beside it.

Simulated time cannot see that `assign` became slow. A clock can, but seconds belong to one
machine in one mood. So each step is timed in short rounds, in alternation with a pool of plain
Python (`_Reference`): what slows the machine slows both. Two more things keep neighbours out.
Each round runs twice and the second one counts, since caches are cold after somebody else had
the processor; and the figure is the ratio of the lower quartiles over all rounds, which forgets
the rounds that were interrupted (benchmarks/README.md has what each of these brought).

    assign_ratio.BEHAVIOUR    one assign, where 300 to 700 of 15 x 49 addresses are taken
    release_ratio.BEHAVIOUR   one release of the same addresses
    add_ratio                 ADD and DEL under native, from the plug-in's frame to the reply's:
                              all that the daemon computes, without kernel, ledger and socket

The unit is taking and giving back one object in the reference. The clock is an argument; nothing
here reads one.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from statistics import quantiles
from typing import TypeVar

from cni import wire
from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import PRESETS, Behaviour
from cni.allocator.model import AttachedEni, BlockKind, EniId, Instant, NodeLimits, SandboxKey
from cni.allocator.targets import WarmIp
from cni.spec.command import Add, Del, parse
from cni.spec.result import Interface, IpConfig, Result, result_json

Clock = Callable[[], float]
Seconds = TypeVar("Seconds", float, tuple[float, float])

ENIS, PER_ENI = 15, 49
HELD = 300
STEPS = 400
"""A round of `assign` takes the node from 300 to 700 of its 735 addresses."""
ADDS = 6
"""Rounds of all kinds take about half a millisecond: a longer one would be interrupted more often
than the reference beside it, and look slow on a busy machine."""
ROUNDS = 60
BETWEEN_S = 60.0
"""From round to round in the allocator's own time: what a round released has cooled."""

WALL_CLOCK_FIGURES = (
    *(f"{step}_ratio.{behaviour}" for step in ("assign", "release") for behaviour in PRESETS),
    "add_ratio",
)

_CONFIG = b'{"cniVersion":"1.0.0","name":"aws-cni","type":"aws-cni","mtu":"9001"}'
_MAC = "0a:58:0a:00:00:07"


def measure(
    clock: Clock, *, rounds: int = ROUNDS, progress: Callable[[int], None] = lambda _: None
) -> Mapping[str, float]:
    """Return all ratios by figure.

    `clock` gives seconds, `rounds` is at least 2, and `progress` hears of each.
    """
    reference = _Reference()
    pools = {name: _Pool(preset) for name, preset in PRESETS.items()}
    adds = _Adds(PRESETS["native"])
    reference_s: list[float] = []
    spent_s: dict[str, list[float]] = {figure: [] for figure in WALL_CLOCK_FIGURES}
    with _uncollected():
        for done in range(rounds):
            reference_s.append(_second(reference.round_s, clock))
            for name, pool in pools.items():
                assign_s, release_s = _second(pool.round_s, clock)
                spent_s[f"assign_ratio.{name}"].append(assign_s)
                spent_s[f"release_ratio.{name}"].append(release_s)
            spent_s["add_ratio"].append(_second(adds.round_s, clock))
            progress(done + 1)
    unit_s = _undisturbed(reference_s)
    return {figure: round(_undisturbed(all_s) / unit_s, 3) for figure, all_s in spent_s.items()}


def _second(one_round: Callable[[Clock], Seconds], clock: Clock) -> Seconds:
    """Run a round for the caches, and once more for its time."""
    one_round(clock)
    return one_round(clock)


def _undisturbed(all_s: Sequence[float]) -> float:
    """Return the lower quartile: what a round takes where nobody comes in between."""
    return quantiles(all_s, n=4)[0]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the collector away: how long it takes depends on everything else in the process."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Slot:
    """What the reference moves around: an object as small as an address."""

    __slots__ = ("holder", "number", "until")

    def __init__(self, number: int) -> None:
        self.number = number
        self.holder: tuple[str, str] | None = None
        self.until = 0.0


class _Reference:
    """A pool as plain as can be, of the real one's size: it must never change.

    None of it is code of ours, so nothing that we make slower slows it. Its size matters: where
    others use the processor as well, caches are cold, which costs the more the more is touched.
    """

    def __init__(self) -> None:
        self.free = deque(_Slot(n) for n in range(ENIS * PER_ENI))
        self.held: dict[tuple[str, str], _Slot] = {}
        self.cooling: list[tuple[float, int, _Slot]] = []
        self.keys = [(f"pod-{n}", "eth0") for n in range(STEPS)]
        self.now = 1.0

    def round_s(self, clock: Clock) -> float:
        """Take and give back once for each key; return seconds for one of them."""
        free, held, cooling, now = self.free, self.held, self.cooling, self.now
        started = clock()
        while cooling and cooling[0][0] <= now:
            free.append(heappop(cooling)[2])
        for key in self.keys:
            if key not in held:
                slot = free.popleft()
                slot.holder = key
                held[key] = slot
        for key in self.keys:
            slot = held.pop(key)
            slot.holder = None
            slot.until = now + BETWEEN_S / 2
            heappush(cooling, (slot.until, slot.number, slot))
        elapsed = clock() - started
        self.now = now + BETWEEN_S
        return elapsed / STEPS


class _Pool:
    """One node's allocator, and rounds of assign and release on it."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.allocator = _node(behaviour)
        self.now = Instant(1.0)
        self.keys = [SandboxKey("aws-cni", f"pod-{n}", "eth0") for n in range(STEPS)]
        for n in range(HELD):
            self.allocator.assign(SandboxKey("aws-cni", f"held-{n}", "eth0"), self.now)

    def round_s(self, clock: Clock) -> tuple[float, float]:
        """Return seconds for one assign and for one release."""
        now, keys = self.now, self.keys
        assign, release = self.allocator.assign, self.allocator.release
        started = clock()
        for key in keys:
            assign(key, now)
        assigned = clock()
        for key in keys:
            release(key, now)
        released = clock()
        # Ticks that fall due in between are the node's, not assign's.
        assert self.allocator.next_action(now) is None, "the node is meant to be at rest"
        self.now = Instant(now + BETWEEN_S)
        return (assigned - started) / STEPS, (released - assigned) / STEPS


class _Adds:
    """One node's allocator behind the daemon's words: frames in, frames out."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.allocator = _node(behaviour)
        self.now = Instant(1.0)
        self.frames = [(_frame("ADD", n), _frame("DEL", n)) for n in range(ADDS)]

    def round_s(self, clock: Clock) -> float:
        """Return seconds for one ADD with its DEL."""
        now, allocator = self.now, self.allocator
        started = clock()
        for add, delete in self.frames:
            _answer(allocator, add, now)
            _answer(allocator, delete, now)
        elapsed = clock() - started
        self.now = Instant(now + BETWEEN_S)
        return elapsed / ADDS


def _answer(allocator: Allocator, frame: bytes, now: Instant) -> bytes:
    """Answer one request as the daemon does (`cni/daemon/commands.py`), but for its effects."""
    variables, stdin = wire.decode_request(frame[wire.HEADER_BYTES :])
    command = parse({name.decode(): value.decode() for name, value in variables.items()}, stdin)
    assert isinstance(command, Add | Del)
    key = SandboxKey(command.conf.name, command.container_id, command.ifname)
    printed = b""
    if isinstance(command, Add):
        link = Interface(command.ifname, _MAC, sandbox=command.netns)
        address = allocator.assign(key, now).address
        ips = (IpConfig(IPv4Interface(f"{address}/32"), None, 0),)
        printed = result_json(Result((link,), ips), command.conf.cni_version)
    else:
        allocator.release(key, now)
    assert allocator.next_action(now) is None, "the node is meant to be at rest"
    return wire.encode_reply(0, printed)


def _frame(command: str, number: int) -> bytes:
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": f"{number:064x}",
        "CNI_NETNS": f"/var/run/netns/cni-{number:08x}",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-{number}",
        "CNI_PATH": "/opt/cni/bin",
    }
    encoded = {name.encode(): value.encode() for name, value in variables.items()}
    return wire.encode_request(encoded, _CONFIG)


def _node(behaviour: Behaviour) -> Allocator:
    """Return a node at rest that holds all addresses it can: nothing is ever asked of EC2."""
    attached = [
        AttachedEni(
            EniId(f"eni-{n}"),
            n,
            IPv4Address(f"10.1.{n}.4"),
            tuple(IPv4Network((f"10.0.{n}.{host}", 32)) for host in range(1, PER_ENI + 1)),
        )
        for n in range(ENIS)
    ]
    return Allocator(
        target=WarmIp(5, minimum=ENIS * PER_ENI),
        limits=NodeLimits(ENIS, PER_ENI, ENIS * PER_ENI + 2),
        kind=BlockKind.SECONDARY_IP,
        attached=attached,
        taken=(),
        assignments=(),
        now=Instant(0.0),
        behaviour=behaviour,
    )
