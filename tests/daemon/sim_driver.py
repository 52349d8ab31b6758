"""A script through the simulator: SimPy's clock, `sim/node.py`, `sim/cloud.py`."""

from typing import Any

import simpy

from cni.allocator.model import Instant
from cni.cloud.calls import Call
from sim.cloud import Account, Answer, CloudModel
from sim.metadata import attached_eni
from sim.node import SimNode
from tests.daemon.scripts import END_S, INSTANCE, SUBNET, Faulty, Log, Player, Script, life_of


class _NoRecorder:
    def pool(self, *_: object) -> None: ...

    def cut(self, *_: object) -> None: ...


class _LoggedCloud(CloudModel):
    """The simulator's EC2, with every call in the log."""

    log: Log

    def answer(self, call: Call) -> Answer:
        self.log.call(self._env.now, call)
        return (yield from super().answer(call))


class _Node(SimNode):
    """The simulator's node, which can be told to hand out nothing more."""

    stopping = False
    when_quiet: Any = None

    def maintain(self) -> None:
        if not self.stopping:
            super().maintain()
        elif not self.allocator.in_flight and self.when_quiet is not None:
            when_quiet, self.when_quiet = self.when_quiet, None
            when_quiet()


def play(script: Script) -> list[str]:
    """Play a script in simulated time and return its log."""
    log = Log()
    env = simpy.Environment()
    vpc = script.vpc()
    vpc.launch_instance(INSTANCE, script.shape, SUBNET, 0.0)
    account = Account.of(script.numbers, vpc)
    cloud = _LoggedCloud(env, account, INSTANCE, script.draws(), faults=Faulty(script))
    cloud.log = log
    nodes: list[_Node] = []

    def call_at(at: float, call: Any) -> None:
        env.timeout(max(at - env.now, 0.0)).callbacks.append(lambda _event: call())

    def poke() -> None:
        nodes[-1].poke()

    player = Player(script, log, poke, call_at, lambda: Instant(env.now))

    def start() -> None:
        player.start(tuple(attached_eni(eni) for eni in vpc.interfaces_of(INSTANCE, env.now)))
        scenario: Any = script  # It reads kind and behaviour alone.
        node = _Node(
            env, 0, life_of(len(nodes)), scenario, cloud, _NoRecorder(), None,  # type: ignore[arg-type]
            lambda _node, assignment: player.served(assignment),
        )  # fmt: skip
        node.allocator = player.allocator
        node.away = False
        nodes.append(node)
        node.poke()

    def restart() -> None:
        player.stop()
        nodes[-1].stopping = True
        nodes[-1].when_quiet = start
        nodes[-1].maintain()

    start()
    player.play()
    call_at(script.restart_at, restart)
    env.run(until=END_S)
    return log.lines
