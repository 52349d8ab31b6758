"""One pod's life on its node: ADD with the kubelet's retries, run, DEL.

A pod that finds its address warm costs two events (its arrival and its departure) and no
process: that is nearly every pod. A refused ADD comes back after 10 to 15 s, for ever. Where
the behaviour lets ADDs wait, a refused one waits in line first, and is refused for good when
its time is over.
"""

from array import array
from collections.abc import Callable
from math import isnan

import simpy
from simpy.events import Timeout

from cni.allocator.errors import Cause, NoFreeAddress
from cni.allocator.model import Assignment, Instant, SandboxKey
from sim.node import SimNode
from sim.record import Recorder
from sim.scenario import POD_RETRY_S
from sim.streams import Draws

NETWORK, IFNAME = "aws-cni", "eth0"


PLACED_BEFORE_S = 1.0
"""Pods that are there at zero count as served this long before: state, and no demand."""


def sandbox_of(pod: int) -> SandboxKey:
    """Return the sandbox of a pod."""
    return SandboxKey(NETWORK, str(pod), IFNAME)


class Kubelet:
    """The kubelets of all nodes: they differ in nothing that matters here."""

    def __init__(  # noqa: PLR0913, PLR0917 - one for each part it is wired to
        self,
        env: simpy.Environment,
        recorder: Recorder,
        lives: list[float],
        end_s: float,
        draws: Draws,
        on_gone: Callable[[int, SimNode], None],
    ) -> None:
        """Run pods, numbered as in `lives`; `on_gone` hears of each pod that left its node."""
        self._env = env
        self._recorder = recorder
        self._lives = lives
        self._end_s = end_s
        self._draws = draws
        self._on_gone = on_gone
        self._added_at: array[float] = recorder.added_at
        self._served_at: array[float] = recorder.served_at
        self._node: array[int] = recorder.node
        self._released_at: array[float] = recorder.released_at
        self._on_leave = self._leave
        self._patience: dict[int, simpy.Event] = {}
        """Of each pod whose ADD waits in line: the event at which its time is over."""
        self._gone: set[int] = set()
        """Pods removed before their time: what was to happen to them comes to nothing."""
        self.unserved: dict[int, SimNode] = {}
        """Pods on a node that wait for an address, in line or for their next try."""

    def add(self, pod: int, node: SimNode) -> None:
        """Run a pod on a node: its first ADD comes now."""
        self._added_at[pod] = self._env.now
        self._node[pod] = node.index
        self._try(pod, node)

    def placed_before(self, node: SimNode, assignment: Assignment) -> None:
        """Take in a pod that has had its address since before zero."""
        sandbox = assignment.sandbox
        pod = int(sandbox.container_id)
        self._node[pod] = node.index
        self._added_at[pod] = self._served_at[pod] = -PLACED_BEFORE_S
        if node.auditor is not None:
            node.auditor.assigned(node.name, assignment, node.allocator, 0.0)
        life = self._lives[pod]
        if life <= self._end_s:
            Timeout(self._env, life, (pod, node, sandbox)).callbacks.append(self._on_leave)

    def _try(self, pod: int, node: SimNode) -> None:
        """Make one ADD. Nearly every pod passes here once, so it is written flat."""
        now = Instant(self._env.now)
        sandbox = SandboxKey(NETWORK, str(pod), IFNAME)
        if node.away:
            self._refuse(pod, node, NoFreeAddress(Cause.STARTING, may_come=False))
            return
        allocator = node.allocator
        try:
            assignment = allocator.assign(sandbox, now)
        except NoFreeAddress as refusal:
            self._wait_or_refuse(pod, node, sandbox, refusal)
            node.poke()
            return
        self._served_at[pod] = now
        if self.unserved:
            self.unserved.pop(pod, None)
        if node.auditor is not None:
            node.auditor.assigned(node.name, assignment, allocator, now)
        life = self._lives[pod]
        if now + life <= self._end_s:
            Timeout(self._env, life, (pod, node, sandbox)).callbacks.append(self._on_leave)
        if allocator.next_wakeup < node.wake_at:
            node.poke()

    def _wait_or_refuse(
        self, pod: int, node: SimNode, sandbox: SandboxKey, refusal: NoFreeAddress
    ) -> None:
        wait_s = node.pool.behaviour.add_wait_s
        if wait_s and refusal.may_come:
            self.unserved[pod] = node
            node.allocator.wait(sandbox, Instant(self._env.now))
            patience = self._env.timeout(wait_s, (pod, node))
            patience.callbacks.append(self._lose_patience)
            self._patience[pod] = patience
        else:
            self._refuse(pod, node, refusal)

    def served_in_line(self, node: SimNode, assignment: Assignment) -> None:
        """Hear that an ADD which waited has its address."""
        sandbox = assignment.sandbox
        pod = int(sandbox.container_id)
        del self._patience[pod]
        self.unserved.pop(pod, None)
        now = self._env.now
        self._served_at[pod] = now
        if node.auditor is not None:
            node.auditor.assigned(node.name, assignment, node.allocator, now)
        life = self._lives[pod]
        if now + life <= self._end_s:
            Timeout(self._env, life, (pod, node, sandbox)).callbacks.append(self._on_leave)

    def _leave(self, event: simpy.Event) -> None:
        pod, node, sandbox = event._value  # noqa: SLF001 - the property costs a call for each pod
        if self._gone and pod in self._gone:
            return
        if node.away:
            # The plug-in leaves a tombstone and succeeds; the address is released later.
            node.tombstones.append(sandbox)
            self._on_gone(pod, node)
            return
        allocator = node.allocator
        self._released_at[pod] = now = self._env.now
        assignment = allocator.release(sandbox, now)
        if node.auditor is not None:
            node.auditor.released(assignment, allocator)
        if allocator.next_wakeup < node.wake_at:
            node.poke()
        self._on_gone(pod, node)

    def remove(self, pod: int, node: SimNode) -> None:
        """Delete a pod now, whether it has its address, waits for it, or will retry."""
        now = Instant(self._env.now)
        sandbox = sandbox_of(pod)
        self._gone.add(pod)
        self.unserved.pop(pod, None)
        if node.allocator.find(sandbox) is not None:
            if node.away:
                node.tombstones.append(sandbox)
            else:
                self.released(sandbox, node)
        else:
            self._recorder.released_at[pod] = now
            self._patience.pop(pod, None)
            node.allocator.stop_waiting(sandbox, now)
        node.poke()

    def released(self, sandbox: SandboxKey, node: SimNode) -> None:
        """Let a pod's address go, now."""
        now = Instant(self._env.now)
        self._recorder.released_at[int(sandbox.container_id)] = now
        assignment = node.allocator.release(sandbox, now)
        if node.auditor is not None:
            node.auditor.released(assignment, node.allocator)

    def pods_on(self, node: SimNode) -> list[int]:
        """Return the pods on a node, those with an address first; none that are gone."""
        buried = {int(sandbox.container_id) for sandbox in node.tombstones}
        held = [int(one.sandbox.container_id) for one in node.allocator.assignments()]
        waiting = [pod for pod, where in self.unserved.items() if where is node]
        return [pod for pod in held if pod not in buried] + waiting

    def is_on(self, pod: int, node: SimNode) -> bool:
        """Whether a pod is on a node still."""
        if pod in self._gone:
            return False
        sandbox = sandbox_of(pod)
        held = node.allocator.find(sandbox) is not None and sandbox not in node.tombstones
        return held or self.unserved.get(pod) is node

    def again(self, pod: int) -> int | None:
        """Make a pod that arrives now and lives for the time another had left; return its number.

        None where there is no time left.
        """
        left = self._lives[pod]
        served_at = self._served_at[pod]
        if not isnan(served_at):
            left -= self._env.now - max(served_at, 0.0)
        if left <= 0:
            return None
        self._lives.append(left)
        return self._recorder.again(pod, self._env.now)

    def hang_up(self, node: SimNode) -> None:
        """Refuse the ADDs that waited in line for a daemon that went away."""
        waiting = [pod for pod in self._patience if self.unserved.get(pod) is node]
        for pod in waiting:
            del self._patience[pod]
            self._refuse(pod, node, NoFreeAddress(Cause.STARTING, may_come=False))

    def _lose_patience(self, event: simpy.Event) -> None:
        pod, node = event._value  # noqa: SLF001 - typed as Any where the property is not
        if self._patience.get(pod) is not event:
            return  # It was served in time.
        del self._patience[pod]
        sandbox = sandbox_of(pod)
        now = Instant(self._env.now)
        node.allocator.stop_waiting(sandbox, now)
        self._refuse(pod, node, node.allocator.refusal(now))
        node.poke()

    def _refuse(self, pod: int, node: SimNode, refusal: NoFreeAddress) -> None:
        """Note a refusal, and come back when the kubelet does."""
        self.unserved[pod] = node
        self._recorder.refuse(self._env.now, node.index, pod, refusal.cause.value)
        tries = self._recorder.refused[pod]
        # The n-th retry of a pod takes equally long under every setting.
        shortest, longest = POD_RETRY_S
        pause = shortest + (longest - shortest) * self._draws.once(f"{pod}/{tries}")
        retry = self._env.timeout(pause, (pod, node))
        retry.callbacks.append(self._retry)

    def _retry(self, event: simpy.Event) -> None:
        pod, node = event._value  # noqa: SLF001 - as above
        if pod not in self._gone:
            self._try(pod, node)
