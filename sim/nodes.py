"""From a record to its nodes: how many there were, and what happened to them."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.record import RunRecord


def steps(record: RunRecord) -> pd.DataFrame:
    """Return how many nodes there are: t, lasts_s, nodes; a node that joins counts from its launch.

    The first row is at 0, and no two rows are at one instant.
    """
    moves, end_s = record.moves, record.header.end_s
    came = _is(record, "joining")
    gone = _is(record, "gone")
    first = len(record.header.nodes) - int(np.count_nonzero(came))
    change = came.astype(np.int64) - gone.astype(np.int64)
    kept = change != 0
    t = np.concatenate(([0.0], np.maximum(moves["t"][kept], 0.0)))
    nodes = first + np.concatenate(([0], np.cumsum(change[kept])))
    last_of_instant = np.append(t[1:] > t[:-1], True)
    t, nodes = t[last_of_instant], nodes[last_of_instant]
    return pd.DataFrame({"t": t, "lasts_s": np.diff(t, append=max(end_s, 0.0)), "nodes": nodes})


def mean(record: RunRecord) -> float:
    """Return how many nodes there were on average."""
    frame = steps(record)
    whole = float(frame["lasts_s"].sum())
    if not whole:
        return float(frame["nodes"].iloc[-1])
    return float((frame["nodes"] * frame["lasts_s"]).sum()) / whole


def moves(record: RunRecord) -> pd.DataFrame:
    """Return one row for each thing that happened to a node: t, node, event.

    A negative t lies in a warm-up that was cut.
    """
    return pd.DataFrame(
        {
            "t": record.moves["t"],
            "node": pd.Categorical.from_codes(
                record.moves["node"], categories=pd.Index(list(record.header.nodes))
            ),
            "event": pd.Categorical.from_codes(
                record.moves["event"], categories=pd.Index(list(record.events))
            ),
        }
    )


def counted(record: RunRecord) -> dict[str, int]:
    """Count what happened to nodes, by event, from zero on."""
    codes = record.moves["event"][record.moves["t"] >= 0.0]
    counts = np.bincount(codes, minlength=len(record.events)).tolist()
    return {event: int(n) for event, n in zip(record.events, counts, strict=True) if n}


def stuck(record: RunRecord) -> float:
    """Return how many addresses nodes held on average while they took no pods.

    From the moment they were cordoned or drained until they were uncordoned or gone; ENI primaries
    are not counted (cni#3263: such nodes keep their warm pool).
    """
    end_s = record.header.end_s
    held_s = 0.0
    closed: dict[int, float] = {}
    moves = record.moves
    for t, node, code in zip(moves["t"], moves["node"], moves["event"], strict=True):
        event = record.events[code]
        if event in ("cordoned", "draining"):
            closed.setdefault(int(node), float(t))
        elif event in ("uncordoned", "gone") and int(node) in closed:
            held_s += _held_s(record, int(node), closed.pop(int(node)), float(t))
    held_s += sum(_held_s(record, node, since, end_s) for node, since in closed.items())
    return held_s / end_s if end_s else 0.0


def _held_s(record: RunRecord, node: int, since: float, until: float) -> float:
    """Add up a node's addresses over a span, in addresses times seconds."""
    since, until = max(since, 0.0), max(until, 0.0)
    rows = record.pool["node"] == node
    t = np.clip(np.append(record.pool["t"][rows], until), since, until)
    held: float = (record.pool["addresses"][rows] * np.diff(t)).sum()
    return float(held)


def _is(record: RunRecord, event: str) -> NDArray[np.bool_]:
    code = record.events.index(event) if event in record.events else -1
    found: NDArray[np.bool_] = record.moves["event"] == code
    return found
