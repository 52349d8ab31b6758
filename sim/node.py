"""A node in simulated time: one real Allocator, and who asks, performs and tells.

The counterpart of `cni/daemon/maintainer.py`. An idle node schedules nothing: after every input
it compares the allocator's `next_wakeup` with the wake-up it has scheduled, and that is all.

While its daemon is away (it has not started, or it restarts) a node has no allocator to ask:
`away` is true, an ADD is refused, a DEL leaves a tombstone.
"""

from collections.abc import Callable, Generator, Iterable
from ipaddress import IPv4Address
from math import inf
from typing import Any

import simpy

from cni.allocator.actions import CloudAction, RemoveBlocks
from cni.allocator.allocator import Allocator
from cni.allocator.errors import NoFreeAddress
from cni.allocator.model import Assignment, AttachedEni, Instant, SandboxKey
from cni.cloud.calls import CallError, Done, Pause
from cni.cloud.recipes import recipe_for
from sim.checks import Auditor
from sim.cloud import CloudModel
from sim.node_pool import NodePool
from sim.record import Recorder
from sim.scenario import WARM_UP_S

Served = Callable[["SimNode", Assignment], None]


class SimNode:
    """One node: pods ask its allocator directly, actions run as SimPy processes."""

    __slots__ = (
        "_cloud",
        "_env",
        "_life",
        "_on_idle",
        "_on_served",
        "_pool",
        "_recorder",
        "allocator",
        "auditor",
        "away",
        "gone",
        "index",
        "name",
        "tombstones",
        "wake_at",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - one for each part it is wired to
        self,
        env: simpy.Environment,
        index: int,
        name: str,
        pool: NodePool,
        cloud: CloudModel,
        recorder: Recorder,
        auditor: Auditor | None,
        on_served: Served,
    ) -> None:
        """Stand for the instance `name`; `start` or `warm_up` begins its daemon's life."""
        self._env = env
        self._pool = pool
        self._cloud = cloud
        self._recorder = recorder
        self._on_served = on_served
        self._on_idle: Callable[[], object] | None = None
        self._life = name
        self.away = True
        self.gone = False
        """Whether the instance has been terminated."""
        self.tombstones: list[SandboxKey] = []
        """Sandboxes whose DEL found no daemon."""
        self.wake_at = inf
        self.auditor = auditor
        self.index = index
        self.name = name

    @property
    def pool(self) -> NodePool:
        """The pool it belongs to."""
        return self._pool

    @property
    def cloud(self) -> CloudModel:
        """EC2 as it meets it."""
        return self._cloud

    def start(  # noqa: PLR0913 - what an earlier life left comes by name
        self,
        primary: AttachedEni,
        now: float,
        seed: int,
        *,
        others: Iterable[AttachedEni] = (),
        assignments: Iterable[Assignment] = (),
        cooling: Iterable[tuple[IPv4Address, Instant]] = (),
    ) -> None:
        """Start the daemon at `now`, with what EC2 shows and what an earlier life left."""
        pool = self._pool
        self.allocator = Allocator(
            target=pool.target,
            limits=pool.limits,
            kind=pool.kind,
            attached=(primary, *others),
            taken=(),
            assignments=assignments,
            now=Instant(now),
            behaviour=pool.behaviour,
            cooldown_s=pool.cooldown_s,
            cooling=cooling,
            seed=seed,
        )
        self.away = False

    def leave(self) -> None:
        """Let the daemon go: calls on their way get no answer, nobody is served."""
        self.away = True
        self.wake_at = inf
        self._cloud.hang_up()

    def come_back(self, cloud: CloudModel, life: int) -> None:
        """Meet EC2 afresh, as a daemon that has been started again for the n-th time."""
        self._cloud = cloud
        # A token of the life before would bring back what was made then.
        self._life = f"{self.name}.{life}"

    def when_idle(self, tell: Callable[[], object]) -> None:
        """Tell once when nothing is in flight any more; at once where nothing is."""
        if self.allocator.in_flight:
            self._on_idle = tell
        else:
            tell()

    def warm_up(
        self,
        primary: AttachedEni,
        seed: int,
        phase: float,
        instant: CloudModel,
        sandboxes: Iterable[SandboxKey] = (),
    ) -> list[SandboxKey]:
        """Live through the time before zero with an EC2 that answers at once and counts nothing.

        `phase` (0 to 1) is the node's own share of a tick: daemons do not start together. Half of
        that time later the sandboxes come; those without an address at zero are returned.
        """
        now = -WARM_UP_S - phase * max(self._pool.behaviour.tick_s, 1.0)
        self.start(primary, now, seed)
        allocator = self.allocator
        left = list(sandboxes)
        come_at = now + WARM_UP_S / 2
        while now <= 0:
            if left and now >= come_at:
                left = self._try_before(left, now)
            while (action := allocator.next_action(Instant(now))) is not None:
                recipe = recipe_for(
                    action, self._pool.kind, self._pool.behaviour, f"{self.name}-warm"
                )
                allocator.apply(_at_once(recipe, instant), Instant(now))
                if left and now >= come_at:
                    left = self._try_before(left, now)
            wakeup = allocator.next_wakeup
            now = min(wakeup, come_at) if left and now < come_at else wakeup
        return left

    def _try_before(self, sandboxes: list[SandboxKey], now: float) -> list[SandboxKey]:
        """Give sandboxes addresses as far as they go; return those left."""
        for number, sandbox in enumerate(sandboxes):
            try:
                self.allocator.assign(sandbox, Instant(now))
            except NoFreeAddress:
                return sandboxes[number:]
        return []

    def poke(self) -> None:
        """Look after an input whether the node must wake earlier than it would."""
        if self.away:
            return
        wakeup = self.allocator.next_wakeup
        if wakeup < self.wake_at:
            self._wake(wakeup)

    def _wake(self, at: float) -> None:
        now = self._env.now
        if at == inf:
            return
        self.wake_at = at
        event = self._env.timeout(max(at - now, 0.0), at)
        event.callbacks.append(self._on_wake)

    def _on_wake(self, event: simpy.Event) -> None:
        if event.value != self.wake_at:
            return  # An earlier wake-up has replaced this one.
        self.wake_at = inf
        self.maintain()

    def maintain(self) -> None:
        """Ask the allocator for actions until it has none, and set each going."""
        # An instant that was added up from pauses can fall short of its sum by rounding.
        now = Instant(max(self._env.now, min(self.allocator.next_wakeup, self._env.now + 1e-6)))
        allocator = self.allocator
        if allocator.waiting:
            self.serve(now)
        while (action := allocator.next_action(now)) is not None:
            if isinstance(action, RemoveBlocks):
                for until in action.cut:
                    self._recorder.cut(self._env.now, self.index, 1, until)
            self._env.process(self._perform(action))
        self.poke()

    def serve(self, now: Instant) -> None:
        """Hand addresses to ADDs that wait."""
        for assignment in self.allocator.serve_waiting(now):
            self._on_served(self, assignment)

    def _perform(self, action: CloudAction) -> Generator[simpy.Event, Any, None]:
        """Run an action's recipe against the cloud, and tell the allocator the outcome."""
        pool = self._pool
        recipe = recipe_for(action, pool.kind, pool.behaviour, self._life)
        cloud = self._cloud
        try:
            call = next(recipe)
            while True:
                try:
                    reply = yield from cloud.answer(call)
                except CallError as error:
                    # Its traceback holds this frame, hence the recipe: a recipe that is cleared
                    # away while it handles the error would then be closed a second time.
                    call = recipe.throw(error.with_traceback(None))
                else:
                    call = recipe.send(reply)
        except StopIteration as stop:
            outcome = stop.value
        self.allocator.apply(outcome, Instant(self._env.now))
        self.note_pool()
        if self.auditor is not None:
            self.auditor.changed(self.name, self.allocator, self._env.now)
        self.maintain()
        if self._on_idle is not None and not self.allocator.in_flight:
            tell, self._on_idle = self._on_idle, None
            tell()

    def note_pool(self) -> None:
        """Record what the node holds now."""
        self.note_pool_of(*self.allocator.size())

    def note_pool_of(self, enis: int, blocks: int, addresses: int) -> None:
        """Record that the node holds so much now, whatever its allocator knows."""
        self._recorder.pool(self._env.now, self.index, enis, blocks, addresses)


def _at_once(recipe: Any, cloud: CloudModel) -> Any:  # noqa: ANN401 - a Recipe and its outcome
    """Run a recipe against a cloud that never waits."""
    try:
        call = next(recipe)
        while True:
            if isinstance(call, Pause):
                call = recipe.send(Done())
                continue
            answer = cloud.answer(call)
            try:
                next(answer)
            except StopIteration as stop:
                call = recipe.send(stop.value)
            except CallError as error:
                call = recipe.throw(error)
            else:
                message = f"{call} waited"
                raise AssertionError(message)
    except StopIteration as stop:
        return stop.value
