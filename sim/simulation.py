"""Run a trace through a scenario: a pure function of its arguments.

    sources -> trace -> scheduler -> kubelet -> node: the real Allocator -> recipes -> cloud

Here the parts are built and handed to each other, pods arrive, and pods that found no node
wait for room. What happened is in the record; nothing is computed from it here.
"""

from collections import deque
from collections.abc import Callable, Generator
from itertools import islice
from math import inf, nextafter

import simpy
from simpy.events import Timeout

from cni.allocator.model import AttachedEni
from cni.cloud.calls import MUTATING
from sim.checks import Auditor
from sim.cloud import Account, CloudModel
from sim.cloud_numbers import CloudNumbers
from sim.ec2_error import Ec2Error
from sim.kubelet import Kubelet
from sim.node import SimNode
from sim.record import Recorder, RunHeader, RunRecord
from sim.scenario import Scenario, ScenarioError
from sim.scheduler import scheduler
from sim.streams import Draws, stream
from sim.subnet import Subnet
from sim.trace import Trace
from sim.vpc import Vpc

PENDING_LOOKED_AT = 64
"""Pods without a node that are offered the room of one that left, oldest first."""

Progress = Callable[[int], None]
"""Hears now and then how many pods of the trace have arrived."""


def run(scenario: Scenario, trace: Trace, *, progress: Progress | None = None) -> RunRecord:
    """Replay a trace; raises ScenarioError where nodes find no place in the subnets."""
    return _Run(scenario, trace, progress).record()


