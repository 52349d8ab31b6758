"""The loop that keeps the pool: ask the allocator, perform the recipe, tell the outcome.

The counterpart of `sim/node.py`, and as small: after every input it compares the allocator's
`next_wakeup` with the wake-up that is scheduled. Nothing here decides anything.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol

import structlog

from cni.allocator.actions import (
    ActionFailed,
    AddBlocks,
    CloudAction,
    CloudOutcome,
    DetachEni,
    EniAttached,
    EniDetached,
    EnisDescribed,
    FailureReason,
    LookedElsewhere,
    RemoveBlocks,
)
from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import Behaviour
from cni.allocator.model import Assignment, AttachedEni, BlockKind, EniId, Instant
from cni.cloud.calls import Call, CallError, Done, Pause, Reply
from cni.cloud.recipes import Recipe, recipe_for
from cni.daemon.clock import Clock
from cni.network.netlink import NetworkError


class Cloud(Protocol):
    """Who answers a call: EC2 and the metadata, or a stand-in."""

    async def answer(self, call: Call) -> Reply:
        """Answer, or raise CallError."""
        ...


class EniLinks(Protocol):
    """Who sets an ENI up on the node, and clears up after it."""

    async def install(self, eni: AttachedEni) -> None:
        """Make the node's kernel ready for sandboxes on this ENI; raises NetworkError."""
        ...

    async def remove(self, eni_id: EniId) -> None:
        """Remove what was made for an ENI that is gone; never raises."""
        ...


class Watcher(Protocol):
    """Who hears of actions: metrics."""

    def action_started(self, kind: str) -> None:
        """Hear that an action of this kind was handed out."""
        ...

    def action_ended(self, kind: str, seconds: float, failure: str) -> None:
        """Hear that it ended, and why it failed: empty where it did not."""
        ...

    def vanished(self, *, enis: int, addresses: int) -> None:
        """Hear of ENIs and addresses that EC2 shows no more while sandboxes hold them."""
        ...


@dataclass(frozen=True, slots=True)
class Manner:
    """How actions are performed.

    `token` makes the client tokens of created ENIs: no other start of any daemon has it.
    `jitter` gives the random share of a pause, 0 to 1. `reached` hears the names of steps, so
    that a test can kill the daemon at each of them.
    """

    kind: BlockKind
    behaviour: Behaviour
    token: str
    jitter: Callable[[], float]
    reached: Callable[[str], None] = lambda _step: None


