"""A node in simulated time: one real Allocator, and who asks, performs and tells.

The counterpart of `cni/daemon/maintainer.py`. An idle node schedules nothing: after every input
it compares the allocator's `next_wakeup` with the wake-up it has scheduled, and that is all.
"""

from collections.abc import Callable, Generator
from math import inf
from typing import Any

import simpy

from cni.allocator.actions import CloudAction, RemoveBlocks
from cni.allocator.allocator import Allocator
from cni.allocator.model import Assignment, AttachedEni, Instant
from cni.cloud.calls import CallError, Done, Pause
from cni.cloud.recipes import recipe_for
from sim.checks import Auditor
from sim.cloud import CloudModel
from sim.record import Recorder
from sim.scenario import WARM_UP_S, Scenario

Served = Callable[["SimNode", Assignment], None]


class SimNode:
    """One node: pods ask its allocator directly, actions run as SimPy processes."""

    __slots__ = (
        "_cloud",
        "_env",
        "_on_served",
        "_recorder",
        "_scenario",
        "allocator",
        "auditor",
        "index",
        "name",
        "wake_at",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - one for each part it is wired to
        self,
        env: simpy.Environment,
        index: int,
        name: str,
        scenario: Scenario,
        cloud: CloudModel,
        recorder: Recorder,
        auditor: Auditor | None,
        on_served: Served,
    ) -> None:
        """Stand for the instance `name`; `start` or `warm_up` begins its daemon's life."""
        self._env = env
        self._scenario = scenario
        self._cloud = cloud
        self._recorder = recorder
        self._on_served = on_served
        self.wake_at = inf
        self.auditor = auditor
        self.index = index
        self.name = name

    def start(self, primary: AttachedEni, now: float, seed: int) -> None:
        """Start the daemon at `now`, with what EC2 shows: the primary ENI."""
        scenario = self._scenario
        self.allocator = Allocator(
            target=scenario.target,
            limits=scenario.limits,
            kind=scenario.kind,
            attached=(primary,),
            taken=(),
            assignments=(),
            now=Instant(now),
            behaviour=scenario.behaviour,
            cooldown_s=scenario.cooldown_s,
            seed=seed,
        )

    def warm_up(self, primary: AttachedEni, seed: int, phase: float, instant: CloudModel) -> None:
        """Live through the time before zero with an EC2 that answers at once and counts nothing.

        `phase` (0 to 1) is the node's own share of a tick: daemons do not start together.
        """
        now = -WARM_UP_S - phase * max(self._scenario.behaviour.tick_s, 1.0)
        self.start(primary, now, seed)
        allocator = self.allocator
        while now <= 0:
            while (action := allocator.next_action(Instant(now))) is not None:
                recipe = recipe_for(
                    action, self._scenario.kind, self._scenario.behaviour, f"{self.name}-warm"
                )
                allocator.apply(_at_once(recipe, instant), Instant(now))
            now = allocator.next_wakeup

    def poke(self) -> None:
        """Look after an input whether the node must wake earlier than it would."""
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
        scenario = self._scenario
        recipe = recipe_for(action, scenario.kind, scenario.behaviour, self.name)
        cloud = self._cloud
        try:
            call = next(recipe)
            while True:
                try:
                    reply = yield from cloud.answer(call)
                except CallError as error:
                    call = recipe.throw(error)
                else:
                    call = recipe.send(reply)
        except StopIteration as stop:
            outcome = stop.value
        self.allocator.apply(outcome, Instant(self._env.now))
        self.note_pool()
        if self.auditor is not None:
            self.auditor.changed(self.name, self.allocator, self._env.now)
        self.maintain()

    def note_pool(self) -> None:
        """Record what the node holds now."""
        enis = self.allocator.enis()
        blocks = sum(len(eni.blocks) for eni in enis)
        addresses = sum(block.num_addresses for eni in enis for block in eni.blocks)
        self._recorder.pool(self._env.now, self.index, len(enis), blocks, addresses)


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
