"""How far the subnets reach: how many nodes fit, and how much growth until one runs dry.

An estimate from a node's share of the most that was taken at once, placed in the subnets as EC2
places addresses, until one does not fit any more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cni.allocator.model import BlockKind
from sim.cell import Figures
from sim.ec2_error import Ec2Error
from sim.scenario import Scenario, SubnetPlan
from sim.streams import stream
from sim.subnet import Subnet

NODES_MAX = 100_000
"""Where counting stops: nobody has more nodes in one set of subnets."""


@dataclass(frozen=True, slots=True)
class Runway:
    """What fits.

    nodes       that fit, each with its share of the peak
    growth      of the load until the first subnet runs dry: 0.5 is half as much again; below
                0 it does so already
    per_node    addresses that a node takes at the peak, its ENIs' primaries included
    runs_dry    the subnet that does so first
    blocks_short  whether it is whole /28s that run out, and not addresses
    """

    nodes: int
    growth: float
    per_node: int
    runs_dry: str
    blocks_short: bool


def runway(scenario: Scenario, seeds: Sequence[Figures]) -> Runway:
    """Return what fits of nodes like these; the worst seed's peak counts."""
    enis = math.ceil(max(figures["enis_max"] for figures in seeds) / scenario.nodes)
    held = math.ceil(max(figures["held_max"] for figures in seeds) / scenario.nodes)
    prefixes = scenario.pool.kind is BlockKind.PREFIX
    blocks = math.ceil(held / scenario.pool.kind.addresses)
    per_node = enis + blocks * scenario.pool.kind.addresses
    fits = [_fit(plan, scenario.seed, enis, blocks, prefixes=prefixes) for plan in scenario.subnets]
    least, first = min(range(len(fits)), key=lambda n: (fits[n][0], n)), scenario.subnets
    count, short = fits[least]
    growth = count * len(fits) / scenario.nodes - 1.0
    nodes = sum(many for many, _ in fits)
    return Runway(nodes, growth, per_node, first[least].cidr, short)


def _fit(
    plan: SubnetPlan, seed: int, enis: int, blocks: int, *, prefixes: bool
) -> tuple[int, bool]:
    """Count the nodes that fit a subnet, and tell whether addresses were left but no /28."""
    subnet = Subnet(
        "subnet-0",
        plan.cidr,
        stream(seed, "placement", plan.cidr),
        already_used=plan.used,
        reservations=plan.reservations,
    )
    nodes = 0
    wanted = enis + blocks * (16 if prefixes else 1)
    while nodes < NODES_MAX:
        left = subnet.free
        try:
            subnet.take_singles(enis)
            if blocks:
                (subnet.take_prefixes if prefixes else subnet.take_singles)(blocks)
        except Ec2Error:
            return nodes, prefixes and left >= wanted
        nodes += 1
    return nodes, False
