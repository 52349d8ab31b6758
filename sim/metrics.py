"""From a record to figures: waits, addresses over time, EC2 calls, refusals and their causes.

Each function takes a `RunRecord` and returns a DataFrame or a `Summary`; none keeps anything.
All of them are vectorised: a million pods take seconds. Nothing is sampled where figures are
computed; only `timeline` and `calls_over_time` thin out, for drawing.

Three conventions hold throughout. The judged time is [0, end_s]: what happened before the
trace's zero is part of the state at zero, and a pod whose first ADD came before is no demand. A
step function's value holds from its row's `t` until the next row's. Means and quantiles over time
are weighted by duration.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cni.cloud.calls import MUTATING, Pause, ReadMetadata
from sim.record import RunRecord
from sim.summary import Addresses, Ec2Calls, Quantiles, Spread, SubnetLow, Summary

THROTTLED = "RequestLimitExceeded"
"""EC2's error code for a request above the account's rate."""

CHURN_WINDOW_S = 600.0
"""Addresses asked for this soon after they were given back were given back in vain."""

INSTANT_S = 1e-6
"""Two instants closer than this are one: sums of floating-point seconds differ by less."""

_BANDS = ("held", "assigned", "cooling", "idle", "primary", "enis")
_NOT_EC2 = (ReadMetadata.api, Pause.api)

Floats = NDArray[np.float64]


class UnbalancedBooksError(ValueError):
    """The record contradicts itself: what it says happened cannot have happened."""


def waits(record: RunRecord) -> pd.DataFrame:
    """Return one row for each pod that a node took from zero on, in order of the trace.

    pod        number in the trace
    node       its name (categorical)
    added_at   instant of its first ADD, s
    wait_s     from its first ADD until it had an address; nan while it waits
    waited_s   the same, but for a pod without an address the wait it has had so far (until
               its DEL or the end of the run)
    refused    refused ADDs before it was served
    """
    pods = record.pods
    pod = np.flatnonzero(pods["added_at"] >= 0.0)
    added_at = pods["added_at"][pod]
    return pd.DataFrame(
        {
            "pod": pod,
            "node": _named(pods["node"][pod], record.header.nodes),
            "added_at": added_at,
            "wait_s": pods["served_at"][pod] - added_at,
            "waited_s": waited_s(record),
            "refused": pods["refused"][pod],
        }
    )


def waited_s(record: RunRecord) -> Floats:
    """Return the column `waited_s` of `waits` alone: a table of a million pods takes 60 MB."""
    pods = record.pods
    pod = np.flatnonzero(pods["added_at"] >= 0.0)
    added_at = pods["added_at"][pod]
    wait_s: Floats = pods["served_at"][pod] - added_at
    unserved = np.isnan(wait_s)
    until = np.fmin(pods["released_at"][pod[unserved]], record.header.end_s)
    wait_s[unserved] = until - added_at[unserved]
    return wait_s


def unplaced(record: RunRecord) -> pd.DataFrame:
    """Return one row for each pod that no node took: pod, and the resource that was short."""
    return pd.DataFrame(
        {
            "pod": record.unplaced["pod"],
            "resource": _named(record.unplaced["resource"], record.resources),
        }
    )


def steps(record: RunRecord, *, node: str | None = None) -> pd.DataFrame:
    """Return the exact step functions of addresses, of all nodes together or of one.

    t         instant from which the row holds, s; ascending, the first is 0
    lasts_s   how long it holds: the weight for means over time
    held      addresses on attached ENIs, without the ENIs' primary ones
    assigned  of these, held by a pod
    cooling   of these, released less than the cooldown ago
    idle      of these, the rest: held - assigned - cooling
    enis      attached ENIs
    primary   their primary addresses, one for each; not part of held

    Raises UnbalancedBooksError where more addresses are in use than held, KeyError for an
    unknown node.
    """
    events = _events(record, None if node is None else _node_index(record, node))
    end_s = record.header.end_s
    t = np.concatenate([at for at, _ in events])
    order = np.argsort(t, kind="stable")
    # The last event that counts ends the order; those before zero make the state at zero.
    order = order[: np.searchsorted(t[order], end_s, side="right")]
    t = np.concatenate(([0.0], np.maximum(t[order], 0.0)))
    last_of_instant = np.append(t[1:] > t[:-1], True)
    columns: dict[str, NDArray[Any]] = {"t": t[last_of_instant]}
    columns["lasts_s"] = np.diff(columns["t"], append=end_s)
    total = np.zeros(len(t), dtype=np.int32)
    del t
    for band in ("held", "assigned", "cooling", "enis"):
        np.cumsum(_changes(events, band)[order], dtype=np.int32, out=total[1:])
        columns[band] = total[last_of_instant]
    columns["idle"] = columns["held"] - columns["assigned"] - columns["cooling"]
    _check_books(columns)
    for band in ("held", "assigned", "cooling", "idle"):
        np.maximum(columns[band], 0, out=columns[band])
    columns["primary"] = columns["enis"].copy()
    # Nobody else has the columns: to copy three million rows would be half of a sweep's memory.
    return pd.DataFrame({name: columns[name] for name in ("t", "lasts_s", *_BANDS)}, copy=False)


def timeline(
    record: RunRecord,
    points: int = 600,
    *,
    node: str | None = None,
    how: Literal["at", "mean", "max"] = "at",
) -> pd.DataFrame:
    """Return `steps` on an even grid of `points` rows, for drawing and joining.

    `how` "at" takes the value at t = 0 … end_s, so that short peaks fall between two rows;
    "mean" and "max" take the mean (weighted by duration) and the largest value of each of
    `points` equal intervals, whose middle is t.
    """
    frame = steps(record, node=node)
    if how == "at":
        return _sampled(frame, np.linspace(0.0, record.header.end_s, points))
    edges = np.linspace(0.0, max(record.header.end_s, INSTANT_S), points + 1)
    return _averaged(frame, edges) if how == "mean" else _peaks(frame, edges)


def time_weighted(frame: pd.DataFrame, column: str) -> Spread:
    """Return mean, p95 and max of a column of `steps`.

    p95 is the smallest value that the column does not exceed for 95 % of the time.

    >>> time_weighted(pd.DataFrame({"lasts_s": [9.0, 1.0], "held": [10, 20]}), "held")
    Spread(mean=11.0, p95=20, max=20)
    """
    values = frame[column].to_numpy()
    weights = frame["lasts_s"].to_numpy()
    if weights.sum() == 0.0:
        # A run without duration still has a state: the one it ends in.
        values, weights = values[-1:], np.ones(1)
    seconds = np.bincount(values, weights=weights)
    reached = np.cumsum(seconds)
    total = float(reached[-1])
    p95 = int(np.searchsorted(reached, 0.95 * total * (1.0 - 1e-12)))
    mean = float(np.dot(np.arange(len(seconds)), seconds)) / total
    return Spread(mean=mean, p95=p95, max=int(values.max()))


def calls(record: RunRecord) -> pd.DataFrame:
    """Return one row for each attempt of a call: started, ended, node, api, error.

    `error` is EC2's code, empty where the attempt succeeded. Reads of the instance metadata
    are rows too (api ReadMetadata), though they are no EC2 calls.
    """
    return pd.DataFrame(
        {
            "started": record.calls["started"],
            "ended": record.calls["ended"],
            "node": _named(record.calls["node"], record.header.nodes),
            "api": _named(record.calls["api"], record.apis),
            "error": _named(record.calls["error"], record.errors),
        }
    )


def calls_by_api(record: RunRecord) -> pd.DataFrame:
    """Return attempts of EC2 calls by API name (index), most attempts first.

    attempts, failed (with any error), throttled (with RequestLimitExceeded), and mutating
    (whether the API changes something). Metadata reads are no EC2 calls and left out.
    """
    api, error = record.calls["api"], record.calls["error"]
    size = len(record.apis)
    throttled = error == _code(record.errors, THROTTLED)
    frame = pd.DataFrame(
        {
            "attempts": np.bincount(api, minlength=size),
            "failed": np.bincount(api[error != 0], minlength=size),
            "throttled": np.bincount(api[throttled], minlength=size),
            "mutating": np.array([name in MUTATING for name in record.apis], dtype=bool),
        },
        index=pd.Index(record.apis, name="api", dtype="str"),
    )
    frame = frame[~frame.index.isin(_NOT_EC2)].sort_index()
    return frame.sort_values("attempts", ascending=False, kind="stable")


def calls_over_time(record: RunRecord, points: int = 120) -> pd.DataFrame:
    """Return EC2 calls in `points` equal intervals of the run, by the instant they started.

    t (middle of the interval, s), width_s, and attempts: reads and writes (those of APIs that
    change something) that EC2 took, and throttled ones, which count in neither.
    """
    edges = np.linspace(0.0, max(record.header.end_s, INSTANT_S), points + 1)
    started = np.clip(record.calls["started"], edges[0], edges[-1])
    api = record.calls["api"]
    throttled = record.calls["error"] == _code(record.errors, THROTTLED)
    writes = _flag(record.apis, MUTATING)[api]
    ec2 = ~_flag(record.apis, _NOT_EC2)[api]

    def count(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.histogram(started[chosen], edges)[0]

    return pd.DataFrame(
        {
            "t": (edges[:-1] + edges[1:]) / 2.0,
            "width_s": np.diff(edges),
            "reads": count(ec2 & ~writes & ~throttled),
            "writes": count(ec2 & writes & ~throttled),
            "throttled": count(ec2 & throttled),
        }
    )


def refusals(record: RunRecord) -> pd.DataFrame:
    """Return one row for each refused ADD: t, node, pod, cause."""
    return pd.DataFrame(
        {
            "t": record.refusals["t"],
            "node": _named(record.refusals["node"], record.header.nodes),
            "pod": record.refusals["pod"],
            "cause": _named(record.refusals["cause"], record.causes),
        }
    )


def subnets(record: RunRecord) -> pd.DataFrame:
    """Return one row for each change of a subnet: t, subnet, free, free_prefixes.

    `free_prefixes` counts the aligned /28s that could still be handed out.
    """
    return pd.DataFrame(
        {
            "t": record.subnets["t"],
            "subnet": _named(record.subnets["subnet"], record.header.subnets),
            "free": record.subnets["free"],
            "free_prefixes": record.subnets["free_prefixes"],
        }
    )


def subnets_over_time(record: RunRecord, points: int = 300) -> pd.DataFrame:
    """Return how low each subnet fell in `points` equal intervals of the run.

    t (middle of the interval, s), subnet, free and free_prefixes (the fewest in it), by
    subnet and then by time. Subnets that nothing was taken from have no rows.
    """
    edges = np.linspace(0.0, max(record.header.end_s, INSTANT_S), points + 1)
    frames = []
    for index, cidr in enumerate(record.header.subnets):
        mine = record.subnets["subnet"] == index
        if not mine.any():
            continue
        # Until its first change a subnet is taken to be as that change left it.
        at = np.maximum(record.subnets["t"][mine], 0.0)
        at[0] = 0.0
        columns: dict[str, Any] = {"t": (edges[:-1] + edges[1:]) / 2.0, "subnet": cidr}
        for column in ("free", "free_prefixes"):
            fewest = _extremes(at, record.subnets[column][mine], edges, np.minimum)
            columns[column] = fewest
        frames.append(pd.DataFrame(columns))
    if not frames:
        return pd.DataFrame({"t": [], "subnet": [], "free": [], "free_prefixes": []})
    return pd.concat(frames, ignore_index=True)


def churn_pairs(record: RunRecord, within_s: float = CHURN_WINDOW_S) -> int:
    """Return how many addresses were asked for within `within_s` of being given back.

    On the same node; each address given back pairs with one asked for at most. A pool that
    does not oscillate has none.
    """
    pool = _pool_changes(record)
    t, node, change = pool["t"], pool["node"], pool["addresses"]
    oscillates = np.isin(node, np.unique(node[change < 0])) & (change != 0)
    given_back: dict[int, deque[list[float]]] = {}
    pairs = 0
    rows = zip(t[oscillates], node[oscillates], change[oscillates], strict=True)
    for at, where, count in rows:
        waiting = given_back.setdefault(int(where), deque())
        while waiting and waiting[0][0] < at - within_s:
            waiting.popleft()
        if count < 0:
            waiting.append([float(at), float(-count)])
            continue
        # The oldest first: it expires first, so that no other order finds more pairs.
        wanted = int(count)
        while wanted and waiting:
            taken = min(wanted, int(waiting[0][1]))
            waiting[0][1] -= taken
            wanted -= taken
            pairs += taken
            if waiting[0][1] == 0:
                waiting.popleft()
    return pairs


def summarise(record: RunRecord, frame: pd.DataFrame | None = None) -> Summary:
    """Return the figures of a run; `frame` is `steps(record)` where the caller has it.

    Quantiles of waits are inverted distribution functions: waits that pods really had, never
    values between two of them. Raises UnbalancedBooksError where the record's pods or
    addresses do not add up.
    """
    header = record.header
    if frame is None:
        frame = steps(record)
    added_at, served_at = record.pods["added_at"], record.pods["served_at"]
    demanded = added_at >= 0.0
    present = int(np.count_nonzero(added_at < 0.0))
    served = int(np.count_nonzero(demanded & ~np.isnan(served_at)))
    placed = int(np.count_nonzero(demanded))
    deleted = ~np.isnan(record.pods["released_at"])
    evicted = int(np.count_nonzero(demanded & np.isnan(served_at) & deleted))
    pods = header.pods - present
    short_of = _counted(record.unplaced["resource"], record.resources)
    unschedulable = len(record.unplaced["pod"])
    if pods != placed + unschedulable or placed < served:
        message = (
            f"{pods} pods wanted a node, but {placed} taken by a node (of these {served} "
            f"served) and {unschedulable} not"
        )
        raise UnbalancedBooksError(message)
    spreads = {band: time_weighted(frame, band) for band in _BANDS if band != "enis"}
    at_once = _at_once(record)
    held = spreads["held"].mean
    return Summary(
        pods=pods,
        present=present,
        served=served,
        waiting=placed - served - evicted,
        evicted=evicted,
        unschedulable=unschedulable,
        unschedulable_by_resource=short_of,
        wait_s=_wait_quantiles(waited_s(record)),
        at_once_of_served=at_once / served if served else None,
        at_once_of_all=at_once / pods if pods else None,
        refusals=_counted(record.refusals["cause"], record.causes),
        refused_pods=int(np.count_nonzero(record.pods["refused"][demanded])),
        addresses=Addresses(**spreads),
        utilisation=spreads["assigned"].mean / held if held else None,
        subnets=_subnet_lows(record),
        ec2_calls=_ec2_calls(record),
        churn_pairs=churn_pairs(record),
        behaviour=header.behaviour,
        settings=dict(header.settings),
        instance=header.instance,
        nodes=len(header.nodes) - _joined(record),
        seed=header.seed,
        trace=header.trace_origin,
        trace_notes=header.trace_notes,
        warnings=header.warnings,
        scenario=dict(header.scenario),
        command=header.command,
        end_s=header.end_s,
    )


# Step functions.


def _events(record: RunRecord, node: int | None) -> tuple[tuple[Floats, dict[str, Any]], ...]:
    """Return groups of instants, each with the bands that change there, and by how much."""
    pods = record.pods
    served = ~np.isnan(pods["served_at"])
    if node is not None:
        served &= pods["node"] == node
    served_at = pods["served_at"][served]
    released = served & ~np.isnan(pods["released_at"])
    released_at = pods["released_at"][released]
    cooldown_s = cooldowns(record, pods["node"][released])
    cut = _rows_of(record.cut, node)
    pool = _pool_changes(record, node)
    return (
        (served_at, {"assigned": 1}),
        (released_at, {"assigned": -1, "cooling": 1}),
        (released_at + cooldown_s, {"cooling": -1}),
        (cut["t"], {"cooling": -cut["count"]}),
        (cut["until"], {"cooling": cut["count"]}),
        (pool["t"], {"held": pool["addresses"], "enis": pool["enis"]}),
    )


def cooldowns(record: RunRecord, node: NDArray[np.int32]) -> Floats | float:
    """Return the cooldown of addresses released on these nodes, in seconds."""
    header = record.header
    if len({pool.cooldown_s for pool in header.pools}) < 2:  # noqa: PLR2004 - all alike
        return header.cooldown_s
    of_pool = np.array([pool.cooldown_s for pool in header.pools])
    found: Floats = of_pool[np.array(header.node_pools, dtype=np.int64)[node]]
    return found


def _changes(events: tuple[tuple[Floats, dict[str, Any]], ...], band: str) -> NDArray[np.int32]:
    """Return by how much a band changes at each event, in the order of the groups."""
    changes = (np.asarray(change.get(band, 0), dtype=np.int32) for _, change in events)
    pairs = zip(changes, events, strict=True)
    return np.concatenate([np.broadcast_to(change, len(at)) for change, (at, _) in pairs])


def _pool_changes(record: RunRecord, node: int | None = None) -> dict[str, NDArray[Any]]:
    """Return t, node and by how much enis and addresses changed, by node and then by time.

    A node's pool starts at nothing.
    """
    pool = _rows_of(record.pool, node)
    order = np.argsort(pool["node"], kind="stable")
    sorted_node = pool["node"][order]
    first = np.diff(sorted_node, prepend=-1) != 0
    changes: dict[str, NDArray[Any]] = {"t": pool["t"][order], "node": sorted_node}
    for column in ("enis", "addresses"):
        values = pool[column][order]
        changes[column] = np.where(first, values, np.diff(values, prepend=0))
    return changes


def _rows_of(table: Mapping[str, NDArray[Any]], node: int | None) -> Mapping[str, NDArray[Any]]:
    if node is None:
        return table
    chosen = table["node"] == node
    return {name: column[chosen] for name, column in table.items()}


def _check_books(columns: Mapping[str, NDArray[Any]]) -> None:
    """Refuse a record in which more addresses are in use than held, or fewer than none.

    A dip shorter than INSTANT_S is two sums of the same seconds that differ in the last bit.
    """
    for band in ("held", "assigned", "cooling", "idle"):
        wrong = (columns[band] < 0) & (columns["lasts_s"] >= INSTANT_S)
        if wrong.any():
            row = int(np.argmax(wrong))
            state = ", ".join(f"{name} {int(columns[name][row])}" for name in _BANDS[:4])
            message = f"the books do not balance at {columns['t'][row]:.6f} s: {state}"
            raise UnbalancedBooksError(message)


def _sampled(frame: pd.DataFrame, grid: Floats) -> pd.DataFrame:
    """Read the step functions off at the instants of `grid`."""
    row = np.searchsorted(frame["t"].to_numpy(), grid, side="right") - 1
    return pd.DataFrame({"t": grid} | {band: frame[band].to_numpy()[row] for band in _BANDS})


def _averaged(frame: pd.DataFrame, edges: Floats) -> pd.DataFrame:
    """Take the means of the step functions between one edge and the next."""
    t = frame["t"].to_numpy()
    row = np.searchsorted(t, edges, side="right") - 1
    columns = {"t": (edges[:-1] + edges[1:]) / 2.0}
    for band in _BANDS:
        values = frame[band].to_numpy()
        area = np.concatenate(([0.0], np.cumsum(values[:-1] * np.diff(t))))
        columns[band] = np.diff(area[row] + values[row] * (edges - t[row])) / np.diff(edges)
    return pd.DataFrame(columns)


def _peaks(frame: pd.DataFrame, edges: Floats) -> pd.DataFrame:
    """Take the largest values of the step functions between one edge and the next."""
    t = frame["t"].to_numpy()
    columns = {"t": (edges[:-1] + edges[1:]) / 2.0}
    for band in _BANDS:
        columns[band] = _extremes(t, frame[band].to_numpy(), edges, np.maximum)
    return pd.DataFrame(columns)


def _extremes(t: Floats, values: NDArray[Any], edges: Floats, pick: np.ufunc) -> NDArray[Any]:
    """Pick the largest or smallest value of one step function in each interval."""
    begin = np.searchsorted(t, edges[:-1], side="right") - 1
    end = np.append(np.searchsorted(t, edges[1:-1], side="left"), len(t))
    # Of each pair of bounds, reduceat gives what lies between, and then what lies between two
    # pairs, which is dropped; one more value at the end gives the last bound a row to name.
    bounds = np.column_stack((begin, end)).ravel()
    picked: NDArray[Any] = pick.reduceat(np.append(values, values[-1]), bounds)[::2]
    return picked


# Parts of the summary.


def _at_once(record: RunRecord) -> int:
    """Count pods whose first ADD found an address at once."""
    pods = record.pods
    wait_s = pods["served_at"] - pods["added_at"]
    demanded = pods["added_at"] >= 0.0
    return int(np.count_nonzero(demanded & (wait_s < INSTANT_S) & (pods["refused"] == 0)))


def _wait_quantiles(waited_s: Floats) -> Quantiles:
    if len(waited_s) == 0:
        return Quantiles(None, None, None, None)
    found = np.quantile(waited_s, (0.5, 0.9, 0.99, 1.0), method="inverted_cdf")
    return Quantiles(*(float(value) for value in found))


def _joined(record: RunRecord) -> int:
    """Count the nodes that joined while the run went on."""
    return int(np.count_nonzero(record.moves["event"] == _code(record.events, "joining")))


def _subnet_lows(record: RunRecord) -> dict[str, SubnetLow]:
    lows = {}
    for index, cidr in enumerate(record.header.subnets):
        mine = record.subnets["subnet"] == index
        free = record.subnets["free"][mine]
        if len(free) == 0:
            lows[cidr] = SubnetLow(None, None, None)
            continue
        lowest = int(np.argmin(free))
        lows[cidr] = SubnetLow(
            lowest_free=int(free[lowest]),
            lowest_free_prefixes=int(record.subnets["free_prefixes"][mine].min()),
            at_s=float(record.subnets["t"][mine][lowest]),
        )
    return lows


def _ec2_calls(record: RunRecord) -> Ec2Calls:
    by_api = calls_by_api(record)
    total = int(by_api["attempts"].sum())
    throttled = int(by_api["throttled"].sum())
    ec2 = ~_flag(record.apis, _NOT_EC2)[record.calls["api"]]
    errors = _counted(record.calls["error"][ec2], record.errors)
    errors.pop("", None)
    reads = record.calls["api"] == _code(record.apis, ReadMetadata.api)
    return Ec2Calls(
        by_api={str(api): int(count) for api, count in by_api["attempts"].items()},
        errors=errors,
        total=total,
        mutating=int(by_api.loc[by_api["mutating"], "attempts"].sum()),
        throttled=throttled,
        throttled_share=throttled / total if total else 0.0,
        metadata_reads=int(np.count_nonzero(reads)),
    )


# Codes and names.


def _node_index(record: RunRecord, node: str) -> int:
    try:
        return record.header.nodes.index(node)
    except ValueError:
        raise KeyError(node) from None


def _named(codes: NDArray[Any], names: Sequence[str]) -> "pd.Categorical[str]":
    """Show codes as the words they stand for; -1 is missing."""
    return pd.Categorical.from_codes(codes, categories=pd.Index(list(names)))


def _code(names: Sequence[str], word: str) -> int:
    """Return the word's code; -2, which no row has, where the word never occurred."""
    return names.index(word) if word in names else -2


def _flag(names: Sequence[str], chosen: Collection[str]) -> NDArray[np.bool_]:
    """Return for each code whether its word is among the chosen ones."""
    return np.array([name in chosen for name in names], dtype=bool)


def _counted(codes: NDArray[Any], names: Sequence[str]) -> dict[str, int]:
    """Count rows by word, most first, then by word; words without a row are left out."""
    counts = np.bincount(codes, minlength=len(names))
    found = ((name, int(count)) for name, count in zip(names, counts, strict=True) if count)
    return dict(sorted(found, key=lambda pair: (-pair[1], pair[0])))
