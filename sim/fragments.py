"""How single addresses break up a subnet's /28 blocks, which prefixes need whole.

A prefix is an aligned block of sixteen addresses of which none is used. EC2 places single
addresses at random (cilium#38499), so that few of them are enough to leave few whole blocks.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network

import numpy as np
import pandas as pd

from sim.scenario import SubnetPlan
from sim.streams import stream
from sim.subnet import Reservation, ReservationType, Subnet

BLOCK = 16
"""Addresses of a prefix."""

STATES = ("free, block whole", "free, block broken", "used", "reserved for prefixes")
"""What an address of `addresses` is, by its number there."""

_WHOLE, _BROKEN, _USED, _RESERVED = range(len(STATES))


def reserved(cidr: str, *, used: float = 0.0, prefixes: Sequence[str] = ()) -> SubnetPlan:
    """Return a subnet of which others hold a share, with ranges reserved for prefixes.

    Others' addresses lie outside of the ranges. Raises ValueError for a bad CIDR.
    """
    kept = tuple(Reservation(IPv4Network(one), ReservationType.PREFIX) for one in prefixes)
    return SubnetPlan(cidr, used=used, reservations=kept)


def whole_blocks(
    cidr: str, used: Sequence[float], *, prefixes: Sequence[str] = (), seeds: int = 5
) -> pd.DataFrame:
    """Return how many /28s are whole in a subnet of which others hold a share, at random.

    One row for each share in `used`, over draws of chance:

    used         share of the usable addresses that others hold
    free         free addresses
    blocks       free addresses / 16: the prefixes there would be if addresses moved together
    whole        whole /28s, the mean over the seeds
    whole_least  the fewest of them

    `prefixes` are ranges reserved for prefixes: others get no address of them.
    Raises ValueError for a bad CIDR, or where others want more than there is.
    """
    rows = []
    for share in used:
        drawn = [_subnet(cidr, share, prefixes, seed) for seed in range(seeds)]
        free = drawn[0].free
        counts = [subnet.free_prefixes for subnet in drawn]
        rows.append(
            {
                "used": share,
                "free": free,
                "blocks": free // BLOCK,
                "whole": float(np.mean(counts)),
                "whole_least": min(counts),
            }
        )
    return pd.DataFrame(rows)


def addresses(
    cidr: str, used: float, *, prefixes: Sequence[str] = (), seed: int = 0
) -> pd.DataFrame:
    """Return every address of a subnet as a number that stands for one of STATES.

    A row for each /28 (its CIDR), a column for each of its addresses: ready for `imshow`. The
    five addresses that EC2 keeps are used. Raises ValueError as `whole_blocks` does.
    """
    network = IPv4Network(cidr)
    subnet = _subnet(cidr, 0.0, prefixes, seed)
    states = np.full(network.num_addresses, _WHOLE)
    first = int(network.network_address)
    for one in map(IPv4Network, prefixes):
        begin = int(one.network_address) - first
        states[begin : begin + one.num_addresses] = _RESERVED
    states[[*range(4), -1]] = _USED
    taken = subnet.take_singles(round(used * subnet.usable)) if used else []
    states[np.array(taken, dtype=int) - first] = _USED
    blocks = states.reshape(-1, BLOCK)
    broken = (blocks == _USED).any(axis=1)
    blocks[broken[:, None] & (blocks == _WHOLE)] = _BROKEN
    return pd.DataFrame(blocks, index=[str(one) for one in network.subnets(new_prefix=28)])


def _subnet(cidr: str, used: float, prefixes: Sequence[str], seed: int) -> Subnet:
    plan = reserved(cidr, used=used, prefixes=prefixes)
    chance = stream(seed, "placement", cidr)
    return Subnet(
        "subnet-0", plan.cidr, chance, already_used=plan.used, reservations=plan.reservations
    )
