"""Run a trace through a scenario: a pure function of its arguments.

    sources -> trace -> placer -> kubelet -> node: the real Allocator -> recipes -> cloud

Here the parts are built and handed to each other, pods arrive, and pods that found no node
wait for room. What happened is in the record; nothing is computed from it here.
"""

from collections.abc import Callable, Generator, Iterable
from math import inf, nextafter

import simpy
from simpy.events import Timeout

from sim import rollout
from sim.autoscaler import Autoscaler
from sim.checks import Auditor
from sim.cloud import Account
from sim.fleet import Fleet
from sim.garbage import collected_seldom
from sim.kubelet import Kubelet
from sim.node import SimNode
from sim.placer import Placer
from sim.record import PoolHeader, Recorder, RunHeader, RunRecord
from sim.scenario import Scenario, ScenarioError
from sim.streams import Draws, stream
from sim.subnet import Subnet
from sim.trace import Trace
from sim.vpc import Vpc
from sim.window import after
from sim.world import World

Progress = Callable[[int], None]
"""Hears now and then how many pods of the trace have arrived."""


def run(scenario: Scenario, trace: Trace, *, progress: Progress | None = None) -> RunRecord:
    """Replay a trace; raises ScenarioError where nodes find no place in the subnets."""
    if not 0 <= scenario.warm_up_s < max(trace.end_s, 1.0):
        raise ScenarioError(
            f"a warm-up of {scenario.warm_up_s:g} s: the trace ends after {trace.end_s:g} s"
        )
    with collected_seldom():
        record = _Run(scenario, trace, progress).record()
    return after(record, scenario.warm_up_s) if scenario.warm_up_s else record


class _Run:
    """One run while it goes on."""

    def __init__(self, scenario: Scenario, trace: Trace, progress: Progress | None) -> None:
        self.scenario = scenario
        self.trace = trace
        self.progress = progress
        self.env = env = simpy.Environment()
        self.recorder = Recorder(len(trace))
        vpc = Vpc(_subnets(scenario), enis_max=scenario.numbers.enis_per_region)
        self.auditor = Auditor(vpc) if scenario.checks else None
        self.placer = Placer(scenario, trace, self.recorder.unplace)
        self.kubelet = Kubelet(
            env,
            self.recorder,
            trace.life_s.tolist(),
            trace.end_s,
            Draws(scenario.seed, "kubelet"),
            self._gone,
        )
        self.world = World(
            env,
            scenario,
            vpc,
            Account.of(scenario.numbers, vpc, denied=frozenset(scenario.denied)),
            self.recorder,
            self.auditor,
            [(-1, -1)] * len(scenario.subnets),
        )
        self.fleet = Fleet(self.world, self.kubelet, self.placer, self._arrive, trace)

    def record(self) -> RunRecord:
        """Let it happen, and close the books."""
        self.world.note_subnets()
        if any(pool.changes.autoscaling for pool in self.scenario.pools):
            Autoscaler(self.fleet, self.placer)
        rollout.begin(self.fleet)
        for pod, node in self.fleet.unserved_before:
            self.kubelet.add(pod, node)
        self.env.process(self._arrivals())
        # SimPy stops before what happens at `until`; the trace's last instant is part of it.
        self.env.run(until=nextafter(self.trace.end_s, inf))
        for pod in self.placer.line():
            self.recorder.unplace(pod, self.placer.binding(pod))
        record = self.recorder.finish(self._header(), self.trace.arrival_s)
        if self.auditor is not None:
            self.auditor.finished(record)
        return record

    # Pods.

    def _arrivals(self) -> Generator[simpy.Event, None, None]:
        """Let pods arrive in the order of the trace; those of before zero are there already."""
        env, nodes, arrive = self.env, self.fleet.nodes, self._arrive
        add, take, place = self.kubelet.add, self.placer.take, self.placer.place
        open_nodes = self.fleet.open
        every = max(len(self.trace) // 200, 1)
        given = self.trace.node.tolist()
        now = env.now
        first = self.fleet.present
        for pod, at in enumerate(self.trace.arrival_s.tolist()[first:], start=first):
            if at > now:
                yield Timeout(env, at - now)
                now = env.now
            node = given[pod]
            if node < 0:
                node = place(pod)
                if node >= 0:
                    add(pod, nodes[node])
            elif node in open_nodes:
                take(pod, node)
                add(pod, nodes[node])
            else:
                arrive(pod)
            if self.progress is not None and pod % every == 0:
                self.progress(pod)

    def _arrive(self, pod: int) -> None:
        """Let the placer choose a node for a pod."""
        node = self.placer.place(pod)
        if node >= 0:
            self.kubelet.add(pod, self.fleet.nodes[node])

    def _gone(self, pod: int, node: SimNode) -> None:
        """Give a pod's room to those that wait for a node."""
        placer = self.placer
        placer.leave(pod, node.index)
        if placer.in_line:
            for waiting in placer.offer(node.index):
                self.kubelet.add(waiting, node)
        if self.fleet.emptied is not None:
            self.fleet.emptied(node)

    # After the end.

    def _header(self) -> RunHeader:
        scenario, trace = self.scenario, self.trace
        pools = tuple(
            PoolHeader(
                pool.name,
                pool.instance,
                pool.behaviour.name,
                dict(pool.settings),
                pool.nodes,
                pool.cooldown_s,
            )
            for pool in scenario.pools
        )
        several = len(pools) > 1
        return RunHeader(
            behaviour=_each(pool.behaviour for pool in pools),
            settings={
                f"{pool.name}/{name}" if several else name: value
                for pool in pools
                for name, value in pool.settings.items()
            },
            instance=_each(pool.instance for pool in pools),
            nodes=tuple(node.name for node in self.fleet.nodes),
            subnets=tuple(plan.cidr for plan in scenario.subnets),
            seed=scenario.seed,
            trace_origin=trace.origin,
            trace_notes=trace.notes,
            pods=self.recorder.pods,
            end_s=trace.end_s,
            cooldown_s=pools[0].cooldown_s,
            warnings=scenario.warnings,
            scenario=scenario.described(),
            command=scenario.command,
            pools=pools,
            node_pools=tuple(self.placer.pool_of) if several else (),
        )


def _each(words: Iterable[str]) -> str:
    """Tell words once each, in their order."""
    return ", ".join(dict.fromkeys(words))


def _subnets(scenario: Scenario) -> list[Subnet]:
    try:
        return [
            Subnet(
                f"subnet-{number:017x}",
                plan.cidr,
                stream(scenario.seed, "placement", plan.cidr),
                zone=plan.zone,
                already_used=plan.used,
                reservations=plan.reservations,
            )
            for number, plan in enumerate(scenario.subnets)
        ]
    except ValueError as error:
        raise ScenarioError(str(error)) from error
