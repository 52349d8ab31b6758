"""The report: one HTML file for a run or for two, with its plots inside.

The plots are public for notebooks: each takes a record and, if wanted, the Axes to draw on,
and returns the Axes. In the page they are inline SVG whose colours are CSS variables, so that
they follow the reader's light or dark setting. Equal runs give equal bytes. The words
are put together in `sim/page.py`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator, NullFormatter
from numpy.typing import NDArray

from sim import metrics, nodes, page, pools, tables
from sim.fleet_tables import node_rows, pool_rows
from sim.record import RunRecord
from sim.summary import Summary
from sim.verdict import Slo

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours by what they show; the hues stay apart for colour-blind eyes."""

    assigned: str
    cooling: str
    idle: str
    primary: str
    reads: str
    writes: str
    throttled: str
    line1: str
    line2: str
    line3: str
    line4: str
    quiet: str
    text: str
    grid: str

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the colours of single lines, the most striking first."""
        return (self.line1, self.line2, self.line3, self.line4)


LIGHT = Palette(
    assigned="#0b63b0",
    cooling="#e39a12",
    idle="#a9d3f2",
    primary="#a7adb5",
    reads="#a9d3f2",
    writes="#0b63b0",
    throttled="#d1480f",
    line1="#0b63b0",
    line2="#d1480f",
    line3="#00866b",
    line4="#9a5fb5",
    quiet="#a7adb5",
    text="#4a5057",
    grid="#dfe3e8",
)

DARK = Palette(
    assigned="#58a9f0",
    cooling="#f0b03f",
    idle="#2d567a",
    primary="#666d76",
    reads="#2d567a",
    writes="#58a9f0",
    throttled="#ff7f4d",
    line1="#58a9f0",
    line2="#ff7f4d",
    line3="#3cc9a7",
    line4="#c79be0",
    quiet="#666d76",
    text="#b4bbc4",
    grid="#343a42",
)

BANDS = ("assigned", "cooling", "idle", "primary")
"""The bands of the address plot, from the axis up."""

CALLS = (("writes", "mutating"), ("reads", "reading"), ("throttled", "throttled"))
"""The bands of the plot of EC2 calls, from the axis up, and what they are called."""

MOST_LINES = 4
"""Subnets drawn in colours of their own: those that ran lowest; the rest is quiet."""


@dataclass(frozen=True, slots=True)
class _TimeUnit:
    """What a time axis counts, its seconds, and the steps between ticks to choose from."""

    name: str
    seconds: float
    steps: tuple[int, ...]


_UNITS = (
    (180.0, _TimeUnit("second", 1.0, (1, 2, 5, 10, 20, 30))),
    (3 * 3600.0, _TimeUnit("minute", 60.0, (1, 2, 5, 10, 15, 20, 30))),
    (4 * 86400.0, _TimeUnit("hour", 3600.0, (1, 2, 3, 6, 12, 24))),
    (float("inf"), _TimeUnit("day", 86400.0, (1, 2, 5, 10, 20, 30, 50, 100, 200, 500))),
)
"""The unit for runs up to so many seconds."""

_MOST_TICKS = 8


# The plots.


def plot_addresses(
    record: RunRecord,
    ax: Axes | None = None,
    *,
    node: str | None = None,
    until_s: float | None = None,
    palette: Palette = LIGHT,
) -> Axes:
    """Stack the addresses of all nodes, or of one, over time: assigned, cooling, idle, primary.

    Each of 600 points is the mean of its share of the run, so that the bands always add up.
    The time axis reaches until `until_s`, or else the run's end.
    """
    ax = _axes(ax, palette)
    frame = metrics.timeline(record, 600, node=node, how="mean")
    unit = _time_axis(ax, until_s or record.header.end_s)
    edge = np.zeros(len(frame))
    for band in BANDS:
        top = edge + frame[band].to_numpy()
        color = getattr(palette, band)
        ax.fill_between(frame["t"] / unit.seconds, edge, top, color=color, linewidth=0, label=band)
        edge = top
    ax.set_ylabel("addresses")
    ax.set_ylim(0.0, max(1.0, 1.05 * float(edge.max())))
    _legend(ax, palette)
    return ax


def plot_waits(record: RunRecord, ax: Axes | None = None, *, palette: Palette = LIGHT) -> Axes:
    """Draw which share of pods waited longer than so many seconds, both axes logarithmic.

    Most pods do not wait at all and cannot be on a logarithmic axis: their share is written
    above. Pods still waiting count with the wait they have had so far.
    """
    ax = _axes(ax, palette)
    waited_s = metrics.waits(record)["waited_s"].to_numpy()
    later = np.sort(waited_s[waited_s >= metrics.INSTANT_S])
    ax.set_xlabel("waited longer than so many seconds")
    ax.set_ylabel("share of pods")
    if len(later) == 0:
        _say(ax, palette, "No pod waited." if len(waited_s) else "No pod asked.")
        ax.set_axis_off()
        return ax
    at_once = 1.0 - len(later) / len(waited_s)
    ax.set_title(f"{tables.share(at_once)} of pods did not wait", loc="left", color=palette.text)
    longer = np.arange(len(later) - 1, -1, -1) / len(waited_s)
    keep = _thinned(later)
    first = min(0.1, later[0])
    x = np.concatenate(([first], later[keep], [later[-1]]))
    # The last pod's step goes down to nothing, which a logarithmic axis shows as its floor.
    floor = 0.5 / len(waited_s)
    y = np.maximum(np.concatenate(([1.0 - at_once], longer[keep], [0.0])), floor)
    ax.step(x, y, where="post", color=palette.line1, linewidth=2.0)
    ax.fill_between(x, y, floor, step="post", color=palette.line1, alpha=0.15, linewidth=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(first, max(2.0 * later[-1], 10.0 * first))
    ax.set_ylim(floor, 1.0)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100.0 * value:g} %"))
    return ax


def plot_calls(
    record: RunRecord,
    ax: Axes | None = None,
    *,
    until_s: float | None = None,
    palette: Palette = LIGHT,
) -> Axes:
    """Stack the rate of EC2 calls over time: mutating, reading, and those EC2 throttled."""
    ax = _axes(ax, palette)
    frame = metrics.calls_over_time(record)
    unit = _time_axis(ax, until_s or record.header.end_s, whole=False)
    half = frame["width_s"].to_numpy() / 2.0
    edges = np.append(frame["t"] - half, frame["t"].iloc[-1] + half[-1]) / unit.seconds
    base = np.zeros(len(frame))
    for kind, label in CALLS:
        top = base + frame[kind].to_numpy() / (frame["width_s"].to_numpy() / unit.seconds)
        color = getattr(palette, kind)
        ax.stairs(top, edges, baseline=base, fill=True, color=color, linewidth=0, label=label)
        base = top
    ax.set_ylabel(f"EC2 calls a {unit.name}")
    ax.set_ylim(0.0, max(1e-9, 1.08 * float(base.max())) if base.max() else 1.0)
    _legend(ax, palette)
    if not base.any():
        _say(ax, palette, "No EC2 call was made.")
    return ax


def plot_subnets(
    record: RunRecord,
    ax: Axes | None = None,
    *,
    column: Literal["free", "free_prefixes"] = "free",
    until_s: float | None = None,
    palette: Palette = LIGHT,
) -> Axes:
    """Draw the free addresses (`column` "free") or /28s ("free_prefixes") of each subnet.

    Each point is the fewest in its share of the run. The subnets that ran lowest have colours.
    """
    ax = _axes(ax, palette)
    frame = metrics.subnets_over_time(record)
    unit = _time_axis(ax, until_s or record.header.end_s)
    for cidr, color in _subnet_colors(record, palette).items():
        mine = frame[frame["subnet"] == cidr]
        ax.step(mine["t"] / unit.seconds, mine[column], where="mid", color=color, label=cidr)
    ax.set_ylabel("free addresses" if column == "free" else "free /28s")
    highest = float(frame[column].max()) if len(frame) else 0.0
    ax.set_ylim(0.0, max(1.0, 1.08 * highest))
    if len(frame) == 0:
        _say(ax, palette, "No subnet was touched.")
    else:
        _legend(ax, palette)
    return ax


def plot_front(table: pd.DataFrame, ax: Axes | None = None, *, palette: Palette = LIGHT) -> Axes:
    """Draw settings by the addresses they take and the time pods wait; `sim.sweep.by_setting`.

    Those on the front are joined. The bar is the bound: with fewer addresses pods must wait,
    whatever the setting. The axis of waits is logarithmic above 10 ms, so that 0 is on it.
    """
    ax = _axes(ax, palette)
    ran = table[table["failed"] == 0]
    ax.set_xlabel("addresses taken on average, ENI primaries included")
    ax.set_ylabel("mean wait, s")
    if len(ran) == 0:
        _say(ax, palette, "No setting could be run.")
        ax.set_axis_off()
        return ax
    waits = ran["wait_mean_s"].fillna(0.0)
    ax.scatter(ran["taken_mean"], waits, s=18, color=palette.quiet, label="tried")
    best = ran[ran["on_front"]].sort_values(["taken_mean", "wait_mean_s"], kind="stable")
    front = (best["taken_mean"], best["wait_mean_s"].fillna(0.0))
    ax.plot(*front, color=palette.line1, marker="o", markersize=5, label="front", zorder=3)
    bound = float(ran["bound"].min())
    ax.axvline(bound, color=palette.line2, linewidth=2.0, label="bound")
    ax.set_yscale("symlog", linthresh=0.01)
    ax.set_ylim(-0.001, max(0.02, 1.5 * float(waits.max())))
    ax.set_xlim(0.0, 1.05 * max(float(ran["taken_mean"].max()), bound))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _legend(ax, palette)
    return ax


# Parts of plots.


def _axes(ax: Axes | None, palette: Palette) -> Axes:
    """Give the Axes their plain look; make them where none are given."""
    if ax is None:
        ax = Figure(figsize=(9.0, 3.6), layout="constrained").add_subplot()
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(palette.grid)
    ax.tick_params(colors=palette.text, length=0, which="both")
    ax.xaxis.label.set_color(palette.text)
    ax.yaxis.label.set_color(palette.text)
    ax.grid(axis="y", color=palette.grid, linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def _time_axis(ax: Axes, until_s: float, *, whole: bool = True) -> _TimeUnit:
    """Set up a time axis in a unit that fits, and plain (whole) numbers on the other."""
    unit = next(unit for limit, unit in _UNITS if until_s <= limit)
    until = max(until_s, metrics.INSTANT_S) / unit.seconds
    step = next((step for step in unit.steps if until / step <= _MOST_TICKS), unit.steps[-1])
    ax.set_xlim(0.0, until)
    ax.set_xlabel(f"{unit.name}s")
    ax.xaxis.set_major_locator(MultipleLocator(step))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=whole))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    return unit


def _legend(ax: Axes, palette: Palette) -> None:
    """Put the names above the plot, where they cover nothing, in the order of the stack."""
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=MOST_LINES + 1,
        frameon=False,
        labelcolor=palette.text,
        borderaxespad=0.0,
    )


def _say(ax: Axes, palette: Palette, text: str) -> None:
    """Say why there is nothing to see."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", color=palette.text)


