"""The figures of a summary as text: rows for a terminal, and the words of the report.

Plain strings with units, no markup and no printing: `sim/cli.py` and `sim/report.py` show them.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sim.summary import Quantiles, Spread, Summary

_BY_HAND = re.compile(r"(\d+) ENIs x (\d+) addresses")
"""What `sim.node_type.explicit` calls a node whose limits were given by hand."""

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
DOT = " \N{MIDDLE DOT} "

AT_THE_START_S = 1.0
"""What happens sooner than this is told as there from the start."""

NOTABLE = 0.01
"""Figures that differ by less than this share are noise: neither is marked better."""

MANY_TIMES = 11.0
"""From here on a ratio says more than per cents do."""

RESERVATIONS = "subnet reservations"
"""The fact of a scenario (`Scenario.described`) that a subnet keeps ranges for a purpose."""

CAUSES = {
    "pool_empty": "the pool was empty: its refill came too late",
    "all_cooling": "every free address was still cooling after its last pod",
    "eni_limit": "the instance type allows no more ENIs or addresses",
    "max_pods": "the node already had as many pods as it may have",
    "subnet_full": "the subnet had no free address left",
    "subnet_fragmented": "the subnet had free addresses, but no free /28",
    "throttled": "EC2 refused the call that would have brought addresses: too many requests",
    "denied": "EC2 refused the call: not permitted",
    "metadata_lag": "an address was added, but the instance metadata did not show it yet",
    "starting": "the daemon was still starting",
}
"""What each cause of a refused ADD means."""

SETTINGS = {
    "WARM_ENI_TARGET": "whole ENIs' worth of addresses kept free",
    "WARM_IP_TARGET": "addresses kept free (0: not set)",
    "MINIMUM_IP_TARGET": "addresses held at least, however few pods there are (0: not set)",
    "WARM_PREFIX_TARGET": "/28 prefixes kept free",
    "MAX_ENI": "ENIs a node may have at most",
    "ENABLE_PREFIX_DELEGATION": "take addresses as /28 prefixes, sixteen at a time",
    "IP_COOLDOWN_PERIOD": "seconds before a released address is used again",
    "MAX_PODS": "pods a node may have at most",
}
"""What the settings mean that decide about the warm pool."""


def number(value: float) -> str:
    """Write a count or a mean of counts with three digits or more.

    >>> number(1234567), number(123.4), number(12.34), number(5.0), number(0.123)
    ('1,234,567', '123', '12.3', '5', '0.12')
    """
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def seconds(value: float | None) -> str:
    """Write a duration in the unit that fits it.

    >>> seconds(0.0), seconds(0.25), seconds(12.34), seconds(754), seconds(9000), seconds(9e6)
    ('0 s', '250 ms', '12.3 s', '12 min 34 s', '2 h 30 min', '104 d 4 h')
    """
    if value is None:
        return NONE
    if value < 0.0:
        return f"{MINUS}{seconds(-value)}"
    if value < 1.0:
        return f"{1000.0 * value:.0f} ms" if value >= 0.0005 else "0 s"
    if value < 59.95:
        return f"{value:.1f} s".replace(".0 ", " ")
    for unit, size, smaller, part, most in (
        ("min", 60.0, "s", 1.0, 60.0),
        ("h", 3600.0, "min", 60.0, 48.0),
        ("d", 86400.0, "h", 3600.0, float("inf")),
    ):
        whole, rest = divmod(round(value / part), round(size / part))
        if whole < most:
            return f"{whole:,} {unit}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError(value)


def within(value: float | None) -> str:
    """Write how long something took at most, in a sentence.

    >>> within(0.0), within(90.0)
    ('at once', 'within 1 min 30 s')
    """
    return "at once" if value is not None and abs(value) < 0.0005 else f"within {seconds(value)}"


def share(value: float | None) -> str:
    """Write a share in per cent; never 0 or 100 % where it is not exactly that.

    >>> share(0.456), share(0.0123), share(0.99996), share(0.00001), share(1.0)
    ('46 %', '1.2 %', '> 99.9 %', '< 0.1 %', '100 %')
    """
    if value is None:
        return NONE
    per_cent = 100.0 * value
    if per_cent in {0.0, 100.0}:
        return f"{per_cent:.0f} %"
    if per_cent < 0.1:
        return "< 0.1 %"
    if 99.9 < per_cent < 100.0:
        return "> 99.9 %"
    return f"{per_cent:.0f} %" if 10.0 <= per_cent <= 95.0 else f"{per_cent:.1f} %"


def difference(a: float, b: float, write: Callable[[float], str] = number) -> str:
    """Write how far b is from a, and the same in per cent of a, or in times a.

    >>> difference(200, 250), difference(3, 3), difference(0, 7), difference(2000, 2001)
    ('+50 (+25 %)', '0', '+7', '+1')
    >>> difference(3, 220) == f"+217 (73 {TIMES})"
    True
    """
    if write(a) == write(b):
        return write(0.0)
    sign = MINUS if b < a else "+"
    change = f"{sign}{write(abs(b - a))}"
    if a > 0 and b / a >= MANY_TIMES:
        return f"{change} ({b / a:,.0f} {TIMES})"
    per_cent = f"{100.0 * abs(b - a) / abs(a):,.0f}" if a else "0"
    return change if per_cent == "0" else f"{change} ({sign}{per_cent} %)"


def points(a: float, b: float) -> str:
    """Write how far share b is from share a, in percentage points.

    >>> points(0.5, 0.75), points(0.5, 0.5)
    ('+25 points', '0')
    """
    if share(a) == share(b):
        return "0"
    change = 100.0 * abs(b - a)
    size = (
        f"{change:.0f}" if change >= 10 else f"{change:.1f}" if change >= 0.1 else f"{change:.1g}"
    )
    return f"{MINUS if b < a else '+'}{size} points"


# One run.


def fleet(summary: Summary) -> str:
    """Say how many nodes of which kind ran."""
    if _BY_HAND.fullmatch(summary.instance):
        return f"{_plural(summary.nodes, 'node')} ({kind(summary.instance)})"
    return f"{summary.nodes:,} {TIMES} {kind(summary.instance)}"


def kind(instance: str) -> str:
    """Name a kind of node, also one whose limits were given by hand."""
    return instance.replace(" x ", f" {TIMES} ")


def headline(summary: Summary) -> str:
    """Say in a sentence or two what a run shows."""
    addresses = summary.addresses
    held = (
        f"{fleet(summary)} held {number(round(addresses.held.mean))} addresses on average for "
        f"{number(round(addresses.assigned.mean))} assigned ({share(summary.utilisation)})"
    )
    if summary.served + summary.waiting == 0:
        return f"{held}; no pod asked for an address."
    return f"{held}; {_waited(summary)}; {_refused(summary)}{_missed(summary)}."


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """Return the figures of a run as (what, figure with unit)."""
    addresses, calls = summary.addresses, summary.ec2_calls
    of_served, of_all = share(summary.at_once_of_served), share(summary.at_once_of_all)
    rows = [
        ("pods", _pods(summary)),
        ("served without waiting", f"{of_served} of those served, {of_all} of all"),
        ("wait for an address", _quantiles(summary.wait_s)),
        ("refused ADDs", _refusals(summary)),
        ("addresses held", _spread(addresses.held)),
        ("  assigned", _spread(addresses.assigned)),
        ("  cooling", _spread(addresses.cooling)),
        ("  idle", _spread(addresses.idle)),
        ("utilisation", f"{share(summary.utilisation)} of the addresses held are assigned"),
        ("ENIs, a primary address each", _spread(addresses.primary)),
    ]
    if summary.unschedulable:
        rows.insert(1, ("  unschedulable, short of", _listed(summary.unschedulable_by_resource)))
    for cidr, low in summary.subnets.items():
        rows.append((f"subnet {cidr} at its lowest", _low(low.lowest_free, low.at_s)))
        if low.lowest_free_prefixes is not None:
            rows.append(("  free /28s", number(low.lowest_free_prefixes)))
    rows.append(("EC2 calls", f"{calls.total:,}, of these {calls.mutating:,} mutating"))
    rows.extend((f"  {api}", f"{count:,}") for api, count in calls.by_api.items())
    rows.append(("  throttled", f"{calls.throttled:,} ({share(calls.throttled_share)})"))
    rows.append(("given back and asked for again", f"{_plural(summary.churn_pairs, 'address')}"))
    return rows


def header_rows(summary: Summary) -> list[tuple[str, str]]:
    """Return what was run as (what, value): enough to run it again."""
    rows = [
        ("trace", summary.trace),
        ("nodes", fleet(summary)),
        ("subnets", ", ".join(summary.subnets) or NONE),
        ("behaviour", summary.behaviour),
        ("settings", " ".join(f"{name}={value}" for name, value in summary.settings.items())),
        ("seed", str(summary.seed)),
        ("simulated time", seconds(summary.end_s)),
    ]
    rows.extend(summary.scenario.items())
    return rows


def run_again(summary: Summary) -> str:
    """Return the command that makes the same run, ready for a shell."""
    if summary.command:
        return shlex.join(summary.command)
    words = ["warmbench", "replay", *_same(summary), "--behaviour", summary.behaviour]
    for name, value in summary.settings.items():
        words += ["--set", f"{name}={value}"]
    return shlex.join(words)


# Many settings.

SWEEP_HEADS = ("setting", "taken", "p99 wait", "mean wait", "refused", "throttled", "mutating")


def sweep_rows(
    records: Sequence[Mapping[str, Any]], varying: Sequence[str] = ()
) -> list[tuple[str, ...]]:
    """Return the rows of `sim.sweep.by_setting` as text, by SWEEP_HEADS; failed ones left out.

    `varying` names columns that tell rows apart beside the setting. Each word has a line.
    """
    return [
        (
            "\n".join([*(str(row[name]) for name in varying), *str(row["setting"]).split()]),
            number(row["taken_mean"]),
            seconds(row["wait_p99_s"]),
            seconds(row["wait_mean_s"]),
            share(row["refused_share"]),
            share(row["throttled_share"]),
            number(row["mutating"]),
        )
        for row in records
        if not row["failed"]
    ]


# Two runs.


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of two runs, as text, and which of them has the better value, if any."""

    label: str
    a: str
    b: str
    difference: str
    better: Literal["a", "b", ""]


