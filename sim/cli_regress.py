"""The command of the CI gate."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from sim import cli_options as opt

if TYPE_CHECKING:
    from sim.regress import Baseline, Change, Today
    from sim.suite import Suite

COLUMNS = ("scenario", "figure", "baseline", "today", "difference", "status", "told")
STYLES = {"better": "green"}
LOG_WIDTH = 120
PODS_PER_ROUND = 500
"""How much a round of the wall clock's moves the bar, in pods that are simulated meanwhile."""


def regress(
    suite: Annotated[Path, typer.Argument(help="TOML file that lists the scenarios.")],
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="The figures to hold; default: SUITE.baseline.json."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Accept today's figures as the baseline.")
    ] = False,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerance",
            help="Share of a figure's baseline, 0 to 1, that may be lost in this run, in place of"
            " the suite's own; repeatable.",
            metavar="FIGURE=SHARE",
        ),
    ] = None,
    wall_clock: Annotated[
        bool,
        typer.Option(
            "--wall-clock",
            help="Also time the allocator, as ratios to a loop of plain Python beside it.",
        ),
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", help="JUnit XML file to write, one test case for each run."),
    ] = None,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Compare a suite's exact figures with its baseline.

    Exit 1 where one got worse.
    """
    from sim import regress as gate
    from sim import regress_report
    from sim import suite as suites

    path = baseline or gate.baseline_beside(suite)
    given = gate.parse_tolerances(tolerance or ())
    _check_outputs(path if update else None, junit)
    loaded = suites.load(suite)
    stored = gate.Baseline() if update and not path.exists() else gate.load_baseline(path)
    for case in loaded.cases:
        opt.warn(f"{case.name}: {line}" for line in case.scenario.warnings)
    today = _measure(loaded, wall_clock=wall_clock)
    changes = gate.compare(loaded.cases, today, stored, given)
    if junit is not None:
        gate.write_whole(junit, regress_report.junit(loaded, path, today, changes))
    _print(changes, output)
    if update:
        told, code = _update(loaded, path, today, stored, changes)
    else:
        accept = regress_report.accepting(suite, baseline, wall_clock=wall_clock)
        told, code = _verdict(loaded, path, today, stored, changes, accept)
    # The verdict belongs to the table; lines for a machine stay alone.
    typer.echo(told, err=output is not opt.Format.TABLE)
    raise typer.Exit(code)


def _check_outputs(baseline: Path | None, junit: Path | None) -> None:
    """Refuse before anything runs what could not be written after it."""
    if baseline is not None and junit is not None:
        raise ValueError("--junit tells how the gate judged, --update accepts: name one of them")
    for path in (baseline, junit):
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}")
    if junit is not None and junit.is_dir():
        raise ValueError(f"--junit {junit}: that is a folder; name a file in it")


def _measure(suite: "Suite", *, wall_clock: bool) -> "Today":
    """Run all cases under one bar, and then the wall clock's rounds."""
    from dataclasses import replace

    from sim import regress as gate
    from sim import wall_clock as timing

    cases = suite.cases
    pods = sum(len(case.pods) for case in cases)
    rounds = timing.ROUNDS if wall_clock else 0
    what = f"{len(cases)} runs"
    with opt.progress_bar(what, pods + PODS_PER_ROUND * rounds) as bar:
        today = gate.measure_all(suite, progress=bar, clock=time.perf_counter)
        if not wall_clock:
            return today
        started = time.perf_counter()
        ratios = timing.measure(
            time.perf_counter, progress=lambda done: bar(pods + PODS_PER_ROUND * done)
        )
        took_s = {**today.took_s, gate.WALL_CLOCK: time.perf_counter() - started}
        return replace(today, wall_clock=ratios, took_s=took_s)


def _verdict(
    suite: "Suite",
    path: Path,
    today: "Today",
    stored: "Baseline",
    changes: "Sequence[Change]",
    accept: str,
) -> tuple[str, int]:
    """Say in a line how it stands; return it with the exit code, 1 where the gate closes."""
    from sim import regress as gate
    from sim.regress_report import counted

    if not changes:
        return f"{_all(today)} as in {path}", 0
    opt.warn(gate.differs_else(suite, stored, path))
    if gate.fails(changes):
        return f"{counted(changes)}; if that is meant, accept it: {accept}", 1
    return f"{counted(changes)}, nothing is worse; to hold that: {accept}", 0


def _update(
    suite: "Suite", path: Path, today: "Today", stored: "Baseline", changes: "Sequence[Change]"
) -> tuple[str, int]:
    """Write the baseline; return what became of it, and the exit code: 1 for a broken run."""
    from sim import regress as gate
    from sim.regress_report import counted

    figures = today.whole
    if figures is None:
        return f"{path} stays as it was: a broken run has no figures to hold", 1
    timed = stored.wall_clock
    # Ratios within tolerance of the baseline's are the same ones on another day.
    if timed is None or any(change.case == gate.WALL_CLOCK for change in changes):
        timed = today.wall_clock or timed
    if not gate.save_baseline(path, figures, suite, timed):
        return f"{_all(today)} as in {path}", 0
    what = counted(changes) if changes else "no figure differs"
    return f"{_all(today)} written to {path}: {what}", 0


def _all(today: "Today") -> str:
    figures = sum(len(one) for one in today.figures.values() if not isinstance(one, Exception))
    figures += len(today.wall_clock or ())
    runs = len(today.figures)
    return f"{figures} figures of {runs} run{'s' if runs > 1 else ''}"


def _print(changes: "Sequence[Change]", output: opt.Format) -> None:
    """Print one line for each change: a table for each scenario, or rows for a machine."""
    if output is not opt.Format.TABLE:
        rows = [
            (c.case, c.figure, c.baseline, c.today, c.difference, c.status, c.told) for c in changes
        ]
        opt.print_rows(rows, COLUMNS, output)
        return
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # A log has no edge: names stay whole there.
        console.width = max(console.width, LOG_WIDTH)
    for case in dict.fromkeys(change.case for change in changes):
        own = [change for change in changes if change.case == case]
        figures = [change for change in own if not change.told]
        for change in own:
            if change.told:
                console.print(f"{case}: {change.status}: {change.told}", soft_wrap=True)
        if figures:
            console.print(case, style="bold")
            console.print(_table(figures))
        console.print()


def _table(changes: "Sequence[Change]") -> Table:
    """Lay out the changes of one scenario."""
    from sim.regress_report import cells

    table = Table(show_edge=False, pad_edge=False)
    table.add_column("figure", overflow="fold", min_width=20)
    for head in ("baseline", "today", "difference"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=6)
    for c in changes:
        table.add_row(*cells(c), style=STYLES.get(c.status, "red"))
    return table
