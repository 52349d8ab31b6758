"""From the record of a fleet to the figures of each of its pools.

A pool's share of a record is a record of its own: its nodes, the pods that came to them, and the
calls these made. Pods that no node took belong to no pool; subnets belong to all.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.metrics import summarise
from sim.record import RunHeader, RunRecord
from sim.summary import Summary

Table = Mapping[str, NDArray[Any]]


def of_pool(record: RunRecord, pool: int) -> RunRecord:
    """Return what a record says of one of its pools; IndexError where there is none."""
    header = record.header
    if len(header.pools) == 1 and pool == 0:
        return record
    mine = np.array(header.node_pools, dtype=np.int32) == pool
    number = np.full(len(mine) + 1, -1, dtype=np.int32)
    number[:-1][mine] = np.arange(int(mine.sum()), dtype=np.int32)
    pods = _rows(record.pods, number[record.pods["node"]] >= 0, number)
    return replace(
        record,
        header=_header(header, pool, len(pods["node"])),
        pods=pods,
        unplaced={name: column[:0] for name, column in record.unplaced.items()},
        replaced={name: column[:0] for name, column in record.replaced.items()},
        pool=_of(record.pool, number),
        cut=_of(record.cut, number),
        refusals=_of(record.refusals, number),
        calls=_of(record.calls, number),
        moves=_of(record.moves, number),
    )


def _header(header: RunHeader, pool: int, pods: int) -> RunHeader:
    own = header.pools[pool]
    names = zip(header.nodes, header.node_pools, strict=True)
    return replace(
        header,
        behaviour=own.behaviour,
        settings=own.settings,
        instance=own.instance,
        nodes=tuple(name for name, of in names if of == pool),
        pods=pods,
        cooldown_s=own.cooldown_s,
        pools=(own,),
        node_pools=(),
    )


def _of(table: Table, number: NDArray[np.int32]) -> Table:
    return _rows(table, number[table["node"]] >= 0, number)


def _rows(table: Table, kept: NDArray[np.bool_], number: NDArray[np.int32]) -> Table:
    """Keep rows, and number their nodes as the pool does; a node of -1 is none, and stays out."""
    found = {name: column[kept] for name, column in table.items()}
    found["node"] = number[found["node"]]
    for column in found.values():
        column.setflags(write=False)
    return found


def summaries(record: RunRecord) -> dict[str, Summary]:
    """Return the figures of each pool by its name, in the scenario's order."""
    pools = record.header.pools
    return {pool.name: summarise(of_pool(record, at)) for at, pool in enumerate(pools)}
