"""Print a digest of everything that some runs record: equal before and after work on speed.

    python -m benchmarks.records > before.txt
    ...
    python -m benchmarks.records | diff before.txt -

The runs are small and take all paths: both behaviours, both kinds of block, warm and cold nodes,
requests and none, a subnet that runs dry, an account that is throttled.
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.fleet import fleet, pods_of
from cni.allocator.behaviour import PRESETS
from cni.allocator.model import BlockKind
from cni.allocator.targets import WarmEni, WarmIp, WarmPrefix, WarmTarget
from sim.cell import figures_of
from sim.record import RunRecord
from sim.scenario import Scenario, SubnetPlan
from sim.scheduler import Capacity
from sim.simulation import run
from sim.trace import Trace

PODS = 6_000
TARGETS: dict[str, tuple[BlockKind, WarmTarget]] = {
    "few": (BlockKind.SECONDARY_IP, WarmIp(2, minimum=5)),
    "eni": (BlockKind.SECONDARY_IP, WarmEni(1)),
    "prefix": (BlockKind.PREFIX, WarmPrefix(1)),
}


def main() -> None:
    """Print a line for each run: its name, and the digest of its record and of its figures."""
    for name, scenario, trace in runs():
        record = run(scenario, trace)
        print(name, digest(record), flush=True)


def runs() -> Iterator[tuple[str, Scenario, Trace]]:
    """Yield the runs by name."""
    for behaviour in PRESETS.values():
        for word, (kind, target) in TARGETS.items():
            for nodes, warm, cidr in ((20, True, "10.0.0.0/16"), (40, False, "10.0.0.0/22")):
                base = fleet(nodes, behaviour, checks=True)
                (pool,) = base.pools
                scenario = replace(
                    base,
                    pools=(replace(pool, kind=kind, target=target, settings={}),),
                    subnets=(SubnetPlan(cidr),),
                    warm=warm,
                )
                where = f"{behaviour.name} {word} {nodes} {'warm' if warm else 'cold'} {cidr}"
                yield where, scenario, bursts(pods_of(PODS, nodes=nodes), warm=warm)
    for placement in ("spread", "pack"):
        base = replace(fleet(300), placement=placement)
        (pool,) = base.pools
        yield f"{placement} 300", base, pods_of(PODS, nodes=300)
        tight = replace(pool, capacity=Capacity(8, cpu_m=4_000, memory_mib=8_000))
        asking = with_requests(pods_of(PODS, nodes=300))
        yield f"{placement} 300, requests", replace(base, pools=(tight,)), asking


def bursts(trace: Trace, *, warm: bool) -> Trace:
    """Let pods come in bursts of hundreds where nodes are warm: then pools run dry."""
    if not warm:
        return trace
    arrival_s = np.floor(trace.arrival_s / 120.0) * 120.0
    arrival_s.setflags(write=False)
    return replace(trace, arrival_s=arrival_s)


def with_requests(trace: Trace) -> Trace:
    """Let pods ask for CPU and memory."""
    rng = np.random.default_rng(2)
    cpu = rng.choice([100, 250, 1_000], len(trace)).astype(trace.cpu_m.dtype)
    memory = rng.choice([128, 512, 2_048], len(trace)).astype(trace.memory_mib.dtype)
    return replace(trace, cpu_m=cpu, memory_mib=memory)


def digest(record: RunRecord) -> str:
    """Return a digest of all tables, their words, and the figures made of them."""
    told = hashlib.sha256()
    for name, table in record.tables():
        for column, values in table.items():
            told.update(f"{name}.{column} {values.dtype} {len(values)}\n".encode())
            told.update(np.ascontiguousarray(values).tobytes())
    words = (record.causes, record.apis, record.errors, record.resources, record.header.nodes)
    told.update(repr(words).encode())
    told.update(repr(figures_of(record)).encode())
    return told.hexdigest()[:32]


if __name__ == "__main__":
    sys.exit(main())