def comparison(a: Summary, b: Summary) -> list[Compared]:
    """Return the figures of two runs side by side.

    Neither is marked better where the values are the same within 1 % (shares: within a point),
    or where more is neither good nor bad (pods that are served hold addresses).
    """
    return [
        _compared("pods served", a.served, b.served, more=1),
        _compared("pods still waiting", a.waiting, b.waiting),
        _compared("pods unschedulable", a.unschedulable, b.unschedulable),
        _compared("served without waiting", a.at_once_of_all, b.at_once_of_all, share, more=1),
        _compared("wait, p50", a.wait_s.p50, b.wait_s.p50, seconds),
        _compared("wait, p90", a.wait_s.p90, b.wait_s.p90, seconds),
        _compared("wait, p99", a.wait_s.p99, b.wait_s.p99, seconds),
        _compared("wait, longest", a.wait_s.max, b.wait_s.max, seconds),
        _compared("refused ADDs", sum(a.refusals.values()), sum(b.refusals.values())),
        _compared("pods refused", a.refused_pods, b.refused_pods),
        *_compared_addresses(a, b),
        *_compared_subnets(a, b),
        _compared("EC2 calls", a.ec2_calls.total, b.ec2_calls.total),
        _compared("  mutating", a.ec2_calls.mutating, b.ec2_calls.mutating),
        _compared("  throttled", a.ec2_calls.throttled, b.ec2_calls.throttled),
        _compared("given back and asked for again", a.churn_pairs, b.churn_pairs),
    ]


