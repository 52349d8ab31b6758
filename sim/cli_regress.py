"""The command of the CI gate."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from sim import cli_options as opt

if TYPE_CHECKING:
    from sim.regress import Baseline, BrokenRunError, Change, Figures
    from sim.suite import Suite

COLUMNS = ("scenario", "figure", "baseline", "today", "difference", "status", "told")
NONE = "\N{EN DASH}"
STYLES = {"better": "green"}
LOG_WIDTH = 120


def regress(
    suite: Annotated[Path, typer.Argument(help="TOML file that lists the scenarios.")],
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="The figures to hold; default: SUITE.baseline.json."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Accept today's figures as the baseline.")
    ] = False,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Compare a suite's exact figures with its baseline.

    Exit 1 where one got worse.
    """
    from sim import regress as gate
    from sim import suite as suites

    path = baseline or gate.baseline_beside(suite)
    if update and not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")
    loaded = suites.load(suite)
    stored = gate.Baseline() if update and not path.exists() else gate.load_baseline(path)
    for case in loaded.cases:
        opt.warn(f"{case.name}: {line}" for line in case.scenario.warnings)
    today = _measure(loaded)
    changes = gate.compare(loaded.cases, today, stored.figures)
    _print(changes, output)
    # The verdict belongs to the table; lines for a machine stay alone.
    err = output is not opt.Format.TABLE
    if update:
        typer.echo(_update(loaded, path, today, changes), err=err)
        return
    again = ["--baseline", str(baseline)] if baseline else []
    accept = opt.quoted(["warmbench", "regress", str(suite), *again, "--update"])
    if changes:
        _tell_apart(loaded, stored, path)
    if gate.fails(changes):
        told = f"{_counted(changes)}; if that is meant, accept it: {accept}"
        typer.echo(told, err=err)
        raise typer.Exit(1)
    if changes:
        typer.echo(f"{_counted(changes)}, nothing is worse; to hold that: {accept}", err=err)
        return
    typer.echo(f"{_all(today)} as in {path}", err=err)


def _measure(suite: "Suite") -> "dict[str, Figures | BrokenRunError]":
    """Run all cases under one bar; a broken run is a result too, and the others stand."""
    from sim import regress as gate

    today: dict[str, Figures | BrokenRunError] = {}
    done = 0
    cases = suite.cases
    with opt.progress_bar(f"{len(cases)} runs", sum(len(case.pods) for case in cases)) as bar:
        for case in cases:
            try:
                today[case.name] = gate.measure(case, _from(done, bar))
            except gate.BrokenRunError as error:
                today[case.name] = error
            except ValueError as error:
                raise ValueError(f"{suite.path}: {error}") from error
            done += len(case.pods)
            bar(done)
    return today


def _from(before: int, bar: Callable[[int], None]) -> Callable[[int], None]:
    """Count a run's pods on top of those of the runs before it."""
    return lambda pod: bar(before + pod)


def _update(
    suite: "Suite",
    path: Path,
    today: "dict[str, Figures | BrokenRunError]",
    changes: "Sequence[Change]",
) -> str:
    """Write the baseline and say what became of it; exit 1 where a run is broken."""
    from sim import regress as gate

    figures = {name: one for name, one in today.items() if not isinstance(one, gate.BrokenRunError)}
    if len(figures) < len(today):
        typer.echo(f"{path} stays as it was: a broken run has no figures to hold", err=True)
        raise typer.Exit(1)
    if not gate.save_baseline(path, figures, suite):
        return f"{_all(today)} as in {path}"
    what = _counted(changes) if changes else "no figure differs"
    return f"{_all(today)} written to {path}: {what}"


def _tell_apart(suite: "Suite", stored: "Baseline", path: Path) -> None:
    """Say what else differs than the code's figures."""
    from sim import regress as gate

    if stored.suite != suite.digest:
        opt.warn([f"{suite.path} or a trace it names has changed since {path} was made"])
    if stored.warmbench != gate.this_version():
        opt.warn([f"{path} is of warmbench {stored.warmbench}, this is {gate.this_version()}"])


def _all(today: "dict[str, Figures | BrokenRunError]") -> str:
    figures = sum(len(one) for one in today.values() if not isinstance(one, Exception))
    return f"{figures} figures of {len(today)} run{'s' if len(today) > 1 else ''}"


def _counted(changes: "Sequence[Change]") -> str:
    """Count changes by status, the worst first.

    >>> from sim.regress import Change
    >>> _counted([Change("a", "b", 2, 1, "better"), Change("a", "c", 1, 2, "worse")])
    '1 worse, 1 better'
    """
    counts: Counter[str] = Counter(change.status for change in changes)
    order = ("broken", "worse", "new", "gone", "better")
    return ", ".join(f"{counts[status]} {status}" for status in order if counts[status])


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
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("figure", overflow="fold", min_width=18)
    for head in ("baseline", "today", "difference"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for c in changes:
        cells = (c.figure, _shown(c.baseline), _shown(c.today), _difference(c), c.status)
        table.add_row(*cells, style=STYLES.get(c.status, "red"))
    return table


def _shown(value: float | None) -> str:
    """Write a figure with all its digits, but no more than six behind the point.

    >>> _shown(1234567), _shown(0.05), _shown(74.797927)
    ('1,234,567', '0.05', '74.797927')
    """
    if value is None:
        return NONE
    text = f"{value:,.6f}"
    return text.rstrip("0").rstrip(".")


def _difference(change: "Change") -> str:
    if change.difference is None:
        return NONE
    sign = "+" if change.difference > 0 else ""
    share = f" ({change.difference / change.baseline:+.1%})" if change.baseline else ""
    return f"{sign}{_shown(change.difference)}{share}"
