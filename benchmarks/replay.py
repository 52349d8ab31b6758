"""(b) Pods per second of a replay on ten warm nodes, against a SimPy loop that does nothing."""

from collections.abc import Generator
from time import perf_counter

import numpy as np
import simpy

from benchmarks.fleet import fleet, pods_of
from cni.allocator.behaviour import NATIVE, UPSTREAM
from sim.simulation import run

PODS, ROUNDS = 200_000, 5
WANTED_RATIO = 0.2


def measure() -> list[tuple[str, str, str]]:
    """Return rows of (what, measured, wanted)."""
    rows = []
    trace = pods_of(PODS, nodes=10)
    for behaviour in (NATIVE, UPSTREAM):
        ratios, rates, audited, floors = [], [], [], []
        for _ in range(ROUNDS):
            before = bare_loop(PODS)
            ours = _rate(lambda b=behaviour: run(fleet(10, b), trace))  # type: ignore[misc]
            checked = _rate(lambda b=behaviour: run(fleet(10, b, checks=True), trace))  # type: ignore[misc]
            floor = max(before, bare_loop(PODS))
            floors.append(floor)
            rates.append(ours)
            ratios.append(ours / floor)
            audited.append(ours / checked)
        name = behaviour.name
        rows += [
            (f"{name}: bare SimPy loop", f"{np.median(floors):,.0f} pods/s", ""),
            (f"{name}: replay, auditor off", f"{np.median(rates):,.0f} pods/s", ""),
            (f"{name}: replay over bare loop", f"{np.median(ratios):.3f}", f">= {WANTED_RATIO}"),
            (f"{name}: auditor on takes", f"{np.median(audited):.2f} times as long", ""),
        ]
    return rows


def _rate(work: object) -> float:
    assert callable(work)
    started = perf_counter()
    work()
    return PODS / (perf_counter() - started)


def bare_loop(pods: int) -> float:
    """Return pods per second of one arrival timeout and one departure callback per pod."""
    env = simpy.Environment()

    def gone(_event: simpy.Event) -> None:
        pass

    def arrivals() -> Generator[simpy.Event, None, None]:
        timeout = env.timeout
        for _ in range(pods):
            yield timeout(1.0)
            timeout(50.0).callbacks.append(gone)

    env.process(arrivals())
    started = perf_counter()
    env.run()
    return pods / (perf_counter() - started)