def _thinned(values: Floats, most: int = 400) -> NDArray[np.int64]:
    """Choose rows of ascending values that keep a step curve's look on a logarithmic axis.

    Of equal values the last, which has the curve's value; of many, evenly spaced logarithms.
    """
    last: NDArray[np.int64] = np.flatnonzero(np.append(values[1:] > values[:-1], True))
    if len(last) <= most:
        return last
    marks = np.geomspace(values[0], values[-1], most)
    rows = np.searchsorted(values[last], marks, side="right") - 1
    kept: NDArray[np.int64] = last[np.unique(np.maximum(rows, 0))]
    return kept


def _subnet_colors(record: RunRecord, palette: Palette) -> dict[str, str]:
    """Give the subnets that ran lowest a colour each; the quiet rest is drawn beneath them."""
    frame = metrics.subnets(record)
    lowest = frame.groupby("subnet", observed=True)["free"].min().sort_values(kind="stable")
    striking = [str(cidr) for cidr in lowest.index[:MOST_LINES]]
    quiet = {str(cidr): palette.quiet for cidr in lowest.index[MOST_LINES:]}
    return quiet | dict(zip(striking, palette.lines, strict=False))


# Plots in the page.

_CSS = Palette(*(f"#c5{index:02x}5c" for index in range(len(fields(Palette)))))
"""Colours that stand for CSS variables until the SVG is written."""