def comparison_rows(a: Summary, b: Summary) -> list[tuple[str, str, str, str]]:
    """Return `comparison` as (what, A, B, difference from A to B), the better marked with a ✓."""
    return [
        (
            row.label,
            f"{row.a} ✓" if row.better == "a" else row.a,
            f"{row.b} ✓" if row.better == "b" else row.b,
            row.difference,
        )
        for row in comparison(a, b)
    ]


def told_apart(a: Summary, b: Summary) -> tuple[str, str]:
    """Return what distinguishes two runs, each in its own values: "WARM_IP_TARGET=5".

    A run whose address targets are off is named by the target that then rules.
    """
    one, other = _identity(a), _identity(b)
    names = [name for name in one | other if one.get(name) != other.get(name)]
    return _told(one, names), _told(other, names)


def compare_again(a: Summary, b: Summary) -> list[str]:
    """Return the command, or the two, that make the same two runs."""
    if a.command and a.command == b.command:
        return [shlex.join(a.command)]
    if a.behaviour != b.behaviour or _same(a) != _same(b):
        return [run_again(a), run_again(b)]
    words = ["warmbench", "compare", *_same(a), "--behaviour", a.behaviour]
    shared = [pair for pair in a.settings.items() if pair in b.settings.items()]
    for name, value in shared:
        words += ["--set", f"{name}={value}"]
    for side, run in (("--a", a), ("--b", b)):
        own = [pair for pair in run.settings.items() if pair not in shared]
        words += [side, ",".join(f"{name}={value}" for name, value in own)]
    return [shlex.join(words)]


