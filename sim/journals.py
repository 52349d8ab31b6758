"""What the journals of some nodes tell, as tables: what happened, and what the nodes held.

A journal holds inputs and answers, and no counts. To count, its inputs are fed to the allocator
of today, which is looked at after each of them; that is exact as long as it gives the answers
that the journal has (`as_today`). Files belong to the node whose folder they lie in, as the
daemons of ours leave them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cni.allocator.allocator import Allocator
from cni.allocator.journal import JournalError, Start, entries, replay
from cni.allocator.model import Instant
from sim import metrics
from sim.record import RunRecord
from sim.replay import Day, day_of

Paths = Iterable[str | PathLike[str]]

_BANDS = ("held", "assigned", "cooling", "idle", "enis")


def nodes(paths: Paths) -> pd.DataFrame:
    """Return one row for each node: its setting, and what happened to its pods.

    node            name of the folder its files lie in (index)
    setting         its warm target, by the variables that set it; that of the last file
    behaviour       "native" or "upstream"
    hours           that the files cover
    adds            ADDs
    at_once         of these, served at once
    waited          of these, served after they had waited
    longest_wait_s  the longest of these waits
    refused         of these, never served
    cause           why most of them were
    actions         changes that the node asked of EC2
    as_today        whether today's allocator gives the same answers

    Raises ValueError naming the file and line that cannot be read.
    """
    rows = []
    for node, files in _by_node(paths).items():
        days = [_day(path) for path in files]
        refused = sum((day.refused for day in days), Counter[str]())
        start = _start(files[-1])
        rows.append(
            {
                "node": node,
                "setting": str(start.target),
                "behaviour": start.behaviour.name,
                "hours": sum(day.span_s for day in days) / 3600.0,
                "adds": sum(day.adds for day in days),
                "at_once": sum(day.served_at_once for day in days),
                "waited": sum(day.served_after_waiting for day in days),
                "longest_wait_s": max(day.longest_wait_s for day in days),
                "refused": refused.total(),
                "cause": max(refused, key=refused.__getitem__, default=""),
                "actions": sum(day.actions.total() for day in days),
                "as_today": all(_same(path) for path in files),
            }
        )
    return pd.DataFrame(rows).set_index("node")


def steps(paths: Paths) -> pd.DataFrame:
    """Return what each node held, as step functions: a row for each instant at which it changed.

    node      name of the folder its files lie in (categorical)
    t         instant, s since the first line of the node's first file
    held      addresses on attached ENIs, without the ENIs' primary ones
    assigned  of these, held by a sandbox
    cooling   of these, released less than the cooldown ago
    idle      of these, the rest
    enis      attached ENIs

    A node's rows end at the first answer that today's allocator does not give. Raises ValueError
    naming the file and line that cannot be read.
    """
    found = []
    for node, files in _by_node(paths).items():
        rows: list[dict[str, Any]] = []
        for path in files:
            _replayed(path, rows)
        first = rows[0]["t"]
        found += [{"node": node, **row, "t": row["t"] - first} for row in _changes(rows)]
    frame = pd.DataFrame(found, columns=["node", "t", *_BANDS])
    frame["node"] = pd.Categorical(frame["node"])
    return frame


def together(frame: pd.DataFrame) -> pd.DataFrame:
    """Add up the nodes of `steps`: what all of them held, indexed by t.

    >>> two = pd.DataFrame({"node": ["a", "b", "a"], "t": [0.0, 0.0, 5.0], "held": [3, 4, 9]})
    >>> together(two)["held"].to_dict()
    {0.0: 7, 5.0: 13}
    """
    bands = [name for name in _BANDS if name in frame]
    parts = [
        one.groupby("t")[bands].last() for _, one in frame.groupby("node", observed=True, sort=True)
    ]
    instants = pd.Index(sorted(set(frame["t"])), name="t")
    whole = sum(part.reindex(instants).ffill().fillna(0) for part in parts)
    assert isinstance(whole, pd.DataFrame), "there is at least one node"
    return whole.astype(int)


def likeness(paths: Paths, record: RunRecord) -> pd.DataFrame:
    """Compare what the journals tell with a run of the same pods: a column for each.

    ADDs                    each try of the kubelet is one
    not served at once      of these
    addresses held, mean    on all nodes together, over the time of each, without ENI primaries
    addresses held, most    at one instant

    Raises ValueError naming the file and line that cannot be read.
    """
    files = list(paths)
    found, held = nodes(files), together(steps(files))["held"]
    lasts_s = np.diff(held.index.to_numpy())
    pods = metrics.waits(record)
    refused = len(metrics.refusals(record))
    in_line = int(((pods["waited_s"] > metrics.INSTANT_S) & (pods["refused"] == 0)).sum())
    run = metrics.time_weighted(metrics.steps(record), "held")
    rows = {
        "ADDs": (found["adds"].sum(), len(pods) + refused),
        "not served at once": ((found["adds"] - found["at_once"]).sum(), refused + in_line),
        "addresses held, mean": (np.average(held.to_numpy()[:-1], weights=lasts_s), run.mean),
        "addresses held, most": (held.max(), run.max),
    }
    columns = ["journals", "simulated"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).round(1)


def limits(paths: Paths) -> dict[str, int]:
    """Return what the nodes' allocators are told of the instance type: `explicit` takes it.

    max_enis and ips_per_eni, the primary address included; those of the first file.
    Raises ValueError for files that tell nothing.
    """
    files = next(iter(_by_node(paths).values()))
    told = _start(files[0]).limits
    return {"max_enis": told.enis, "ips_per_eni": told.blocks_per_eni + 1}


def _by_node(paths: Paths) -> dict[str, list[Path]]:
    """Return the files of each node, in the order of their names, which are numbered."""
    found: dict[str, list[Path]] = {}
    for path in sorted({Path(name).resolve() for name in paths}):
        found.setdefault(path.parent.name, []).append(path)
    if not found:
        raise ValueError("no journal: name at least one file")
    return found


def _lines(path: Path) -> Iterator[str]:
    """Yield a file's lines; what is no text is told by its line, as what is no JSON is."""
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        yield from lines


def _start(path: Path) -> Start:
    try:
        for _, one in entries(_lines(path)):
            return Start.decode(one)
    except (JournalError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    raise ValueError(f"{path}: the file is empty")


def _day(path: Path) -> Day:
    try:
        return day_of(_lines(path))
    except JournalError as error:
        raise ValueError(f"{path}: {error}") from error


def _same(path: Path) -> bool:
    return _replayed(path, []) is None


def _replayed(path: Path, rows: list[dict[str, Any]]) -> object:
    """Replay a file and note what was held after each input; return what came out differently."""

    def look(allocator: Allocator, now: Instant) -> None:
        rows.append(_counted(allocator, now))

    try:
        return replay(_lines(path), look).mismatch
    except JournalError as error:
        raise ValueError(f"{path}: {error}") from error


def _counted(allocator: Allocator, now: Instant) -> dict[str, Any]:
    counts = allocator.counts(now)
    idle = counts.addresses_total - counts.assigned - counts.cooling
    held = counts.addresses_total
    figures = (held, counts.assigned, counts.cooling, idle, len(allocator.enis()))
    return {"t": float(now), **dict(zip(_BANDS, figures, strict=True))}


def _changes(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Keep the rows that differ from the one before, and the last one."""
    before: Mapping[str, Any] | None = None
    row: Mapping[str, Any] | None = None
    for row in rows:
        if before is None or any(row[band] != before[band] for band in _BANDS):
            yield row
            before = row
    if row is not None and row is not before:
        yield row
