"""The figures of a fleet and of its pools as text: rows for a terminal and for the report."""

from collections.abc import Callable, Mapping

import pandas as pd

from sim.summary import Summary
from sim.tables import NONE, number, seconds, share

EVENTS = ("joining", "draining", "gone", "cordoned", "uncordoned", "daemon away")
WORDS = ("joined", "drained", "gone", "cordoned", "uncordoned", "daemon restarts")


def pool_rows(whole: Summary, pools: Mapping[str, Summary]) -> list[tuple[str, ...]]:
    """Return rows of (figure, of the fleet, of each pool); one column where there is one pool."""
    columns = [whole, *pools.values()] if len(pools) > 1 else [whole]
    rows: list[tuple[str, Callable[[Summary], str]]] = [
        ("instance", lambda one: one.instance),
        ("pods", lambda one: number(one.pods)),
        ("pods there before", lambda one: number(one.present)),
        ("pods served", lambda one: number(one.served)),
        ("pods still waiting", lambda one: number(one.waiting)),
        *([("evicted before served", lambda one: number(one.evicted))] if whole.evicted else ()),
        ("served without waiting", lambda one: share(one.at_once_of_served)),
        ("wait, p50", lambda one: seconds(one.wait_s.p50)),
        ("wait, p90", lambda one: seconds(one.wait_s.p90)),
        ("wait, p99", lambda one: seconds(one.wait_s.p99)),
        ("wait, longest", lambda one: seconds(one.wait_s.max)),
        ("refused ADDs", lambda one: number(sum(one.refusals.values()))),
        *((f"  {cause}", _refused(cause)) for cause in whole.refusals),
        ("addresses taken, mean", lambda one: number(one.taken_mean)),
        ("  held, mean", lambda one: number(one.addresses.held.mean)),
        ("  held, max", lambda one: number(one.addresses.held.max)),
        ("  assigned, mean", lambda one: number(one.addresses.assigned.mean)),
        ("  cooling, mean", lambda one: number(one.addresses.cooling.mean)),
        ("  idle, mean", lambda one: number(one.addresses.idle.mean)),
        ("ENIs, mean", lambda one: number(one.addresses.primary.mean)),
        ("EC2 calls", lambda one: number(one.ec2_calls.total)),
        ("  mutating", lambda one: number(one.ec2_calls.mutating)),
        ("  throttled", lambda one: number(one.ec2_calls.throttled)),
    ]
    return [(what, *(told(one) for one in columns)) for what, told in rows]


def _refused(cause: str) -> Callable[[Summary], str]:
    return lambda one: number(one.refusals.get(cause, 0))


def node_rows(
    steps: pd.DataFrame, events: Mapping[str, int], stuck: float
) -> list[tuple[str, str]]:
    """Return how many nodes there were, how many did what, and what was stuck: see `sim.nodes`."""
    counts, lasts = steps["nodes"].to_numpy(), steps["lasts_s"].to_numpy()
    whole = float(lasts.sum())
    mean = float((counts * lasts).sum()) / whole if whole else float(counts[-1])
    first, last = int(counts[0]), int(counts[-1])
    told = f"{first:,} at first, {number(mean)} on average, {int(counts.max()):,} at most"
    rows = [("nodes", f"{told}, {last:,} at the end")]
    happened = [
        f"{events[event]:,} {word}"
        for event, word in zip(EVENTS, WORDS, strict=True)
        if events.get(event)
    ]
    if happened:
        rows.append(("  what happened", ", ".join(happened)))
    if stuck:
        rows.append(("  held where no pod may go", f"{number(stuck)} addresses on average"))
    return rows


def shared_rows(whole: Summary) -> list[tuple[str, str]]:
    """Return what the pools share: pods without a node, and subnets."""
    rows = []
    if whole.unschedulable:
        short = ", ".join(f"{name} {n:,}" for name, n in whole.unschedulable_by_resource.items())
        rows.append(("unschedulable pods", f"{whole.unschedulable:,}, short of {short}"))
    for cidr, low in whole.subnets.items():
        free = NONE if low.lowest_free is None else f"{low.lowest_free:,} free at its lowest"
        blocks = low.lowest_free_prefixes
        rows.append((f"subnet {cidr}", free if blocks is None else f"{free}, {blocks:,} /28s"))
    return rows