class _Run:
    """One run while it goes on."""

    def __init__(self, scenario: Scenario, trace: Trace, progress: Progress | None) -> None:
        self.scenario = scenario
        self.trace = trace
        self.progress = progress
        self.env = simpy.Environment()
        self.recorder = Recorder(len(trace))
        self.vpc = Vpc(_subnets(scenario), enis_max=scenario.numbers.enis_per_region)
        self.account = Account.of(scenario.numbers, self.vpc)
        self.auditor = Auditor(self.vpc) if scenario.checks else None
        ignored = scenario.ignore_requests
        self.scheduler = scheduler(
            scenario.nodes,
            scenario.capacity,
            scenario.placement,
            requests=not ignored and bool(trace.cpu_m.any() or trace.memory_mib.any()),
        )
        self.cpu = [0] * len(trace) if ignored else trace.cpu_m.tolist()
        self.memory = [0] * len(trace) if ignored else trace.memory_mib.tolist()
        self.pending: deque[int] = deque()
        self.kubelet = Kubelet(
            self.env,
            self.recorder,
            trace.life_s.tolist(),
            trace.end_s,
            scenario.behaviour.add_wait_s,
            Draws(scenario.seed, "kubelet"),
            self._gone,
        )
        self._free_noted: list[tuple[int, int]] = [(-1, -1)] * len(scenario.subnets)
        self.nodes = self._launch()

    def record(self) -> RunRecord:
        """Let it happen, and close the books."""
        self._note_subnets()
        self.env.process(self._arrivals())
        # SimPy stops before what happens at `until`; the trace's last instant is part of it.
        self.env.run(until=nextafter(self.trace.end_s, inf))
        for pod in self.pending:
            resource = self.scheduler.binding(self.cpu[pod], self.memory[pod])
            self.recorder.unplace(pod, resource)
        record = self.recorder.finish(self._header(), self.trace.arrival_s)
        if self.auditor is not None:
            self.auditor.finished(record)
        return record

    # Before zero.

    def _launch(self) -> list[SimNode]:
        """Launch the instances, and start their daemons or let them be up for a while.

        All instances are there before the first daemon takes an address: pools, not nodes, go
        short where the subnets are small.
        """
        names = _node_names(self.scenario, self.trace)
        primaries = [self._instance(names, index) for index in range(len(names))]
        instant = Account.of(CloudNumbers.instant(), self.vpc)
        return [
            self._node(name, index, primaries[index], instant) for index, name in enumerate(names)
        ]

    def _instance(self, names: tuple[str, ...], index: int) -> AttachedEni:
        """Launch one instance, in the subnet whose turn it is, and return its primary ENI."""
        subnet = self.vpc.subnets[index % len(self.vpc.subnets)]
        shape = self.scenario.shape
        try:
            launched = self.vpc.launch_instance(names[index], shape, subnet.subnet_id, 0.0)
        except Ec2Error as error:
            message = f"{index} of {len(names)} nodes fit into {subnet.network}: {error.message}"
            raise ScenarioError(message) from error
        return AttachedEni(launched.eni_id, 0, launched.primary_ip, ())

    def _node(self, name: str, index: int, primary: AttachedEni, instant: Account) -> SimNode:
        """Start an instance's daemon at zero, or long before it with an EC2 that is `instant`."""
        scenario = self.scenario
        cloud = CloudModel(
            self.env,
            self.account,
            name,
            Draws(scenario.seed, "node", name),
            on_call=self._call_noter(index),
        )
        node = SimNode(
            self.env,
            index,
            name,
            scenario,
            cloud,
            self.recorder,
            self.auditor,
            self.kubelet.served_in_line,
        )
        draw = stream(scenario.seed, "daemon", name)
        seed = draw.getrandbits(48)
        if scenario.warm:
            at_once = CloudModel(self.env, instant, name, Draws(scenario.seed, "warm", name))
            node.warm_up(primary, seed, draw.random(), at_once)
        else:
            node.start(primary, 0.0, seed)
        node.note_pool()
        node.poke()
        return node

    def _call_noter(self, index: int) -> Callable[[str, float, float, str], None]:
        recorder = self.recorder

        def note(api: str, started: float, ended: float, code: str) -> None:
            recorder.call(index, api, started, ended, code)
            if not code and api in MUTATING:
                self._note_subnets()

        return note

    def _note_subnets(self) -> None:
        for number, subnet in enumerate(self.vpc.subnets):
            free = (subnet.free, subnet.free_prefixes)
            if free != self._free_noted[number]:
                self._free_noted[number] = free
                self.recorder.subnet(self.env.now, number, *free)

    # Pods.

    def _arrivals(self) -> Generator[simpy.Event, None, None]:
        """Let pods arrive in the order of the trace."""
        env, add, nodes = self.env, self.kubelet.add, self.nodes
        place, take, cpu, memory = self._place, self.scheduler.take, self.cpu, self.memory
        every = max(len(self.trace) // 200, 1)
        given = self.trace.node.tolist()
        now = env.now
        for pod, at in enumerate(self.trace.arrival_s.tolist()):
            if at > now:
                yield Timeout(env, at - now)
                now = env.now
            node = given[pod]
            if node >= 0:
                take(node, cpu[pod], memory[pod])
            else:
                node = place(pod)
            if node >= 0:
                add(pod, nodes[node])
            if self.progress is not None and pod % every == 0:
                self.progress(pod)

    def _place(self, pod: int) -> int:
        """Choose a node; a pod that fits none is set aside, or given up where it never will."""
        cpu, memory = self.cpu[pod], self.memory[pod]
        node = self.scheduler.place(cpu, memory)
        if node < 0:
            lacking = self.scenario.capacity.lacks(cpu, memory)
            if lacking:
                self.recorder.unplace(pod, lacking)
            else:
                self.pending.append(pod)
        return node

    def _gone(self, pod: int, node: SimNode) -> None:
        """Give a pod's room to those that wait for a node."""
        self.scheduler.leave(node.index, self.cpu[pod], self.memory[pod])
        if self.pending:
            self._offer(node)

    def _offer(self, node: SimNode) -> None:
        """Offer the room on one node to the pods that wait, oldest first."""
        scheduler, cpu, memory = self.scheduler, self.cpu, self.memory
        placed: set[int] = set()
        for pod in islice(self.pending, PENDING_LOOKED_AT):
            if scheduler.fits(node.index, cpu[pod], memory[pod]):
                scheduler.take(node.index, cpu[pod], memory[pod])
                placed.add(pod)
        if placed:
            self.pending = deque(pod for pod in self.pending if pod not in placed)
            for pod in sorted(placed):
                self.kubelet.add(pod, node)

    # After the end.

    def _header(self) -> RunHeader:
        scenario, trace = self.scenario, self.trace
        notes = trace.notes
        return RunHeader(
            behaviour=scenario.behaviour.name,
            settings=dict(scenario.settings),
            instance=scenario.instance,
            nodes=tuple(node.name for node in self.nodes),
            subnets=tuple(plan.cidr for plan in scenario.subnets),
            seed=scenario.seed,
            trace_origin=trace.origin,
            trace_notes=notes,
            pods=len(trace),
            end_s=trace.end_s,
            cooldown_s=scenario.cooldown_s,
            warnings=scenario.warnings,
            scenario=scenario.described(),
            command=scenario.command,
        )


def _subnets(scenario: Scenario) -> list[Subnet]:
    try:
        return [
            Subnet(
                f"subnet-{number:017x}",
                plan.cidr,
                stream(scenario.seed, "placement", plan.cidr),
                already_used=plan.used,
                reservations=plan.reservations,
            )
            for number, plan in enumerate(scenario.subnets)
        ]
    except ValueError as error:
        raise ScenarioError(str(error)) from error


def _node_names(scenario: Scenario, trace: Trace) -> tuple[str, ...]:
    """Name the nodes: those the trace names first, then numbered ones."""
    named = trace.node_names
    if len(named) > scenario.nodes:
        message = f"the trace names {len(named)} nodes, the scenario has {scenario.nodes}"
        raise ScenarioError(message)
    return (*named, *(f"node-{n}" for n in range(len(named), scenario.nodes)))
