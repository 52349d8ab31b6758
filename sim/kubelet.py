"""One pod's life on its node: ADD with the kubelet's retries, run, DEL.

A pod that finds its address warm costs two events (its arrival and its departure) and no
process: that is nearly every pod. A refused ADD comes back after 10 to 15 s, for ever. Where
the behaviour lets ADDs wait, a refused one waits in line first, and is refused for good when
its time is over.
"""

from array import array
from collections.abc import Callable

import simpy
from simpy.events import Timeout

from cni.allocator.errors import NoFreeAddress
from cni.allocator.model import Assignment, Instant, SandboxKey
from sim.node import SimNode
from sim.record import Recorder
from sim.scenario import POD_RETRY_S
from sim.streams import Draws

NETWORK, IFNAME = "aws-cni", "eth0"


class Kubelet:
    """The kubelets of all nodes: they differ in nothing that matters here."""

    def __init__(  # noqa: PLR0913, PLR0917 - one for each part it is wired to
        self,
        env: simpy.Environment,
        recorder: Recorder,
        lives: list[float],
        end_s: float,
        add_wait_s: float,
        draws: Draws,
        on_gone: Callable[[int, SimNode], None],
    ) -> None:
        """Run pods, numbered as in `lives`; `on_gone` hears of each pod that left its node."""
        self._env = env
        self._recorder = recorder
        self._lives = lives
        self._end_s = end_s
        self._add_wait_s = add_wait_s
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
        """Pods removed before they had an address: their retries come to nothing."""

    def add(self, pod: int, node: SimNode) -> None:
        """Run a pod on a node: its first ADD comes now."""
        self._added_at[pod] = self._env.now
        self._node[pod] = node.index
        self._try(pod, node)

    def _try(self, pod: int, node: SimNode) -> None:
        """Make one ADD. Nearly every pod passes here once, so it is written flat."""
        now = Instant(self._env.now)
        allocator = node.allocator
        sandbox = SandboxKey(NETWORK, str(pod), IFNAME)
        try:
            assignment = allocator.assign(sandbox, now)
        except NoFreeAddress as refusal:
            self._wait_or_refuse(pod, node, sandbox, refusal)
            node.poke()
            return
        self._served_at[pod] = now
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
        if self._add_wait_s and refusal.may_come:
            node.allocator.wait(sandbox, Instant(self._env.now))
            patience = self._env.timeout(self._add_wait_s, (pod, node))
            patience.callbacks.append(self._lose_patience)
            self._patience[pod] = patience
        else:
            self._refuse(pod, node, refusal)

    def served_in_line(self, node: SimNode, assignment: Assignment) -> None:
        """Hear that an ADD which waited has its address."""
        sandbox = assignment.sandbox
        pod = int(sandbox.container_id)
        del self._patience[pod]
        now = self._env.now
        self._served_at[pod] = now
        if node.auditor is not None:
            node.auditor.assigned(node.name, assignment, node.allocator, now)
        life = self._lives[pod]
        if now + life <= self._end_s:
            Timeout(self._env, life, (pod, node, sandbox)).callbacks.append(self._on_leave)

    def _leave(self, event: simpy.Event) -> None:
        pod, node, sandbox = event._value  # noqa: SLF001 - the property costs a call for each pod
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
        sandbox = SandboxKey(NETWORK, str(pod), IFNAME)
        if node.allocator.find(sandbox) is not None:
            self._recorder.released_at[pod] = now
            assignment = node.allocator.release(sandbox, now)
            if node.auditor is not None:
                node.auditor.released(assignment, node.allocator)
        else:
            self._gone.add(pod)
            self._patience.pop(pod, None)
            node.allocator.stop_waiting(sandbox, now)
        node.poke()

    def _lose_patience(self, event: simpy.Event) -> None:
        pod, node = event._value  # noqa: SLF001 - typed as Any where the property is not
        if self._patience.get(pod) is not event:
            return  # It was served in time.
        del self._patience[pod]
        sandbox = SandboxKey(NETWORK, str(pod), IFNAME)
        now = Instant(self._env.now)
        node.allocator.stop_waiting(sandbox, now)
        self._refuse(pod, node, node.allocator.refusal(now))
        node.poke()

    def _refuse(self, pod: int, node: SimNode, refusal: NoFreeAddress) -> None:
        """Note a refusal, and come back when the kubelet does."""
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