_VARIABLES = {getattr(_CSS, field.name): f"var(--{field.name})" for field in fields(Palette)}


@dataclass(frozen=True, slots=True)
class _Panel:
    """One plot of the page: what it is called, what it shows, and how it is drawn."""

    key: str
    title: str
    caption: str
    height: float
    draw: Callable[[RunRecord, Figure, float], list[Axes]]


def _draw_addresses(record: RunRecord, figure: Figure, until_s: float) -> list[Axes]:
    return [plot_addresses(record, figure.add_subplot(), until_s=until_s, palette=_CSS)]


def _draw_waits(record: RunRecord, figure: Figure, until_s: float) -> list[Axes]:
    del until_s  # This axis is not one of simulated time.
    return [plot_waits(record, figure.add_subplot(), palette=_CSS)]


def _draw_calls(record: RunRecord, figure: Figure, until_s: float) -> list[Axes]:
    return [plot_calls(record, figure.add_subplot(), until_s=until_s, palette=_CSS)]


def _draw_subnets(record: RunRecord, figure: Figure, until_s: float) -> list[Axes]:
    upper, lower = figure.subplots(2, 1, sharex=True)
    plot_subnets(record, upper, until_s=until_s, palette=_CSS)
    plot_subnets(record, lower, column="free_prefixes", until_s=until_s, palette=_CSS)
    upper.set_xlabel("")
    return [upper, lower]


