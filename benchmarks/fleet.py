"""The fleet and the pods that the replay benchmarks share."""

from dataclasses import replace

import numpy as np

from cni.allocator.behaviour import NATIVE, Behaviour
from cni.allocator.model import NodeLimits
from cni.allocator.targets import WarmIp
from sim.cloud_numbers import CloudNumbers
from sim.node_pool import NodePool
from sim.scenario import Scenario, SubnetPlan
from sim.scheduler import Capacity
from sim.sources.pods import trace_of
from sim.trace import Trace
from sim.vpc import InstanceShape

RATE_PER_NODE = 0.1
LIFE_S = 60.0

NODES_IN_SUBNET = 14_000
"""With 60 addresses and two ENIs each, and room to grow by a fifth."""


def pods_of(pods: int, *, nodes: int) -> Trace:
    """Return a Poisson trace: a pod each 10 s a node, which lives a minute on average."""
    rng = np.random.default_rng(1)
    return trace_of(
        arrival_s=np.cumsum(rng.exponential(1 / (RATE_PER_NODE * nodes), pods)),
        life_s=rng.exponential(LIFE_S, pods) + 1.0,
        origin="benchmark",
    )


def fleet(nodes: int, behaviour: Behaviour = NATIVE, *, checks: bool = False) -> Scenario:
    """Return warm nodes with 60 addresses each, in subnets that hold them all.

    The quota of ENIs is no part of the question, nor is that no VPC is so large.
    """
    many = -(-nodes // NODES_IN_SUBNET)
    numbers = replace(CloudNumbers.load(), enis_per_region=10_000_000)
    return Scenario(
        subnets=tuple(SubnetPlan(f"10.{16 * number}.0.0/12") for number in range(many)),
        pools=(
            NodePool(
                limits=NodeLimits(15, 49, 737),
                shape=InstanceShape(15, 50),
                nodes=nodes,
                capacity=Capacity(735),
                behaviour=behaviour,
                target=WarmIp(10, minimum=60),
            ),
        ),
        numbers=numbers,
        checks=checks,
    )
