"""The words and the form of the report's page; its plots are made elsewhere.

Everything that came from outside (names of traces, subnets, settings) is escaped by the
templates; only plots are put in as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
from markupsafe import Markup

from sim import tables, verdict
from sim.summary import Summary

TEMPLATES = "templates"


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot of each run with its title, caption and legend (CSS colour, name) by run.

    `wide` holds the same plots for broad screens, or nothing.
    """

    title: str
    caption: str
    plots: tuple[Markup, ...]
    wide: tuple[Markup, ...]
    legends: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True, slots=True)
class _Tile:
    """A key figure: what it is, its value, and a word on it."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class _Duel:
    """A figure that counts, in both runs: as text, and as bars in per cent of the longer."""

    label: str
    values: tuple[str, str]
    bars: tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Cause:
    """Refusals of one cause by run, with their share of the longest bar in per cent."""

    name: str
    meaning: str
    counts: tuple[int, ...]
    bars: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Setting:
    """One setting with its value in each run."""

    name: str
    values: tuple[str, ...]
    meaning: str
    differs: bool


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a page tells of pools and of nodes that come and go: a table, and facts beside it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    nodes: Sequence[tuple[str, str]]


def one_run(run: Summary, figures: Sequence[Figure], fleet: Fleet | None = None) -> str:
    """Return the page of one run."""
    first, _, rest = tables.headline(run).partition("; ")
    return _rendered(
        "run.html.j2",
        title=f"{tables.fleet(run)}, {run.trace}",
        headline=first.rstrip(".") + ".",
        lead=rest[:1].upper() + rest[1:],
        tiles=_tiles(run),
        figures=figures,
        rows=tables.summary_rows(run),
        commands=[tables.run_again(run)],
        fleet=fleet,
        **_shared([run]),
    )


def two_runs(a: Summary, b: Summary, figures: Sequence[Figure], slo: verdict.Slo) -> str:
    """Return the page of two runs, with the verdict at its top."""
    return _rendered(
        "compare.html.j2",
        title=f"{' or '.join(tables.told_apart(a, b))}, {a.trace}",
        verdict=verdict.verdict(a, b, slo),
        rules=verdict.rules(slo),
        names=tables.told_apart(a, b),
        duels=_duels(a, b),
        headlines=[tables.headline(a), tables.headline(b)],
        figures=figures,
        rows=tables.comparison(a, b),
        commands=tables.compare_again(a, b),
        **_shared([a, b]),
    )


def sweep(
    headline: str,
    figure: Figure,
    rows: Sequence[Sequence[str]],
    *,
    facts: Sequence[tuple[str, str]],
    command: str,
) -> str:
    """Return the page of a sweep."""
    return _rendered(
        "sweep.html.j2",
        title="warmbench sweep",
        headline=headline,
        figure=figure,
        heads=tables.SWEEP_HEADS,
        rows=rows,
        facts=facts,
        notes=(),
        labels=(),
        settings=(),
        commands=[command],
    )


def _rendered(name: str, **context: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tight"] = _tight
    return environment.get_template(name).render(context)


def _tight(text: str) -> str:
    """Keep numbers and their per cent signs on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _template(name: str) -> str:
    return (resources.files("sim") / TEMPLATES / name).read_text(encoding="utf-8")


def _shared(runs: Sequence[Summary]) -> dict[str, object]:
    """Return what pages of one and of two runs say alike."""
    labels = ("A", "B") if len(runs) > 1 else ("",)
    warnings = {
        warning: [
            label for label, each in zip(labels, runs, strict=True) if warning in each.warnings
        ]
        for each in runs
        for warning in each.warnings
    }
    return {
        "labels": labels,
        "causes": _causes(runs),
        "refused": [sum(each.refusals.values()) for each in runs],
        "settings": _settings(runs),
        "warnings": warnings,
        "notes": tuple(dict.fromkeys(note for each in runs for note in each.trace_notes)),
        "facts": _facts(runs, labels),
    }


def _facts(runs: Sequence[Summary], labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return what was run; where two runs differ, what each was."""
    told = [dict(tables.header_rows(run)) for run in runs]
    facts = []
    for what in dict.fromkeys(what for each in told for what in each if what != "settings"):
        values = [each.get(what, tables.NONE) for each in told]
        if len(set(values)) > 1:
            pairs = zip(labels, values, strict=True)
            facts.append((what, ", ".join(f"{value} ({label})" for label, value in pairs)))
        else:
            facts.append((what, values[0]))
    return facts


def _tiles(run: Summary) -> list[_Tile]:
    held, calls = run.addresses.held, run.ec2_calls
    throttled = tables.share(calls.throttled_share)
    tiles = [
        _Tile("utilisation", tables.share(run.utilisation), "of held addresses are assigned"),
        _Tile(
            "addresses held", tables.number(round(held.mean)), f"on average, {held.max:,} at most"
        ),
        _Tile(
            "wait, p99", tables.seconds(run.wait_s.p99), f"longest {tables.seconds(run.wait_s.max)}"
        ),
        _Tile("pods refused", f"{run.refused_pods:,}", f"at first, of {run.pods:,}"),
        _Tile(
            "EC2 calls", f"{calls.total:,}", f"{calls.mutating:,} mutating, {throttled} throttled"
        ),
    ]
    lows = [
        (low.lowest_free, cidr) for cidr, low in run.subnets.items() if low.lowest_free is not None
    ]
    if lows:
        free, cidr = min(lows)
        tiles.append(_Tile("fewest free", f"{free:,}", f"addresses in {cidr}"))
    return tiles


def _duels(a: Summary, b: Summary) -> list[_Duel]:
    rows: tuple[tuple[str, Callable[[float], str], float, float], ...] = (
        ("wait, p99", tables.seconds, a.wait_s.p99 or 0.0, b.wait_s.p99 or 0.0),
        ("pods refused at first", tables.number, a.refused_pods, b.refused_pods),
        ("addresses taken, mean", tables.number, round(a.taken_mean), round(b.taken_mean)),
        ("mutating EC2 calls", tables.number, a.ec2_calls.mutating, b.ec2_calls.mutating),
    )
    return [
        _Duel(
            label=label,
            values=(write(one), write(other)),
            bars=(_per_cent(one, max(one, other)), _per_cent(other, max(one, other))),
        )
        for label, write, one, other in rows
    ]


def _per_cent(value: float, of: float) -> float:
    return round(100.0 * value / of, 2) if of else 0.0


def _causes(runs: Sequence[Summary]) -> list[_Cause]:
    names = sorted(
        {name for run in runs for name in run.refusals},
        key=lambda name: (-sum(run.refusals.get(name, 0) for run in runs), name),
    )
    counts = {name: tuple(run.refusals.get(name, 0) for run in runs) for name in names}
    longest = max((count for row in counts.values() for count in row), default=1)
    return [
        _Cause(
            name=name,
            meaning=tables.CAUSES.get(name, ""),
            counts=row,
            bars=tuple(_per_cent(count, longest) for count in row),
        )
        for name, row in counts.items()
    ]


def _settings(runs: Sequence[Summary]) -> list[_Setting]:
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = []
    for name in names:
        values = tuple(run.settings.get(name, "not set") for run in runs)
        differs = len(set(values)) > 1
        rows.append(_Setting(name, values, tables.SETTINGS.get(name, ""), differs))
    return rows