_ADDRESSES = _Panel(
    "addresses",
    "Addresses over time",
    "What all nodes hold together. Idle addresses are the warm pool: taken from the subnet, "
    "used by nobody. Cooling ones were released within the cooldown. Each ENI's primary address "
    "is of no use to pods.",
    3.6,
    _draw_addresses,
)

_PANELS = (
    _Panel(
        "waits",
        "Waiting for an address",
        "How many pods waited longer than so many seconds, from their first ADD. Pods still "
        "waiting at the end count with the wait they had by then.",
        3.4,
        _draw_waits,
    ),
    _Panel(
        "calls",
        "EC2 calls over time",
        "Attempts by kind. Mutating calls share one rate among all nodes of an account and "
        "region; above it, EC2 throttles.",
        3.4,
        _draw_calls,
    ),
    _Panel(
        "subnets",
        "Free addresses in the subnets",
        "The fewest in each interval. A prefix needs sixteen neighbouring free addresses, "
        "aligned: free /28s can run out long before addresses do.",
        4.4,
        _draw_subnets,
    ),
)

_NARROW, _WIDE = 7.6, 14.6
"""Widths in inches that are about as many hundredths of a pixel on the page."""


def _svgs(panel: _Panel, records: Sequence[RunRecord], width: float, salt: str) -> list[Markup]:
    """Draw a panel of each run, with the same limits on the axes of all."""
    until_s = max(record.header.end_s for record in records)
    with _plain_style():
        figures, axes = [], []
        for record in records:
            figure = Figure(figsize=(width, panel.height), layout="constrained")
            axes.append(panel.draw(record, figure, until_s))
            figures.append(figure)
        for same in zip(*axes, strict=True):
            _share_limits(same)
        for ax in (ax for group in axes for ax in group):
            if legend := ax.get_legend():
                # The page has a legend of its own, which wraps on a narrow screen.
                legend.remove()
        return [
            _svg(figure, f"{panel.title}, run {index}", f"{panel.key}-{salt}-{index}")
            for index, figure in enumerate(figures, start=1)
        ]


