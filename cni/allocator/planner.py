"""What both planners share: handing actions out, taking outcomes in, and why growth stands still.

A planner decides for one pool what to ask of EC2 next. `ticking.py` does it as ipamd does, one
step each tick; `gathering.py` does it as we do. The marks `low_water` and `high_water` (of
addresses no sandbox holds) and the extremes tell the path of each pod whether the planner
has to hear of it: most pods change nothing.
"""

from collections.abc import Collection, Mapping
from math import inf, nextafter
from typing import assert_never

from cni.allocator.actions import (
    ActionFailed,
    AddBlocks,
    AttachEni,
    BlocksAdded,
    BlocksRemoved,
    CloudAction,
    CloudOutcome,
    DescribeEnis,
    DetachEni,
    EniAttached,
    EniDetached,
    EnisDescribed,
    FailureReason,
    LookedElsewhere,
    LookElsewhere,
    RemoveBlocks,
)
from cni.allocator.behaviour import Behaviour
from cni.allocator.errors import Cause
from cni.allocator.model import (
    AttachedEni,
    Block,
    EniId,
    Instant,
    NodeLimits,
    PoolCounts,
    SandboxKey,
)
from cni.allocator.pool import Pool
from cni.allocator.shelves import PooledBlock, PooledEni
from cni.allocator.targets import WarmTarget

DRY = frozenset(
    {
        FailureReason.SUBNET_FULL,
        FailureReason.NO_FREE_PREFIX,
        FailureReason.NO_FREE_PREFIX_UNNAMED,
    }
)

DESCRIBE_PAUSE_S = 10.0
"""Pause before EC2 is described again: after a failure, or where an attach hid what is there."""

_CAUSES = {
    FailureReason.SUBNET_FULL: Cause.SUBNET_FULL,
    FailureReason.NO_FREE_PREFIX: Cause.SUBNET_FRAGMENTED,
    FailureReason.NO_FREE_PREFIX_UNNAMED: Cause.SUBNET_FRAGMENTED,
    FailureReason.ENI_LIMIT: Cause.ENI_LIMIT,
    FailureReason.THROTTLED: Cause.THROTTLED,
    FailureReason.DENIED: Cause.DENIED,
    FailureReason.NOT_VISIBLE: Cause.METADATA_LAG,
}


