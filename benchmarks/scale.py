"""(c) A million pods on a thousand nodes; (d) how cost grows with pods and with nodes."""

import resource
import subprocess
import sys
from time import perf_counter

import numpy as np

from benchmarks.fleet import fleet, pods_of
from cni.allocator.behaviour import NATIVE, PRESETS
from sim.simulation import run

WANTED_S, WANTED_MIB = 60.0, 1500.0
PODS = (25_000, 50_000, 100_000, 200_000, 400_000)
NODES = (10, 100, 1_000, 10_000)


def million() -> list[tuple[str, str, str]]:
    """Return rows of (what, measured, wanted), each behaviour in a process of its own."""
    rows = []
    for name in PRESETS:
        command = [sys.executable, "-m", "benchmarks.scale", name]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds, mib = map(float, answer.stdout.split())
        rows.append((f"{name}: time", f"{seconds:.1f} s", f"< {WANTED_S:.0f} s"))
        rows.append((f"{name}: peak memory", f"{mib:,.0f} MiB", f"< {WANTED_MIB:,.0f} MB"))
    return rows


def growth() -> list[tuple[str, str, str]]:
    """Return fitted exponents: 1 is linear."""
    by_pods = [_seconds(pods, 100) for pods in PODS]
    by_nodes = [_seconds(20 * nodes, nodes) for nodes in NODES]
    fixed = [_seconds(200_000, nodes) for nodes in NODES]
    return [
        (
            f"exponent of time in pods, {PODS[0]:,} to {PODS[-1]:,} on 100 nodes",
            f"{_exponent(PODS, by_pods):.2f}",
            "about 1",
        ),
        (
            f"exponent of time in nodes, {NODES[0]:,} to {NODES[-1]:,} with 20 pods each",
            f"{_exponent(NODES, by_nodes):.2f}",
            "about 1",
        ),
        (
            "the same 200,000 pods on 10, 100, 1,000 and 10,000 nodes",
            ", ".join(f"{seconds:.1f} s" for seconds in fixed),
            "",
        ),
    ]


def _seconds(pods: int, nodes: int) -> float:
    trace = pods_of(pods, nodes=nodes)
    scenario = fleet(nodes, NATIVE)
    started = perf_counter()
    run(scenario, trace)
    return perf_counter() - started


def _exponent(sizes: tuple[int, ...], seconds: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def _million(name: str) -> None:
    trace = pods_of(1_000_000, nodes=1_000)
    started = perf_counter()
    run(fleet(1_000, PRESETS[name]), trace)
    seconds = perf_counter() - started
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    _million(sys.argv[1])