class Maintainer:
    """Keeps one node's pool on the running event loop."""

    def __init__(  # noqa: PLR0913, PLR0917 - one for each part it is wired to
        self,
        allocator: Allocator,
        cloud: Cloud,
        links: EniLinks,
        clock: Clock,
        manner: Manner,
        on_served: Callable[[Assignment], None],
        watcher: Watcher,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """Stand by; nothing is asked before `poke`."""
        self._allocator = allocator
        self._cloud = cloud
        self._links = links
        self._clock = clock
        self._manner = manner
        self._on_served = on_served
        self._watcher = watcher
        self._log = log
        self._wake_at = inf
        self._timer: asyncio.TimerHandle | None = None
        self._performing: set[asyncio.Task[None]] = set()
        self._unshown: set[EniId] = set()
        """ENIs that a description left out; what the kernel has of them goes when they are gone."""
        self._stopping = False
        self.idle = asyncio.Event()
        """Set while no action is in flight: after the first refill, for the first time."""
        self.last_outcomes: list[str] = []
        """The latest outcomes, newest last, for people."""

    def poke(self) -> None:
        """Look after an input whether to wake earlier than scheduled."""
        wakeup = self._allocator.next_wakeup
        if wakeup < self._wake_at:
            self._wake(wakeup)

    def _wake(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = at
        self._timer = None if at == inf else _call_at(at, self._on_wake)

    def _on_wake(self) -> None:
        self._timer = None
        self._wake_at = inf
        self._maintain()

    def _maintain(self) -> None:
        """Serve who waits, and set every action going that the allocator wants now."""
        allocator = self._allocator
        # A timer may fire a clock tick early, by rounding; then the allocator's instant counts.
        now = self._clock.now()
        now = Instant(max(now, min(allocator.next_wakeup, now + 1e-6)))
        for assignment in allocator.serve_waiting(now):
            self._on_served(assignment)
        while not self._stopping and (action := allocator.next_action(now)) is not None:
            task = asyncio.get_running_loop().create_task(self._perform(action))
            self._performing.add(task)
            task.add_done_callback(self._performing.discard)
            self.idle.clear()
        if not self._stopping:
            if not allocator.in_flight:
                self.idle.set()
            self.poke()

    async def _perform(self, action: CloudAction) -> None:
        """Perform one action and tell the allocator what became of it, whatever happens."""
        kind = type(action).__name__
        started = self._clock.now()
        self._watcher.action_started(kind)
        try:
            outcome = await self._outcome(action)
        except Exception as error:  # noqa: BLE001 - as the next line says
            # A fault of ours must not leave an action in flight for ever; EC2 is asked instead.
            self._log.exception("action broke", action=kind, why=action.why)
            outcome = ActionFailed(action, FailureReason.UNKNOWN_OUTCOME, repr(error))
        now = self._clock.now()
        self._tell(action, outcome, now - started)
        before = self._allocator.stranded
        self._allocator.apply(outcome, now)
        enis, addresses = map(int.__sub__, self._allocator.stranded, before)
        if enis > 0 or addresses > 0:
            self._watcher.vanished(enis=max(enis, 0), addresses=max(addresses, 0))
        self._manner.reached(f"{kind}.applied")
        self._maintain()
        await self._clear_up()

    async def _outcome(self, action: CloudAction) -> CloudOutcome:
        """Perform the recipe, and what it means for the node's own kernel."""
        manner = self._manner
        known = self._known()
        recipe = recipe_for(action, manner.kind, manner.behaviour, manner.token)
        outcome = await self._run(recipe)
        try:
            if isinstance(outcome, EniAttached):
                await self._links.install(outcome.eni)
                manner.reached("AttachEni.installed")
            elif isinstance(outcome, EnisDescribed):
                outcome = await self._ready_ones(outcome, known)
        except NetworkError as error:
            assert isinstance(outcome, EniAttached)
            return await self._give_up(action, outcome, error)
        match outcome:
            case EniDetached(eni_id=eni_id):
                await self._links.remove(eni_id)
            case ActionFailed(
                action=AddBlocks() | RemoveBlocks() | DetachEni() as of,
                reason=FailureReason.ENI_GONE,
            ):
                self._unshown.add(of.eni_id)
        return outcome

    async def _ready_ones(self, described: EnisDescribed, known: set[EniId]) -> EnisDescribed:
        """Leave out ENIs that EC2 shows and the node's kernel does not: they come later.

        `known` are those of the pool when EC2 was asked: an ENI attached since is missing from an
        answer that is older than it, and must keep its routes.
        """
        shown = {eni.eni_id for eni in described.enis}
        self._unshown = (self._unshown | known) - shown
        ready = []
        for eni in described.enis:
            try:
                if eni.eni_id not in self._known():
                    await self._links.install(eni)
            except (NetworkError, CallError) as error:
                self._log.warning("ENI not usable yet", eni=eni.eni_id, error=str(error))
            else:
                ready.append(eni)
        return EnisDescribed(described.id, tuple(ready))

    async def _clear_up(self) -> None:
        """Clear up after ENIs that EC2 did not show and that the pool has given up since."""
        gone = self._unshown - self._known()
        self._unshown -= gone
        for eni_id in gone:
            await self._links.remove(eni_id)

    def _known(self) -> set[EniId]:
        return {eni.eni_id for eni in self._allocator.enis()}

    async def _give_up(
        self, action: CloudAction, outcome: EniAttached, error: NetworkError
    ) -> CloudOutcome:
        """Detach an ENI that the kernel cannot use: kept, it would hold addresses for nobody."""
        detach = DetachEni(action.id, outcome.eni.eni_id, "the kernel cannot use it")
        ended = await self._run(recipe_for(detach, self._manner.kind, self._manner.behaviour))
        if isinstance(ended, ActionFailed):
            # It is attached and nobody's: the pool asks EC2 what the node has.
            return ActionFailed(action, FailureReason.UNKNOWN_OUTCOME, str(error))
        await self._links.remove(outcome.eni.eni_id)
        return ActionFailed(action, FailureReason.NOT_VISIBLE, str(error))

    async def _run(self, recipe: Recipe) -> CloudOutcome:
        """Perform a recipe call by call."""
        try:
            call = next(recipe)
            while True:
                try:
                    reply = await self._answer(call)
                except CallError as error:
                    call = recipe.throw(error)
                else:
                    call = recipe.send(reply)
        except StopIteration as stop:
            outcome: CloudOutcome = stop.value
            return outcome

    async def _answer(self, call: Call) -> Reply:
        if isinstance(call, Pause):
            share = self._manner.jitter() if call.jitter else 0.0
            await self._clock.sleep(call.seconds * (1 + call.jitter * share))
            return Done()
        self._manner.reached(f"{call.api}.before")
        reply = await self._cloud.answer(call)
        self._manner.reached(f"{call.api}.after")
        return reply

    def _tell(self, action: CloudAction, outcome: CloudOutcome, seconds: float) -> None:
        """Tell people: one line per action, with its reason, its end and its duration."""
        kind = type(action).__name__
        failed = isinstance(outcome, ActionFailed)
        failure = outcome.reason.name.lower() if isinstance(outcome, ActionFailed) else ""
        self._watcher.action_ended(kind, seconds, failure)
        line = {"action": kind, "why": action.why, "seconds": round(seconds, 3)}
        if isinstance(outcome, ActionFailed):
            line |= {"failure": failure, "detail": outcome.detail}
        else:
            line |= {"outcome": _shown(outcome)}
        (self._log.warning if failed else self._log.info)("action", **line)
        self.last_outcomes = [*self.last_outcomes[-19:], f"{kind}: {failure or 'done'}"]

    async def stop(self, patience_s: float) -> None:
        """Hand out nothing more, and let what is in flight end, for so many seconds."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._performing:
            await asyncio.wait(self._performing, timeout=patience_s)
        for task in self._performing:
            # What EC2 still does with it, the next start sees: it asks EC2 before all else.
            task.cancel()
        await asyncio.gather(*self._performing, return_exceptions=True)


def _call_at(at: float, wake: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_at(at, wake)


def _shown(outcome: CloudOutcome) -> str:
    """Return an outcome in a few words."""
    match outcome:
        case EniAttached(eni=eni):
            return f"{eni.eni_id} at {eni.device_index} with {len(eni.blocks)} blocks"
        case EnisDescribed(enis=enis):
            return f"{len(enis)} ENIs"
        case LookedElsewhere(found=found):
            return "another subnet has room" if found else "no other subnet has room"
        case _:
            blocks = getattr(outcome, "blocks", ())
            return f"{getattr(outcome, 'eni_id', '')} {len(blocks) or ''}".strip()