# Parts of rows.


def _compared_addresses(a: Summary, b: Summary) -> list[Compared]:
    one, other = a.addresses, b.addresses
    return [
        _compared("addresses held, mean", one.held.mean, other.held.mean),
        _compared("addresses held, max", one.held.max, other.held.max),
        _compared("  assigned, mean", one.assigned.mean, other.assigned.mean, more=0),
        _compared("  cooling, mean", one.cooling.mean, other.cooling.mean, more=0),
        _compared("  idle, mean", one.idle.mean, other.idle.mean),
        _compared("utilisation", a.utilisation, b.utilisation, share, more=1),
        _compared("ENIs, mean", one.primary.mean, other.primary.mean),
        _compared("ENIs, max", one.primary.max, other.primary.max),
    ]


def _compared_subnets(a: Summary, b: Summary) -> list[Compared]:
    rows = []
    for cidr in a.subnets:
        if cidr in b.subnets:
            one, other = a.subnets[cidr], b.subnets[cidr]
            label = f"lowest free in {cidr}"
            rows.append(_compared(label, one.lowest_free, other.lowest_free, more=1))
            if _wants_prefixes(a) or _wants_prefixes(b):
                low, other_low = one.lowest_free_prefixes, other.lowest_free_prefixes
                rows.append(_compared("  free /28s", low, other_low, more=1))
    return rows


def _wants_prefixes(run: Summary) -> bool:
    """Tell whether free /28s matter: else, how many chance leaves free says nothing."""
    delegated = run.settings.get("ENABLE_PREFIX_DELEGATION", "").lower() == "true"
    return delegated or RESERVATIONS in run.scenario


def _compared(
    label: str,
    a: float | None,
    b: float | None,
    write: Callable[[float], str] = number,
    *,
    more: Literal[-1, 0, 1] = -1,
) -> Compared:
    """Compare one figure; `more` tells whether more of it is better (1) or worse (-1)."""
    if a is None or b is None:
        missing = [NONE if value is None else write(value) for value in (a, b)]
        return Compared(label, missing[0], missing[1], "", "")
    if write(a) == write(b):
        return Compared(label, write(a), write(b), "same", "")
    change = points(a, b) if write is share else difference(a, b, write)
    better: Literal["a", "b", ""] = ""
    scale = 1.0 if write is share else max(abs(a), abs(b))
    if more and abs(b - a) >= NOTABLE * scale:
        better = "b" if (b - a) * more > 0 else "a"
    return Compared(label, write(a), write(b), change, better)


