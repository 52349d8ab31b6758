"""The auditor: what must hold at every event, judged apart from who creates the load.

Every assignment is checked against EC2's own books (no address at two pods, none that EC2
does not show on that very node), every change of a pool recomputes its counts and compares
it with EC2. A violation stops the run: figures of a broken run are worth nothing.
"""

from collections import Counter

from cni.allocator.allocator import Allocator
from cni.allocator.model import Assignment, Instant
from sim.record import RunRecord
from sim.vpc import Vpc


class CheckFailed(AssertionError):  # noqa: N818 - an assertion of ours, named as it reads
    """Something that must hold does not; the message says what, where and when."""


class Auditor:
    """Watches one run; raises CheckFailed."""

    def __init__(self, vpc: Vpc, *, thorough: bool = False) -> None:
        """Check against `vpc`; `thorough` recomputes a pool's counts after every pod, too."""
        self._vpc = vpc
        self._thorough = thorough
        self._holders: dict[int, tuple[str, str]] = {}
        self._held: Counter[str] = Counter()

    def assigned(self, node: str, assignment: Assignment, allocator: Allocator, now: float) -> None:
        """Check a new assignment."""
        address = int(assignment.address)
        pod = assignment.sandbox.container_id
        other = self._holders.get(address)
        if other is not None:
            self._fail(now, f"{assignment.address} given to pod {pod} on {node} is held by {other}")
        owner = self._vpc.owner_of(address)
        if owner != assignment.eni_id:
            self._fail(now, f"{assignment.address} of pod {pod} is on {owner} for EC2")
        if self._vpc.instance_of(assignment.eni_id, now) != node:
            self._fail(now, f"{assignment.eni_id} of pod {pod} is not attached to {node}")
        self._holders[address] = (node, pod)
        self._held[node] += 1
        if self._thorough:
            allocator.check()

    def released(self, assignment: Assignment, allocator: Allocator) -> None:
        """Check a release."""
        node, _pod = self._holders.pop(int(assignment.address))
        self._held[node] -= 1
        if self._thorough:
            allocator.check()

    def changed(self, node: str, allocator: Allocator, now: float) -> None:
        """Check a pool after EC2 changed it; where nothing is open it equals EC2's view.

        Open is an action in flight, or one whose answer never came, until EC2 is asked.
        """
        allocator.check()
        assigned = allocator.counts(Instant(now)).assigned
        if assigned != self._held[node]:
            self._fail(now, f"{node} counts {assigned} assigned, its pods hold {self._held[node]}")
        if allocator.in_flight or allocator.in_doubt:
            return
        kept = {eni.eni_id: set(eni.blocks) for eni in allocator.enis()}
        shown = {
            interface.eni_id: set(interface.blocks)
            for interface in self._vpc.interfaces_of(node, now)
            if interface.attachment is not None and interface.attachment.gone_at > now
        }
        if kept != shown:
            self._fail(now, f"{node} believes {kept}, EC2 shows {shown}")

    def finished(self, record: RunRecord) -> None:
        """Check the books: every pod is served, waits, or was never placed."""
        self._vpc.check()
        pods = record.pods
        placed = ~(pods["added_at"] != pods["added_at"])
        served = ~(pods["served_at"] != pods["served_at"])
        if (served & ~placed).any():
            self._fail(record.header.end_s, "a pod was served that was never placed")
        if int((~placed).sum()) != len(record.unplaced["pod"]):
            self._fail(record.header.end_s, "pods without a node are not all accounted for")
        holding = int((served & (pods["released_at"] != pods["released_at"])).sum())
        if holding != len(self._holders):
            self._fail(
                record.header.end_s, f"{holding} pods hold addresses, {len(self._holders)} are held"
            )

    def _fail(self, now: float, what: str) -> None:
        message = f"at {now:.3f} s: {what}"
        raise CheckFailed(message)
