"""The planner of UPSTREAM: ipamd's pool loop, one refill step each tick, one action at a time.

The loop sleeps, looks, works, and sleeps again, so that a slow call shifts every later tick
(`ipamd.go`: StartNodeIPPoolManager, updateIPPoolIfRequired). Each tick looks once at the pool,
then does up to two things: grow by one step or shrink, and free one ENI. Ticks that would find
nothing to do are not asked for: `next_wakeup` skips them, and nothing comes out differently.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from math import floor, inf

from cni.allocator.actions import (
    ActionFailed,
    AddBlocks,
    AttachEni,
    CloudAction,
    CloudOutcome,
    FailureReason,
)
from cni.allocator.behaviour import Behaviour
from cni.allocator.model import EniId, Instant, NodeLimits, PoolCounts, SandboxKey
from cni.allocator.planner import DRY, Planner, after
from cni.allocator.pool import Pool, free_blocks
from cni.allocator.shelves import PooledBlock, PooledEni
from cni.allocator.targets import WarmTarget

Step = Callable[[Instant], CloudAction | None]


class Ticking(Planner):
    """Look at each tick; act one step at a time."""

    def __init__(  # noqa: PLR0913, PLR0917, what one planner knows, in one order
        self,
        pool: Pool,
        target: WarmTarget,
        limits: NodeLimits,
        taken: Collection[int],
        waiting: Mapping[SandboxKey, Instant],
        behaviour: Behaviour,
        now: Instant,
    ) -> None:
        """Begin with the start-up refill, at once."""
        super().__init__(pool, target, limits, taken, waiting, behaviour, now)
        self._grid: float = now
        """The instant of one tick; the others are whole periods away."""
        self._tick_s = behaviour.tick_s
        self._steps: deque[Step] = deque()
        self._worked = False
        self._wanted = 0
        self._over = 0
        self._ring: deque[PooledEni] = deque()
        self._failed_enis: set[EniId] = set()
        self._shrunk_at = -inf
        # Upstream knows the codes of a dry subnet, but not the bad value that
        # CreateNetworkInterface reports for a missing /28 (cni#3105): it tries each tick.
        self._pausing = DRY - {FailureReason.NO_FREE_PREFIX_UNNAMED}

    def stir(self, now: Instant) -> None:
        """Look at the next tick."""
        if self.due > now + self._tick_s and not self.in_flight:
            self.due = self._tick_after(now)

    def _tick_after(self, instant: float) -> float:
        """Return the first tick after an instant."""
        if instant < self._grid:
            return self._grid
        period = self.behaviour.tick_s
        turn = floor((instant - self._grid) / period) + 1
        tick = self._grid + turn * period
        # A tick that is no exact float can divide to a hair below its own number.
        return tick if tick > instant else self._grid + (turn + 1) * period

    def _tick_at(self, instant: float) -> float:
        """Return the first tick at or after an instant."""
        tick = self._tick_after(instant)
        before = tick - self.behaviour.tick_s
        return before if before >= max(instant, self._grid) else tick

    def next_action(self, now: Instant) -> CloudAction | None:
        """Go on with this tick's steps, or begin a tick that is due."""
        if self.in_flight or now < self.due:
            return None
        if now > self.pool.thaw_at:
            self.pool.thaw(now)
        if not self._steps and not self._worked:
            self._begin(now)
        while self._steps:
            action = self._steps[0](now)
            if action is not None:
                self._worked = True
                self.due = inf
                return action
            self._steps.popleft()
        self._end(now)
        return None

    def _begin(self, now: Instant) -> None:
        """Look at the pool once and line up this tick's steps."""
        self.sweep()
        if self.describe_why and now >= self.describe_after:
            self._steps.append(self._ask)
        counts = self.pool.counts(now)
        self._wanted = 0
        if self.pool.total < self.limits.pods:
            self._wanted = self.target.wanted(counts)
        if self._wanted:
            if now > self.backoff_until:
                self._failed_enis.clear()
                self._steps.append(self._increase)
        elif self.started and now - self._shrunk_at > self.behaviour.shrink_period_s:
            self._over = self.target.surplus(counts)
            shrinkable = [eni for eni in self.pool.enis.values() if self._going(eni)]
            if shrinkable:
                self._ring = deque(self.pool.in_order(shrinkable))
                self._steps.append(self._decrease)
        if self.started and self.target.frees_enis(counts) and len(self.pool.enis) > 1:
            self._steps.append(self._free_one)

    def _end(self, now: Instant) -> None:
        """Sleep: a period from now where this tick worked, else until a decision can change."""
        if self._worked or not self.started:
            pause = self.behaviour.tick_s if self.started else self.behaviour.tick_phase_s
            self._worked = False
            self.started = True
            self._grid = self.due = now + pause
            self.low_water, self.high_water = inf, -1
            return
        counts = self.pool.counts(now)
        self.due = self._next_change(counts, now)
        blocked = not self.can_grow(now) or now <= self.backoff_until
        self.low_water = -inf if blocked else self.target.low_water(counts)
        self.high_water = self.mark_for_releases(counts)

    def _next_change(self, counts: PoolCounts, now: Instant) -> float:
        """Return the tick at which, without any input, a decision can change."""
        due = inf
        if self.describe_why:
            due = max(self._tick_after(now), self._tick_at(self.describe_after))
        if self._wanted:
            if now <= self.backoff_until:
                due = min(due, self._tick_at(after(self.backoff_until)))
        elif self.target.surplus(counts):
            shrink_at = after(self._shrunk_at + self.behaviour.shrink_period_s)
            if now < shrink_at:
                due = min(due, self._tick_at(shrink_at))
        if self.target.frees_enis(counts):
            for eni in self.pool.enis.values():
                if not eni.is_primary and eni.assigned == 0 and not eni.leaving:
                    at = max(self._old_enough_at(eni), after(self.pool.cooled_at(eni)))
                    if now < at:
                        due = min(due, self._tick_at(at))
        return due

    def _old_enough_at(self, eni: PooledEni) -> float:
        return eni.attached_at + self.behaviour.eni_min_age_s

    # Steps: each proposes one action, and is asked again until it proposes none.

    def _ask(self, _now: Instant) -> CloudAction | None:
        self._steps[0] = _nothing
        return self._describe(self.describe_why)

    def _increase(self, now: Instant) -> CloudAction | None:
        """Fill one ENI that has room; only where there is none, attach one."""
        if not self._wanted:
            return None
        count = self.limits.blocks_per_eni if self.target.fills_enis else self._wanted
        why = f"{self._wanted} blocks short of {self.target}"
        for eni in self.with_room():
            if eni.eni_id not in self._failed_enis:
                return self._add(eni, min(eni.room, count), why)
        self._wanted = 0
        if not self.room_for_eni(now):
            return None
        return self._attach(min(self.limits.blocks_per_eni, count), why)

    def _decrease(self, now: Instant) -> CloudAction | None:
        """Give free blocks back, ENI by ENI, until the surplus is used up."""
        self._shrunk_at = now if not self._worked else self._shrunk_at
        while self._ring:
            eni = self._ring.popleft()
            going = self._going(eni)
            if going:
                self._over -= sum(not block.foreign for block in going)
                return self._remove(eni, going, f"{len(going)} blocks beyond {self.target}")
        return None

    def _going(self, eni: PooledEni) -> list[PooledBlock]:
        """Return what an ENI can give back: blocks of the wrong kind first, then surplus.

        Blocks with cooling addresses are not spared (`data_store.go:1562`).
        """
        if eni.busy or eni.leaving or not (self._over or self.pool.foreign):
            return []
        blocks = list(free_blocks(eni, spare_cooling=self.behaviour.spares_cooling))
        wrong = [block for block in blocks if block.foreign]
        return wrong or blocks[: self._over]

    def _free_one(self, now: Instant) -> CloudAction | None:
        """Detach the first ENI that nobody needs."""
        unneeded = [
            eni
            for eni in self.pool.enis.values()
            if not (eni.is_primary or eni.leaving or eni.busy or eni.assigned or eni.cooling)
            and now >= self._old_enough_at(eni)
            and self.target.eni_can_go(self.pool.rest(eni.serving))
        ]
        if not unneeded:
            return None
        self._steps[0] = _nothing
        why = f"its addresses are not needed for {self.target}"
        return self._detach(self.pool.in_order(unneeded)[0], why)

    # What became of it.

    def settled(self, outcome: CloudOutcome, now: Instant) -> None:
        """Decide whether this tick's growth goes on, which it does at once."""
        self.due = now
        if not isinstance(outcome, ActionFailed):
            if self._steps and self._steps[0] == self._increase:
                self._wanted = 0
            return
        action, reason = outcome.action, outcome.reason
        if isinstance(action, AddBlocks):
            if reason in DRY and not self.behaviour.backoff_after_assign:
                # With subnet discovery on, upstream goes on with the next ENI, and forgets
                # the pause when none is left (`ipamd.go:1140`).
                self._failed_enis.add(action.eni_id)
            else:
                self._wanted = 0
        elif isinstance(action, AttachEni) and reason in self._pausing:
            self.backoff_until = now + self.behaviour.backoff_s
        if reason is FailureReason.ENI_GONE:
            self._wanted = 0


def _nothing(_now: Instant) -> CloudAction | None:
    """Propose nothing: the step is done."""
    return None
