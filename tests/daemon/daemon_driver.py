"""A script through the daemon's maintainer, on an event loop whose time is turned by hand."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from cni.allocator.model import AttachedEni, EniId
from cni.cloud.calls import Call, CallError, Pause, ReadMetadata, Reply
from cni.daemon.clock import LoopClock
from cni.daemon.maintainer import Maintainer, Manner
from sim.cloud import CallFault
from sim.cloud_numbers import INSTANT
from sim.metadata import attached_eni
from sim.streams import Draws
from sim.vpc import Vpc
from tests.daemon import virtual_loop
from tests.daemon.scripts import END_S, INSTANCE, Faulty, Log, Player, Script, life_of


class Effect(Protocol):
    """Lets calls take effect in a VPC, at once."""

    vpc: Vpc

    async def __call__(self, call: Call, fault: CallFault | None) -> Reply:
        """Do what EC2 or the metadata does when a request reaches it; CallError if refused."""
        ...


class Quiet:
    """Hears of actions and keeps nothing."""

    def action_started(self, kind: str) -> None: ...

    def action_ended(self, kind: str, seconds: float, failure: str) -> None: ...

    def vanished(self, *, enis: int, addresses: int) -> None: ...


class NoLinks:
    """A node whose kernel needs nothing."""

    async def install(self, eni: AttachedEni) -> None: ...

    async def remove(self, eni_id: EniId) -> None: ...


class SlowCloud:
    """An EC2 whose answers take the simulator's time, whoever gives them.

    The request travels for half the latency, takes effect, and the answer travels back: as in
    `sim/cloud.py`. What takes effect is `effect`'s to say: real boto3 against the lab, or the
    model itself.
    """

    def __init__(self, script: Script, draws: Draws, effect: Effect, log: Log) -> None:
        self._numbers = script.numbers
        self._faulty = Faulty(script)
        self._draws = draws
        self._effect = effect
        self._log = log
        self.spans: list[tuple[Call, float, float]] = []
        """Every call with its start and its latency as drawn."""

    async def answer(self, call: Call) -> Reply:
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._log.call(started, call)
        # Asked at the start, as the simulator does: calls may overtake each other.
        fault = self._faulty(call, started)
        latency = self._numbers.latencies.get(call.api, INSTANT)
        seconds = latency.at(self._draws.uniform(call.api)) if latency.median_s else 0.0
        self.spans.append((call, started, seconds))
        if isinstance(call, ReadMetadata):
            await asyncio.sleep(seconds)
            return await self._effect(call, fault)
        await asyncio.sleep(seconds / 2)
        try:
            reply = await self._effect(call, fault)
        except CallError:
            await asyncio.sleep(started + seconds - loop.time())
            raise
        await asyncio.sleep(started + seconds - loop.time())
        return reply


class LoggingMaintainer(Maintainer):
    """The maintainer, with its pauses in the log as the simulator has them."""

    log: Log

    async def _answer(self, call: Call) -> Reply:
        if isinstance(call, Pause):
            self.log.call(self._clock.now(), call)
        return await super()._answer(call)


@dataclass(frozen=True)
class Played:
    """What came of a script: its log, every call with start and latency, and who answered."""

    lines: list[str]
    spans: list[tuple[Call, float, float]]
    effect: Effect


def play(script: Script, make_effect: Callable[[Script], Effect]) -> Played:
    """Play a script in the loop's own time."""
    return virtual_loop.run(_play(script, make_effect))


async def _play(script: Script, make_effect: Callable[[Script], Effect]) -> Played:
    log = Log()
    loop = asyncio.get_running_loop()
    clock = LoopClock()
    draws = script.draws()
    effect = make_effect(script)
    vpc = effect.vpc
    cloud = SlowCloud(script, draws, effect, log)
    maintainers: list[LoggingMaintainer] = []
    restarts: set[asyncio.Task[None]] = set()

    def poke() -> None:
        maintainers[-1].poke()

    player = Player(
        script, log, poke, loop.call_at,
        clock.now,
    )  # fmt: skip

    def start() -> None:
        shown = vpc.interfaces_of(INSTANCE, loop.time())
        player.start(tuple(attached_eni(eni) for eni in shown))
        maintainer = LoggingMaintainer(
            player.allocator,
            cloud,
            NoLinks(),
            clock,
            Manner(
                script.kind,
                script.behaviour,
                life_of(len(maintainers)),
                lambda: draws.uniform("pause"),
            ),
            player.served,
            Quiet(),
            structlog.stdlib.get_logger(),
        )
        maintainer.log = log
        maintainers.append(maintainer)
        maintainer.poke()

    async def restart() -> None:
        player.stop()
        await maintainers[-1].stop(END_S)
        start()

    start()
    player.play()

    def begin_restart() -> None:
        restarts.add(loop.create_task(restart()))

    loop.call_at(script.restart_at, begin_restart)
    await asyncio.sleep(END_S)
    # What still waits goes on while the loop is closed; that is no part of the script.
    return Played(list(log.lines), list(cloud.spans), effect)