class Planner:
    """Decide what one pool needs; subclasses say when and how much at once."""

    low_water: float
    """Stir when fewer addresses than this are available after an ADD."""

    high_water: float
    """Stir when more addresses than this are not assigned after a DEL."""

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
        """Plan for `pool`; `taken` are device indices of ENIs that are not ours."""
        self.pool = pool
        self.target = target
        self.limits = limits
        self.taken = frozenset(taken)
        self.waiting = waiting
        self.behaviour = behaviour
        self.in_flight: dict[int, CloudAction] = {}
        self.started = False
        """Whether the start-up refill is over."""
        self.due: float = now
        """The next instant at which a decision can change without an input."""
        self.low_water = inf
        self.high_water = -inf
        self.idle_enis_matter = True
        """Whether to stir when an ENI loses its last sandbox."""
        self.extremes_until = inf
        self.assigned_high: float = inf
        self.assigned_low: float = -inf
        self.backoff_until: float = -inf
        self.growth_failure: FailureReason | None = None
        """Why the last growth failed, until one succeeds."""
        self.describe_why = ""
        """Why EC2 must be asked what the node has; empty where there is no doubt."""
        self.describe_after: float = -inf
        """Pause of descriptions after one failed."""
        self._touched: set[EniId] = set()
        """ENIs that an action changed, or may have, since the last description was asked for."""
        self._attaching = False
        """Whether an attach was under way at some time since then."""
        self._last_id = 0
        self._learnt_enis = limits.enis
        self._learnt_until: float = -inf
        self._quarantine: dict[Block, float] = {}
        self.elsewhere_until: float = -inf
        """Until when new ENIs go to another subnet: the primary ENI's is dry."""
        self.dry_enis: set[EniId] = set()
        """ENIs whose subnet is dry until then."""
        self.look_why = ""
        """Why another subnet is to be looked for; empty where it is not."""

    # What subclasses answer.

    def stir(self, now: Instant) -> None:
        """Hear that the pool changed in a way that may need an action."""
        raise NotImplementedError

    def next_action(self, now: Instant) -> CloudAction | None:
        """Return the next action, or None until `next_wakeup`."""
        raise NotImplementedError

    def observe(self, before: int, now: Instant) -> None:
        """Hear that the number of assigned addresses left its recent range."""

    def settled(self, outcome: CloudOutcome, now: Instant) -> None:
        """Go on after an outcome has been taken in."""
        raise NotImplementedError

    # Handing out.

    def _hand_out(self, action: CloudAction) -> CloudAction:
        self.in_flight[action.id] = action
        if isinstance(action, AttachEni):
            self._attaching = True
        elif not isinstance(action, DescribeEnis | LookElsewhere):
            self._touched.add(action.eni_id)
        return action

    def _id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _attach(self, blocks: int, why: str, *, elsewhere: bool = False) -> CloudAction:
        used = self.taken | {eni.device_index for eni in self.pool.enis.values()}
        used |= {a.device_index for a in self.in_flight.values() if isinstance(a, AttachEni)}
        # Index 0 is the instance's own ENI, whatever a description left out.
        index = next(n for n in range(1, len(used) + 2) if n not in used)
        return self._hand_out(AttachEni(self._id(), index, blocks, why, elsewhere))

    def _add(self, eni: PooledEni, count: int, why: str) -> CloudAction:
        eni.busy = self._id()
        return self._hand_out(AddBlocks(eni.busy, eni.eni_id, count, why))

    def _remove(self, eni: PooledEni, blocks: list[PooledBlock], why: str) -> CloudAction:
        cut: list[float] = []
        for block in blocks:
            cut += self.pool.withdraw(block)
        eni.busy = self._id()
        names = tuple(block.block for block in blocks)
        return self._hand_out(RemoveBlocks(eni.busy, eni.eni_id, names, why, tuple(cut)))

    def _detach(self, eni: PooledEni, why: str) -> CloudAction:
        for block in list(eni.blocks.values()):
            if not block.leaving:
                self.pool.withdraw(block)
        eni.leaving = True
        eni.busy = self._id()
        return self._hand_out(DetachEni(eni.busy, eni.eni_id, why))

    def _describe(self, why: str) -> CloudAction:
        self.describe_why = ""
        self._touched = {eni.eni_id for eni in self.pool.enis.values() if eni.busy}
        self._attaching = any(isinstance(a, AttachEni) for a in self.in_flight.values())
        return self._hand_out(DescribeEnis(self._id(), why))

    # What stands in the way of growth.

    def eni_limit(self, now: Instant) -> int:
        """ENIs this node can have, ours only: by type and MAX_ENI, or as EC2 taught us."""
        limit = self.limits.enis - len(self.taken)
        return min(limit, self._learnt_enis) if now < self._learnt_until else limit

    def room_for_eni(self, now: Instant) -> bool:
        """Whether one more ENI fits beside those attached and on their way."""
        coming = sum(isinstance(action, AttachEni) for action in self.in_flight.values())
        return len(self.pool.enis) + coming < self.eni_limit(now)

    def with_room(self) -> list[PooledEni]:
        """ENIs that can take a block, in the order of choice."""
        return self.pool.in_order(
            [
                eni
                for eni in self.pool.enis.values()
                if eni.room and not eni.leaving and not eni.suspect
            ]
        )

    def can_grow(self, now: Instant) -> bool:
        """Whether a limit (max-pods, ENIs, addresses per ENI) leaves room for one block."""
        if self.pool.total >= self.limits.pods:
            return False
        return self.room_for_eni(now) or any(
            eni.room and not eni.leaving and not self.is_dry(eni, now)
            for eni in self.pool.enis.values()
        )

    def is_dry(self, eni: PooledEni, now: Instant) -> bool:
        """Whether the ENI's subnet had nothing a moment ago, while another one had."""
        return now <= self.elsewhere_until and eni.eni_id in self.dry_enis

    def mark_for_releases(self, counts: PoolCounts) -> float:
        """Return above how many addresses without a sandbox a DEL can change a decision.

        Where something may go already, only more of it matters; but the same number of free
        addresses can lie in more free prefixes than before.
        """
        idle = self.pool.total - self.pool.assigned
        mark = self.target.high_water(counts)
        smallest = min(
            (eni.serving for eni in self.pool.enis.values() if not eni.is_primary), default=0
        )
        self.idle_enis_matter = self.target.frees_enis(counts) and self.target.eni_can_go(
            self.pool.rest(smallest)
        )
        idle_eni = any(not e.is_primary and not e.assigned for e in self.pool.enis.values())
        if not idle_eni and idle <= mark:
            return mark
        return idle if self.pool.per_block == 1 else -1

    def expected_blocks(self) -> int:
        """Blocks that growth in flight will bring."""
        total = 0
        for action in self.in_flight.values():
            if isinstance(action, AttachEni):
                total += action.blocks
            elif isinstance(action, AddBlocks):
                total += action.count
        return total

    def refusal(self, now: Instant) -> tuple[Cause, bool]:
        """Return why no address is free, and whether waiting makes sense."""
        cooling = self.pool.cooling > 0
        coming = self.expected_blocks() > 0
        can_grow = self.can_grow(now)
        blocked = now < self.backoff_until
        may_come = coming or cooling or (can_grow and not blocked)
        if not self.started:
            return Cause.STARTING, may_come
        if self.growth_failure in _CAUSES and not coming:
            return _CAUSES[self.growth_failure], may_come
        if cooling and (not can_grow or self.target.wanted(self.pool.counts(now)) == 0):
            return Cause.ALL_COOLING, may_come
        if can_grow or coming:
            return Cause.POOL_EMPTY, may_come
        if self.pool.total >= self.limits.pods:
            return Cause.MAX_PODS, may_come
        return Cause.ENI_LIMIT, may_come

    # Taking in.

    def apply(self, outcome: CloudOutcome, now: Instant) -> None:
        """Take in what became of an action in flight."""
        action = self.in_flight.pop(outcome.id, None)
        assert action is not None, outcome
        match outcome:
            case EniAttached():
                self._touched.add(outcome.eni.eni_id)
                self.pool.add_eni(outcome.eni, now)
                self._grew(outcome.short, now)
            case BlocksAdded():
                eni = self.pool.enis[outcome.eni_id]
                eni.busy = 0
                self.pool.add_blocks(eni, outcome.blocks)
                if outcome.short is FailureReason.ENI_FULL:
                    self._learn_capacity(eni)
                self._grew(outcome.short, now)
            case BlocksRemoved():
                self._removed(self.pool.enis[outcome.eni_id], outcome.blocks, now)
            case EniDetached():
                self._forget(self.pool.enis[outcome.eni_id])
            case EnisDescribed():
                self._reconcile(outcome.enis, now)
            case LookedElsewhere():
                if outcome.found:
                    self._go_elsewhere(now)
            case ActionFailed():
                self._failed(outcome, now)
            case _:
                assert_never(outcome)
        self.settled(outcome, now)

    def _grew(self, short: FailureReason | None, now: Instant) -> None:
        self.growth_failure = None
        if short in DRY:
            # Part of what was asked for: the subnet cannot have more right now.
            self.growth_failure = short
            self.backoff_until = now + self.behaviour.backoff_s

    def _go_elsewhere(self, now: Instant) -> None:
        """Leave a dry subnet alone for as long as a backoff, and grow in another one at once."""
        self.elsewhere_until = now + self.behaviour.backoff_s
        if self.growth_failure in DRY:
            self.backoff_until = -inf

    def _removed(self, eni: PooledEni, blocks: tuple[Block, ...], now: Instant) -> None:
        eni.busy = 0
        self._quarantine = {b: t for b, t in self._quarantine.items() if t > now}
        for block in blocks:
            if block in eni.blocks:
                self.pool.drop_block(eni.blocks[block])
            self._quarantine[block] = now + self.behaviour.quarantine_s

    def _forget(self, eni: PooledEni) -> None:
        for block in list(eni.blocks.values()):
            self.pool.vanish(block)
        eni.busy = 0
        eni.leaving = True
        if not eni.blocks:
            self.pool.drop_eni(eni)

    def _learn_capacity(self, eni: PooledEni) -> None:
        if self.behaviour.learnt_limit_s:
            eni.capacity = min(len(eni.blocks), self.limits.blocks_per_eni)

    def _failed(self, outcome: ActionFailed, now: Instant) -> None:
        action, reason = outcome.action, outcome.reason
        unknown = reason is FailureReason.UNKNOWN_OUTCOME
        doubtful = _is_doubtful(outcome)
        if doubtful:
            self.describe_why = f"{reason.value}: {type(action).__name__}"
        match action:
            case AttachEni():
                self._growth_failed(reason)
                if reason is FailureReason.ENI_LIMIT and self.behaviour.learnt_limit_s:
                    self._learnt_enis = len(self.pool.enis)
                    self._learnt_until = now + self.behaviour.learnt_limit_s
            case AddBlocks():
                self._add_failed(self.pool.enis[action.eni_id], outcome)
            case RemoveBlocks():
                self._undo(self.pool.enis[action.eni_id], action.blocks, unknown=doubtful)
            case DetachEni():
                eni = self.pool.enis[action.eni_id]
                if reason is FailureReason.ENI_GONE:
                    self._forget(eni)
                else:
                    self._undo(eni, tuple(eni.blocks), unknown=unknown)
                    eni.leaving = unknown
            case DescribeEnis():
                # Nothing was learnt: ask again, after a pause.
                self.describe_why = self.describe_why or action.why
                self.describe_after = now + DESCRIBE_PAUSE_S
            case LookElsewhere():
                pass
            case _:
                assert_never(action)

    def _add_failed(self, eni: PooledEni, outcome: ActionFailed) -> None:
        eni.busy = 0
        eni.suspect = outcome.reason is FailureReason.UNKNOWN_OUTCOME
        self._growth_failed(outcome.reason)
        if outcome.reason is FailureReason.ENI_FULL:
            self._learn_capacity(eni)
        if outcome.reason is FailureReason.ENI_GONE and not eni.is_primary:
            # Its free addresses lead nowhere. A description brings it back if it is there.
            self._forget(eni)

    def _growth_failed(self, reason: FailureReason) -> None:
        self.growth_failure = reason

    def _undo(self, eni: PooledEni, blocks: tuple[Block, ...], *, unknown: bool) -> None:
        """Bring withdrawn blocks back, unless EC2 may have taken them: then describe first."""
        eni.busy = 0
        eni.suspect = unknown
        if unknown:
            return
        for name in blocks:
            if name in eni.blocks:
                self.pool.bring_back(eni.blocks[name])

    # Reconcile: compare pool and cloud, believe the cloud.

    def _reconcile(self, described: tuple[AttachedEni, ...], now: Instant) -> None:
        """Compare what no action touched since the description was asked for.

        The rest may have changed after EC2 looked: a later description tells.
        """
        seen: set[EniId] = set()
        for shown in described:
            seen.add(shown.eni_id)
            if shown.eni_id in self._touched:
                continue
            eni = self.pool.enis.get(shown.eni_id)
            if eni is not None:
                self._compare(eni, shown, now)
            elif not self._attaching:
                self.pool.add_eni(shown, now)
            else:
                # It may be the one whose EniAttached is still to come, or one whose attach got no
                # answer: what EC2 says once no attach is under way tells.
                self.describe_why = self.describe_why or f"{shown.eni_id} came during an attach"
                self.describe_after = now + DESCRIBE_PAUSE_S
        for eni in list(self.pool.enis.values()):
            if eni.eni_id not in seen and eni.eni_id not in self._touched:
                self._forget(eni)

    def _compare(self, eni: PooledEni, shown: AttachedEni, now: Instant) -> None:
        eni.suspect = False
        eni.leaving = False
        on_eni = set(shown.blocks)
        for block in list(eni.blocks.values()):
            if block.block not in on_eni:
                self.pool.vanish(block)
            elif block.leaving and block.assigned == 0:
                self.pool.bring_back(block)
        self.pool.add_blocks(
            eni,
            [b for b in shown.blocks if self._quarantine.get(b, -inf) <= now],
        )
        if len(eni.blocks) > eni.capacity:
            eni.capacity = self.limits.blocks_per_eni

    def sweep(self) -> None:
        """Forget vanished ENIs whose last sandbox has gone."""
        for eni in list(self.pool.enis.values()):
            if eni.leaving and not eni.busy and not eni.suspect and not eni.blocks:
                self.pool.drop_eni(eni)


def _is_doubtful(failed: ActionFailed) -> bool:
    """Whether EC2 must be asked what the node has before its answer is believed."""
    if failed.reason is FailureReason.OTHER:
        # Perhaps EC2 does not have these blocks any more.
        return isinstance(failed.action, RemoveBlocks)
    return failed.reason in (FailureReason.UNKNOWN_OUTCOME, FailureReason.ENI_GONE)


def after(instant: float) -> float:
    """Return the first instant that is later: many rules say "more than", not "at least"."""
    return nextafter(instant, inf)
