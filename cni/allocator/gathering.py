"""The planner of NATIVE: act when it matters, gather what can wait, never give back too soon.

Growth is urgent where an ADD waits or nothing is free, and happens at once; otherwise changes
gather for some seconds and go out together. All that is missing is asked for in as few calls as
the limits allow, ENIs side by side. Blocks go back only when the pool would not have needed them
for the whole of a window (`Extremes`), with the range of that window as a margin, and the window
doubles whenever blocks are asked for again soon after a removal: under stationary churn
nothing oscillates.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import inf

from cni.allocator.actions import (
    ActionFailed,
    AddBlocks,
    AttachEni,
    BlocksAdded,
    CloudAction,
    CloudOutcome,
    DescribeEnis,
    DetachEni,
    EniAttached,
    FailureReason,
    LookElsewhere,
    RemoveBlocks,
)
from cni.allocator.behaviour import Behaviour
from cni.allocator.extremes import Extremes
from cni.allocator.model import EniId, Instant, NodeLimits, PoolCounts, SandboxKey
from cni.allocator.planner import DRY, Planner, after
from cni.allocator.pool import Pool, free_blocks
from cni.allocator.shelves import PooledEni
from cni.allocator.targets import WarmTarget

BUCKETS_PER_HOLD = 12
"""The window of the shortest hold is exact to a twelfth: surplus may stay that much longer."""

REGRET_KEPT_S = 7 * 86_400.0
"""After so long without regret the churn that taught us to hold longer is over."""


class Gathering(Planner):
    """Act on events; one action per ENI, several ENIs side by side."""

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
        self._hold_s = max(behaviour.surplus_hold_s, pool.cooldown_s + 60.0)
        self._held_since: float = now
        self._extremes = Extremes(
            max(behaviour.churn_hold_s, behaviour.surplus_hold_max_s),
            self._hold_s / BUCKETS_PER_HOLD,
            pool.assigned,
            now,
        )
        self._copy_extremes()
        self._removed_at = -inf
        self._shrink_after = -inf
        """Pause of removals after one failed."""
        self._regretted_at = -inf
        self._failure_pause_s = 0.0
        self._gather_s = behaviour.gather_s
        self._spared = False
        """Whether something stayed only because it cools."""

    def stir(self, now: Instant) -> None:
        """Look soon: at once where somebody waits or nothing is free, else after gathering."""
        urgent = self.waiting or self.pool.free == 0
        pause = self.behaviour.gather_urgent_s if urgent else self._gather_s
        self.due = min(self.due, now + pause)

    def observe(self, before: int, now: Instant) -> None:
        """Remember the extremes of assigned addresses."""
        self._extremes.observe(before, self.pool.assigned, now)
        self._copy_extremes()

    def _copy_extremes(self) -> None:
        self.extremes_until = self._extremes.until
        self.assigned_high = self._extremes.high
        self.assigned_low = self._extremes.low

    def next_action(self, now: Instant) -> CloudAction | None:
        """Grow by all that is missing, else shrink by what was long not needed."""
        if now < self.due:
            return None
        if now > self.pool.thaw_at:
            self.pool.thaw(now)
        if self.describe_why and now >= self.describe_after and not self._describing():
            return self._describe(self.describe_why)
        if self.look_why and self._may_look(now):
            return self._look_elsewhere()
        missing = self._missing(now)
        if missing and now > self.backoff_until:
            action = self._grow(missing, now)
            if action is not None:
                self._regret(now)
                return action
        if not missing and not self.expected_blocks():
            action = self._shrink(now)
            if action is not None:
                return action
        if self._is_quiet():
            self.sweep()
            self.started = True
        self._rest(missing, now)
        return None

    def _may_look(self, now: Instant) -> bool:
        """Whether another subnet would help: not where the instance can take no further ENI."""
        if not self.room_for_eni(now):
            self.look_why = ""
        return bool(self.look_why)

    def _look_elsewhere(self) -> CloudAction:
        why, self.look_why = self.look_why, ""
        return self._hand_out(LookElsewhere(self._id(), why))

    def _is_quiet(self) -> bool:
        """Whether nothing is in flight that can change the pool."""
        return all(isinstance(action, LookElsewhere) for action in self.in_flight.values())

    def _describing(self) -> bool:
        return any(isinstance(action, DescribeEnis) for action in self.in_flight.values())

    # Growing.

    def _missing(self, now: Instant) -> int:
        """Blocks to ask for beyond those in flight, for waiting ADDs and for the target."""
        pool, per = self.pool, self.pool.per_block
        expected = self.expected_blocks()
        total = pool.total + expected * per
        allowed = -(-(self.limits.pods - total) // per)
        if allowed <= 0:
            return 0
        unserved = max(len(self.waiting) - pool.free - expected * per, 0)
        missing = -(-unserved // per)
        if not self.target.on_demand:
            missing = max(missing, self._missing_to_target(expected, now))
        return min(missing, allowed)

    def _missing_to_target(self, expected: int, now: Instant) -> int:
        """Blocks that bring the pool to its target, counting ADDs that wait as served."""
        per = self.pool.per_block
        counts = self.pool.counts(now)
        waiting = len(self.waiting)
        if waiting:
            counts = replace(
                counts,
                assigned=counts.assigned + waiting,
                available=counts.available - waiting,
                blocks_free=max(counts.blocks_free - -(-waiting // per), 0),
            )
        missing = 0
        step = expected
        while True:
            if step:
                counts = replace(
                    counts,
                    addresses_total=counts.addresses_total + step * per,
                    available=counts.available + step * per,
                    blocks_total=counts.blocks_total + step,
                    blocks_free=counts.blocks_free + step,
                )
            step = self.target.wanted(counts)
            if step == 0:
                return missing
            missing += step

    def _grow(self, missing: int, now: Instant) -> CloudAction | None:
        """Fill ENIs that have room, lowest device index first; then attach, some side by side."""
        why = f"{missing} blocks short of {self.target}"
        if self.waiting:
            why += f", {len(self.waiting)} ADDs wait"
        whole = self.target.fills_enis
        later = 0
        for eni in self.with_room():
            if self.is_dry(eni, now):
                continue
            if not eni.busy:
                return self._add(eni, eni.room if whole else min(eni.room, missing), why)
            later += self._room_after(eni)
        missing -= later
        if missing <= 0 or not self.room_for_eni(now):
            return None
        attaching = sum(isinstance(a, AttachEni) for a in self.in_flight.values())
        if attaching >= self.behaviour.attaches_in_flight:
            return None
        per_eni = self.limits.blocks_per_eni
        blocks = per_eni if whole else min(per_eni, missing)
        return self._attach(blocks, why, elsewhere=now <= self.elsewhere_until)

    def _room_after(self, eni: PooledEni) -> int:
        """Room that an ENI will have when the action in flight on it is done."""
        action = self.in_flight.get(eni.busy)
        return eni.room - action.count if isinstance(action, AddBlocks) else eni.room

    def _regret(self, now: Instant) -> None:
        """Hold surplus longer where blocks are asked for again soon after a removal."""
        behaviour = self.behaviour
        if now - self._removed_at < behaviour.regret_s and self._regretted_at < self._removed_at:
            self._regretted_at = now
            self._hold_s = min(self._hold_s * 2, behaviour.surplus_hold_max_s)

    # Shrinking.

    def _shrink(self, now: Instant) -> CloudAction | None:
        """Detach an ENI, or remove blocks, that the whole window did not need."""
        if self.waiting or now < self._shrink_at(now):
            return None
        counts = self._counts_of_window(now)
        surplus = self.target.surplus(counts)
        enis = self.pool.in_order(
            [eni for eni in self.pool.enis.values() if not eni.leaving and not eni.suspect]
        )
        eni = self._eni_to_detach(enis, counts, now)
        if eni is not None:
            self._note_removal(now)
            return self._detach(eni, f"its addresses were not needed for {self.target}")
        self._spared = surplus > 0 or (
            self.idle_enis_matter and any(e.cooling and not e.assigned for e in enis)
        )
        if not surplus and not self.pool.foreign:
            return None
        for eni in reversed(enis):
            if eni.busy:
                continue
            blocks = list(free_blocks(eni, spare_cooling=self.behaviour.spares_cooling))
            wrong = [block for block in blocks if block.foreign]
            going = wrong or blocks[:surplus]
            if going:
                self._note_removal(now)
                return self._remove(eni, going, f"{len(going)} blocks long beyond {self.target}")
        return None

    def _shrink_at(self, now: Instant) -> float:
        """Return the earliest instant for the next removal; several may go in one instant."""
        start = max(self._held_since + self._hold_s, self._shrink_after)
        if self._removed_at == now:
            return start
        return max(start, self._removed_at + self.behaviour.shrink_period_s)

    def _note_removal(self, now: Instant) -> None:
        if now - self._regretted_at > REGRET_KEPT_S and self._regretted_at > -inf:
            self._regretted_at = -inf
            self._hold_s = max(self.behaviour.surplus_hold_s, self.pool.cooldown_s + 60.0)
        self._removed_at = now

    def _counts_of_window(self, now: Instant) -> PoolCounts:
        """Return the counts as if the most of the window were assigned, and its range on top."""
        high, low = self._extremes.over(self._window_s(now), self.pool.assigned, now)
        self._copy_extremes()
        return self._as_if_assigned(self.pool.counts(now), high + (high - low))

    def _window_s(self, now: Instant) -> float:
        """Return how long surplus must have lasted: longer where pods come and go all the time.

        Else a quiet quarter of an hour between two of them would cost a removal and a refill.
        """
        churn_s = self.behaviour.churn_hold_s
        if self._extremes.turns(churn_s, now) >= self.behaviour.churn_turns:
            return max(self._hold_s, churn_s)
        return self._hold_s

    def _as_if_assigned(self, counts: PoolCounts, assigned: int) -> PoolCounts:
        per = counts.addresses_per_block
        full = -(-assigned // per)
        return replace(
            counts,
            assigned=assigned,
            available=counts.addresses_total - assigned,
            blocks_free=max(min(counts.blocks_free, counts.blocks_total - full), 0),
        )

    def _eni_to_detach(
        self, enis: list[PooledEni], counts: PoolCounts, now: Instant
    ) -> PooledEni | None:
        """Return the ENI of the highest device index that nobody needs, if there is one."""
        if not self.target.frees_enis(counts):
            return None
        too_large = inf
        for eni in reversed(enis):
            young = now < eni.attached_at + self.behaviour.eni_min_age_s
            if eni.is_primary or eni.assigned or eni.cooling or eni.busy or young:
                continue
            if eni.serving >= too_large:
                continue
            rest = self._as_if_assigned(self.pool.rest(eni.serving), counts.assigned)
            if rest.available >= 0 and self.target.eni_can_go(rest):
                return eni
            # What cannot do without this ENI cannot do without one of the same size.
            too_large = eni.serving
        return None

    # Resting.

    def _rest(self, missing: int, now: Instant) -> None:
        """Sleep until a decision can change, and set the marks that wake earlier."""
        counts = self.pool.counts(now)
        due = inf
        if missing and now <= self.backoff_until:
            due = after(self.backoff_until)
        if missing and now <= self.elsewhere_until:
            due = min(due, after(self.elsewhere_until))
        if now < self._learnt_until and missing:
            due = min(due, self._learnt_until)
        grows = self.can_grow(now) and not missing
        self.low_water = self.target.low_water(counts) if grows else -inf
        if self.target.on_demand:
            self.low_water = -inf
        idle = self.pool.total - self.pool.assigned
        self.pool.packed = idle > self.target.high_water(counts)
        mark = self.mark_for_releases(counts)
        if idle >= mark and self._is_quiet():
            # There is surplus, held for now: look again when something can have changed, and
            # until then hear of no DEL that does not make more of it.
            look_at = self._look_again_at(now)
            due = min(due, look_at)
            mark = inf if look_at < inf else mark
        if self.describe_why and not self._describing():
            due = min(due, self.describe_after)
        if self.pool.foreign:
            # Blocks of the other kind go when their last sandbox has gone: hear of every DEL.
            mark = -1
            shrink_at = self._shrink_at(now)
            due = min(due, shrink_at) if now < shrink_at else due
        self.high_water = mark
        self.due = due

    def _look_again_at(self, now: Instant) -> float:
        """Return when, without any input, held surplus may go; inf: never."""
        shrink_at = self._shrink_at(now)
        if now < shrink_at:
            return shrink_at
        ages = (
            eni.attached_at + self.behaviour.eni_min_age_s
            for eni in self.pool.enis.values()
            if not eni.is_primary and not eni.assigned
        )
        cooled_at = after(self.pool.thaw_at) if self._spared else inf
        forgets_at = self._extremes.changes_at(self._window_s(now), now)
        instants = (forgets_at, cooled_at, *ages)
        return min((instant for instant in instants if instant > now), default=inf)

    # What became of it.

    def settled(self, outcome: CloudOutcome, now: Instant) -> None:
        """Go on at once; after a failure, after a pause."""
        self.due = now
        self._note_dryness(outcome, now)
        if not isinstance(outcome, ActionFailed):
            if self.growth_failure is None:
                self._failure_pause_s = 0.0
                self._gather_s = max(self.behaviour.gather_s, self._gather_s / 2)
            return
        if isinstance(outcome.action, RemoveBlocks | DetachEni):
            self._shrink_after = now + self.behaviour.backoff_s
        if not isinstance(outcome.action, AddBlocks | AttachEni):
            return
        reason = outcome.reason
        behaviour = self.behaviour
        if reason in DRY:
            self.backoff_until = now + behaviour.backoff_s
            return
        if reason in (FailureReason.ENI_FULL, FailureReason.ENI_LIMIT):
            return
        throttled = reason is FailureReason.THROTTLED
        longest = behaviour.throttled_backoff_s if throttled else behaviour.backoff_s
        pause = max(self._failure_pause_s * 2, behaviour.failure_backoff_s)
        self._failure_pause_s = pause = min(pause, longest)
        if throttled:
            self._gather_s = min(self._gather_s * 2, behaviour.gather_throttled_s)
            # Nodes that were refused together would come back together, find the bucket full of
            # tokens for the first of them, and leave it idle in between.
            pause *= 0.5 + self.pool.dice.roll() / 2.0**32
        self.backoff_until = now + pause

    def _note_dryness(self, outcome: CloudOutcome, now: Instant) -> None:
        """Look for another subnet where one had too little; ENIs of that one are left alone."""
        failed = outcome.action if isinstance(outcome, ActionFailed) else None
        short = outcome.reason if isinstance(outcome, ActionFailed) else None
        dry: EniId | None = None
        if isinstance(outcome, BlocksAdded | EniAttached):
            short = outcome.short
        if isinstance(outcome, BlocksAdded):
            dry = outcome.eni_id
        elif isinstance(failed, AddBlocks):
            dry = failed.eni_id
        if isinstance(outcome, EniAttached) and now <= self.elsewhere_until:
            # The dry subnet is left alone for as long as the other one serves.
            self.elsewhere_until = now + self.behaviour.backoff_s
        if short not in DRY:
            return
        if dry is not None:
            self.dry_enis = {dry} | (self.dry_enis if now <= self.elsewhere_until else set())
        if not (isinstance(failed, AttachEni) and failed.elsewhere):
            self.look_why = "a subnet is dry"