@contextmanager
def _plain_style() -> Iterator[None]:
    """Draw with matplotlib's defaults, whatever a notebook or a matplotlibrc asks for.

    Text stays text in the SVG, takes the page's fonts, and is never read as a formula.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"svg.fonttype": "none", "text.parse_math": False})
        mpl.rcParams.update({"font.size": 12.0, "axes.titlesize": 12.0})
        yield


def _share_limits(axes: Sequence[Axes]) -> None:
    if len({(ax.get_xscale(), ax.get_yscale()) for ax in axes}) > 1:
        return  # One of them has nothing to show.
    lows, highs = zip(*(ax.get_xlim() for ax in axes), strict=True)
    bottoms, tops = zip(*(ax.get_ylim() for ax in axes), strict=True)
    for ax in axes:
        ax.set_xlim(min(lows), max(highs))
        ax.set_ylim(min(bottoms), max(tops))


def _svg(figure: Figure, label: str, salt: str) -> Markup:
    """Turn a figure into SVG for the page: no size or font of its own, colours as variables."""
    text = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None, "every SVG of matplotlib has a viewBox"
    opening = f'<svg {box.group()} role="img" aria-label="{label}">'
    svg = opening + svg[svg.index(">") + 1 :]
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    # Names that nothing refers to repeat from figure to figure.
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda id_: id_.group() if id_[1] in used else "", svg)
    svg = re.sub(r"<!--.*?-->|\n\s*", " ", svg, flags=re.DOTALL)
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg)
    svg = re.sub("|".join(_VARIABLES), lambda found: _VARIABLES[found.group()], svg)
    return Markup(svg)  # noqa: S704 - made by matplotlib, which escapes every text in it


# The page.


def write_report(
    runs: RunRecord | tuple[RunRecord, RunRecord], path: Path, *, slo: Slo | None = None
) -> None:
    """Write the report of one run, or of two side by side with a verdict, to an HTML file.

    The file needs nothing beside it and no network. `slo` is what the verdict holds the runs
    to (default `Slo()`).
    """
    records = (runs,) if isinstance(runs, RunRecord) else runs
    summaries = [metrics.summarise(record) for record in records]
    figures = [_figure(panel, records) for panel in (_ADDRESSES, *_PANELS)]
    if len(summaries) == 1:
        html = page.one_run(summaries[0], figures, _fleet(records[0], summaries[0]))
    else:
        html = page.two_runs(summaries[0], summaries[1], figures, slo or Slo())
    path.write_text(html, encoding="utf-8")


def _fleet(record: RunRecord, whole: Summary) -> page.Fleet | None:
    """Return what there is to tell of pools and moves; None where one pool stood still."""
    parts = pools.summaries(record)
    if len(parts) < 2 and not len(record.moves["t"]):  # noqa: PLR2004 - one pool
        return None
    heads = ("", "fleet", *parts) if len(parts) > 1 else ("", "fleet")
    facts = node_rows(nodes.steps(record), nodes.counted(record), nodes.stuck(record))
    return page.Fleet(heads, pool_rows(whole, parts), facts)


def write_sweep(
    table: pd.DataFrame,
    path: Path,
    *,
    headline: str,
    facts: Sequence[tuple[str, str]],
    command: str,
) -> None:
    """Write the report of a sweep, a table from `sim.sweep.by_setting`, to an HTML file."""
    with _plain_style():
        drawn = Figure(figsize=(_NARROW, 3.8), layout="constrained")
        ax = plot_front(table, drawn.add_subplot(), palette=_CSS)
        if legend := ax.get_legend():
            legend.remove()
        plot = _svg(drawn, "Addresses taken against waiting", "front")
    legends = (("var(--line1)", "front"), ("var(--quiet)", "tried"), ("var(--line2)", "bound"))
    figure = page.Figure(
        title="Addresses against waiting",
        caption="Each point is a setting. On the front none has less of both. Left of the bound "
        "pods must wait, even if the future were known.",
        plots=(plot,),
        wide=(),
        legends=(legends,),
    )
    records = [{str(name): one[name] for name in one} for one in table.to_dict("records")]
    rows = tables.sweep_rows(records)
    html = page.sweep(headline, figure, rows, facts=facts, command=command)
    path.write_text(html, encoding="utf-8")


def _figure(panel: _Panel, records: Sequence[RunRecord]) -> page.Figure:
    wide = []
    if len(records) == 1 and panel is _ADDRESSES:
        wide = _svgs(panel, records, _WIDE, "wide")
    return page.Figure(
        title=panel.title,
        caption=panel.caption,
        plots=tuple(_svgs(panel, records, _NARROW, "plot")),
        wide=tuple(wide),
        legends=tuple(_key(panel, record) for record in records),
    )


def _key(panel: _Panel, record: RunRecord) -> tuple[tuple[str, str], ...]:
    """Return a panel's legend as (CSS colour, name)."""
    if panel.key == "addresses":
        return tuple((f"var(--{band})", band) for band in BANDS)
    if panel.key == "calls":
        return tuple((f"var(--{kind})", label) for kind, label in CALLS)
    if panel.key == "subnets":
        colors = _subnet_colors(record, _CSS)
        named = [(_VARIABLES[colors[cidr]], cidr) for cidr in reversed(colors)]
        shown = [pair for pair in named if pair[0] != "var(--quiet)"]
        others = len(named) - len(shown)
        return (*shown, *([("var(--quiet)", f"{others} more")] if others else ()))
    return ()