def _same(run: Summary) -> list[str]:
    """Return the words of a command that do not depend on settings."""
    subnets = [word for cidr in run.subnets for word in ("--subnet", cidr)]
    limits = _BY_HAND.fullmatch(run.instance)
    kind = (
        ["--max-enis", limits[1], "--ips-per-eni", limits[2]]
        if limits
        else ["--instance", run.instance]
    )
    return [run.trace, *kind, "--nodes", str(run.nodes), *subnets, "--seed", str(run.seed)]


def _identity(run: Summary) -> dict[str, str]:
    facts = {"behaviour": run.behaviour, "instance": run.instance, "nodes": str(run.nodes)}
    # Of these two 0 means not set; shown, it would look like a target of nothing.
    off = {("WARM_IP_TARGET", "0"), ("MINIMUM_IP_TARGET", "0")}
    return facts | dict(pair for pair in run.settings.items() if pair not in off)


def _told(values: Mapping[str, str], names: list[str]) -> str:
    if not names:
        return "the same settings"
    own = [name for name in names if name in values]
    if not own:
        prefixes = values.get("ENABLE_PREFIX_DELEGATION", "").lower() == "true"
        rules = "WARM_PREFIX_TARGET" if prefixes else "WARM_ENI_TARGET"
        own = [rules] if rules in values else []
    return " ".join(f"{name}={values[name]}" for name in own) or f"{names[0]} not set"


def _pods(summary: Summary) -> str:
    before = f"; {summary.present:,} more were there before" if summary.present else ""
    if summary.served == summary.pods:
        return f"{summary.pods:,}, all of them served{before}"
    parts = [f"{summary.served:,} served", f"{summary.waiting:,} waiting"]
    if summary.evicted:
        parts.append(f"{summary.evicted:,} evicted before that")
    parts.append(f"{summary.unschedulable:,} unschedulable")
    return f"{summary.pods:,} = {' + '.join(parts)}{before}"


def _spread(spread: Spread) -> str:
    return DOT.join((f"mean {number(spread.mean)}", f"p95 {spread.p95:,}", f"max {spread.max:,}"))


def _quantiles(waits: Quantiles) -> str:
    named = (("p50", waits.p50), ("p90", waits.p90), ("p99", waits.p99), ("max", waits.max))
    return DOT.join(f"{name} {seconds(value)}" for name, value in named)


def _refusals(summary: Summary) -> str:
    total = sum(summary.refusals.values())
    if total == 0:
        return "0"
    return f"{total:,} ({_plural(summary.refused_pods, 'pod')}): {_listed(summary.refusals)}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _low(free: int | None, at_s: float | None) -> str:
    if free is None:
        return "not touched"
    # Nodes that are warm took their addresses before the trace's zero.
    early = at_s is None or at_s < AT_THE_START_S
    return f"{free:,} free, {'from the start' if early else f'after {seconds(at_s)}'}"


def _plural(count: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def _waited(summary: Summary) -> str:
    p99 = summary.wait_s.p99
    if p99 is not None and p99 > 0.0005:
        return f"99 % of pods had one within {seconds(p99)}"
    return f"{share(summary.at_once_of_served)} of pods had one at once"


def _refused(summary: Summary) -> str:
    if summary.refused_pods == 0:
        return "no pod was refused"
    worst = next(iter(summary.refusals))
    verb = "was" if summary.refused_pods == 1 else "were"
    meaning = CAUSES.get(worst, worst)
    which = "" if len(summary.refusals) == 1 else "mostly "
    return f"{_plural(summary.refused_pods, 'pod')} {verb} refused at first, {which}since {meaning}"


def _missed(summary: Summary) -> str:
    missed = ""
    if summary.waiting:
        verb = "was" if summary.waiting == 1 else "were"
        missed += f"; {_plural(summary.waiting, 'pod')} {verb} still waiting at the end"
    if summary.unschedulable:
        missed += f"; {_plural(summary.unschedulable, 'pod')} fitted no node"
    return missed
