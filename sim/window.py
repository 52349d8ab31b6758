"""A record without its beginning: what happened in the warm-up becomes the state at zero.

All instants move, so that the cut is the new zero. Pods whose first ADD came before are part of
the state then and no demand; calls and refusals of before are left out. Pods that came before and
that no node ever took are unschedulable still.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.record import RunRecord

Table = Mapping[str, NDArray[Any]]


def after(record: RunRecord, cut_s: float) -> RunRecord:
    """Return the record from `cut_s` on, as if the run had begun then."""
    header = record.header
    return replace(
        record,
        header=replace(header, end_s=header.end_s - cut_s),
        pods=_moved(record.pods, cut_s, "arrival_s", "added_at", "served_at", "released_at"),
        pool=_moved(record.pool, cut_s, "t"),
        cut=_moved(record.cut, cut_s, "t", "until"),
        refusals=_since_zero(_moved(record.refusals, cut_s, "t"), "t"),
        calls=_since_zero(_moved(record.calls, cut_s, "started", "ended"), "started"),
        moves=_moved(record.moves, cut_s, "t"),
        subnets=_last_before_zero(_moved(record.subnets, cut_s, "t")),
    )


def _moved(table: Table, by_s: float, *names: str) -> Table:
    """Let every instant of a table be earlier."""
    return _frozen({name: table[name] - by_s if name in names else table[name] for name in table})


def _since_zero(table: Table, name: str) -> Table:
    """Leave out the rows before zero."""
    kept = table[name] >= 0.0
    return _frozen({column: values[kept] for column, values in table.items()})


def _last_before_zero(table: Table) -> Table:
    """Of what was before zero keep the last row of each subnet, as the state at zero."""
    t, subnet = table["t"], table["subnet"]
    kept = t >= 0.0
    for number in np.unique(subnet[~kept]).tolist():
        kept[np.flatnonzero(~(t >= 0.0) & (subnet == number))[-1]] = True
    found = {column: values[kept] for column, values in table.items()}
    found["t"] = np.maximum(found["t"], 0.0)
    return _frozen(found)


def _frozen(table: dict[str, NDArray[Any]]) -> Table:
    for column in table.values():
        column.setflags(write=False)
    return table
