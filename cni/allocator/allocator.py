"""The allocator's doors: sandboxes come and go, a driver asks for actions and tells outcomes.

Rule 1: everything that affects the state comes through a method of `Allocator`, with `now` as
an argument; nothing in this package asks a clock. Rule 2: `assign` and `release` are immediate
and never wait for the cloud; an ADD that is willing to wait says so with `wait`. Rule 3: the
same inputs give the same answers, in the daemon, in the simulator and from a journal.
"""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address

from cni.allocator.actions import CloudAction, CloudOutcome
from cni.allocator.behaviour import Behaviour
from cni.allocator.errors import NoFreeAddress, UnknownSandbox
from cni.allocator.gathering import Gathering
from cni.allocator.model import (
    Assignment,
    AttachedEni,
    BlockKind,
    Instant,
    NodeLimits,
    PoolCounts,
    PoolSize,
    SandboxKey,
)
from cni.allocator.planner import Planner, after
from cni.allocator.pool import Pool, eni_as_attached
from cni.allocator.targets import WarmTarget
from cni.allocator.ticking import Ticking


class Allocator:
    """Which sandbox holds which address, and what to ask of EC2 next, for one node."""

    def __init__(  # noqa: PLR0913, all by name
        self,
        *,
        target: WarmTarget,
        limits: NodeLimits,
        kind: BlockKind,
        attached: Iterable[AttachedEni],
        taken: Collection[int],
        assignments: Iterable[Assignment],
        now: Instant,
        behaviour: Behaviour,
        cooldown_s: float = 30.0,
        cooling: Iterable[tuple[IPv4Address, Instant]] = (),
        seed: int = 0,
    ) -> None:
        """Start from what is there: ENIs with their blocks, and what sandboxes held before.

        `taken` are device indices of ENIs that are not ours; `cooling` are addresses with the
        instant until which they cool on; `seed` is used where the behaviour shuffles. Earlier
        assignments that cannot stand are dropped, and told in `dropped`, one line each.
        """
        self._pool = pool = Pool(kind, limits.blocks_per_eni, cooldown_s, behaviour, seed)
        for eni in sorted(attached, key=lambda eni: eni.device_index):
            pool.add_eni(eni, now)
        problems = [pool.restore(assignment) for assignment in assignments]
        self.dropped = tuple(problem for problem in problems if problem is not None)
        for address, until in sorted(cooling, key=lambda pair: pair[1]):
            pool.restore_cooling(address, until)
        self._waiting: dict[SandboxKey, Instant] = {}
        planner: type[Planner] = Ticking if behaviour.tick_s else Gathering
        self._planner = planner(pool, target, limits, taken, self._waiting, behaviour, now)

    # Sandboxes.

    def assign(self, sandbox: SandboxKey, now: Instant) -> Assignment:
        """Assign an address; the same sandbox gets the same one again.

        Raises NoFreeAddress with its cause; ADDs that wait are served before later ones.
        """
        pool = self._pool
        slot = pool.held.get(sandbox)
        if slot is not None:
            assert slot.assignment is not None
            return slot.assignment
        if now > pool.thaw_at:
            pool.thaw(now)
        planner = self._planner
        assignment = None if self._waiting else pool.take(sandbox, now)
        if assignment is None:
            planner.stir(now)
            raise self.refusal(now)
        if pool.available < planner.low_water:
            planner.stir(now)
        assigned = pool.assigned
        if assigned > planner.assigned_high or now >= planner.extremes_until:
            planner.observe(assigned - 1, now)
        return assignment

    def release(self, sandbox: SandboxKey, now: Instant) -> Assignment:
        """Release a sandbox's address into its cooldown; raises UnknownSandbox."""
        pool = self._pool
        slot = pool.held.get(sandbox)
        if slot is None:
            raise UnknownSandbox(sandbox)
        if now > pool.thaw_at:
            pool.thaw(now)
        assignment = pool.give_back(slot, now)
        planner = self._planner
        assigned = pool.assigned
        if pool.total - assigned > planner.high_water or (
            slot.block.eni.assigned == 0 and planner.idle_enis_matter
        ):
            planner.stir(now)
        if assigned < planner.assigned_low or now >= planner.extremes_until:
            planner.observe(assigned + 1, now)
        return assignment

    def find(self, sandbox: SandboxKey) -> Assignment | None:
        """Return what a sandbox holds, for CHECK."""
        slot = self._pool.held.get(sandbox)
        return None if slot is None else slot.assignment

    def assignments(self) -> tuple[Assignment, ...]:
        """Return all assignments, oldest first, for the ledger and for GC."""
        slots = self._pool.held.values()
        return tuple(slot.assignment for slot in slots if slot.assignment is not None)

    def wait(self, sandbox: SandboxKey, now: Instant) -> None:
        """Let a refused sandbox wait in line: what it needs counts as missing, and is urgent."""
        self._thaw(now)
        self._waiting.setdefault(sandbox, now)
        self._planner.stir(now)

    def stop_waiting(self, sandbox: SandboxKey, now: Instant) -> None:
        """Give up: the caller hung up, its time is over, or a DEL came."""
        if self._waiting.pop(sandbox, None) is not None:
            self._thaw(now)
            self._planner.stir(now)

    def refusal(self, now: Instant) -> NoFreeAddress:
        """Return the refusal that an ADD gets now, for one that has waited long enough."""
        self._thaw(now)
        cause, may_come = self._planner.refusal(now)
        return NoFreeAddress(cause, may_come=may_come)

    def serve_waiting(self, now: Instant) -> tuple[Assignment, ...]:
        """Assign addresses to those who wait, in order of arrival, as far as they go."""
        waiting = self._waiting
        if not waiting:
            return ()
        pool = self._pool
        if now > pool.thaw_at:
            pool.thaw(now)
        served: list[Assignment] = []
        while waiting:
            sandbox = next(iter(waiting))
            before = pool.assigned
            assignment = pool.take(sandbox, now)
            if assignment is None:
                break
            del waiting[sandbox]
            served.append(assignment)
            self._planner.observe(before, now)
        if served:
            self._planner.stir(now)
        return tuple(served)

    # The pool: ask, do, tell.

    def next_action(self, now: Instant) -> CloudAction | None:
        """Return one thing to do now, or None until `next_wakeup`.

        The action counts as in flight until `apply` hears of it, with what it will bring, so
        that a slow call is never doubled. Ask again until None: several may be in flight.
        """
        return self._planner.next_action(now)

    def apply(self, outcome: CloudOutcome, now: Instant) -> None:
        """Take in what became of an action in flight."""
        self._thaw(now)
        self._planner.apply(outcome, now)

    @property
    def next_wakeup(self) -> float:
        """The next instant at which `next_action` or `serve_waiting` may have something to do.

        Any input can bring it forward; infinity means until an input.
        """
        if self._waiting:
            return min(self._planner.due, after(self._pool.thaw_at))
        return self._planner.due

    def suspect(self, why: str, now: Instant) -> None:
        """Have the cloud described soon: what it shows may differ from the pool."""
        self._thaw(now)
        self._planner.describe_why = why
        self._planner.stir(now)

    # Looking.

    def counts(self, now: Instant) -> PoolCounts:
        """Return the pool in numbers."""
        self._thaw(now)
        return self._pool.counts(now)

    def enis(self) -> tuple[AttachedEni, ...]:
        """Return the ENIs of the pool by device index, with those about to leave."""
        enis = sorted(self._pool.enis.values(), key=lambda eni: eni.device_index)
        return tuple(eni_as_attached(eni) for eni in enis)

    def cooling(self) -> tuple[tuple[IPv4Address, Instant], ...]:
        """Return the addresses that cool, each with the instant until which it does, oldest first.

        What the next life of this node's daemon is told, where it is told.
        """
        return self._pool.cooling_until()

    def size(self) -> PoolSize:
        """Return how much the node holds, with what is about to leave.

        `enis` tells the same, but makes and sorts values for it: a millisecond for a full node.
        """
        return self._pool.size()

    @property
    def waiting(self) -> int:
        """ADDs that wait in line."""
        return len(self._waiting)

    @property
    def in_flight(self) -> tuple[CloudAction, ...]:
        """Actions whose outcome is still to come, oldest first."""
        return tuple(self._planner.in_flight.values())

    def _thaw(self, now: Instant) -> None:
        """Move on what has cooled; every door does so first, so that looking changes nothing."""
        if now > self._pool.thaw_at:
            self._pool.thaw(now)

    @property
    def in_doubt(self) -> bool:
        """Whether EC2 may differ from the pool, and is to be asked: an answer did not come."""
        return bool(self._planner.describe_why)

    @property
    def stranded(self) -> tuple[int, int]:
        """ENIs and addresses that sandboxes hold though EC2 does not show them any more."""
        return self._pool.stranded

    def check(self) -> None:
        """Recompute every count; AssertionError names the first that does not hold."""
        self._pool.check()
        assert not self._waiting.keys() & self._pool.held.keys(), "an ADD waits and holds"
        for eni in self._pool.enis.values():
            busy = eni.busy == 0 or eni.busy in self._planner.in_flight
            assert busy, f"{eni.eni_id} is busy with an action that is not in flight"
            assert eni.room >= 0 or eni.leaving, f"{eni.eni_id} holds more than it can"
