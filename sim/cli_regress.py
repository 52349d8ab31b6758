"""The command of the CI gate."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim import cli_options as opt

if TYPE_CHECKING:
    from sim.regress import Change

COLUMNS = ("scenario", "figure", "baseline", "today", "difference", "status")


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
    """Compare a suite's figures with its baseline.

    Exit 1 where one got worse.
    """
    from sim import regress as gate

    cases = gate.load_suite(suite)
    path = baseline or gate.baseline_beside(suite)
    stored, made_of = ({}, "") if update and not path.exists() else gate.load_baseline(path)
    today = {}
    for case in cases:
        with opt.progress_bar(case.name, len(case.pods)) as progress:
            today[case.name] = gate.measure(case, progress)
    changes = gate.compare(cases, today, stored)
    _print(changes, output)
    if update:
        gate.save_baseline(path, today, suite)
        typer.echo(f"{len(today)} scenarios written to {path}", err=True)
        return
    if made_of != gate.fingerprint(suite):
        opt.warn([f"{suite} has changed since {path} was made"])
    count = sum(len(figures) for figures in today.values())
    if gate.fails(changes):
        typer.echo(f"worse than {path}; if that is meant, accept it with --update", err=True)
        raise typer.Exit(1)
    if changes:
        typer.echo("nothing is worse, some is better: keep that with --update", err=True)
    else:
        typer.echo(f"{count} figures of {len(today)} scenarios are as in {path}", err=True)


def _print(changes: "list[Change]", output: opt.Format) -> None:
    if output is opt.Format.TABLE and not changes:
        return
    rows = [
        (c.case, c.figure, _shown(c.baseline), _shown(c.today), _difference(c), c.status)
        for c in changes
    ]
    if output is opt.Format.JSON:
        for c in changes:
            typer.echo(
                json.dumps(
                    {
                        "scenario": c.case,
                        "figure": c.figure,
                        "baseline": c.baseline,
                        "today": c.today,
                        "status": c.status,
                    }
                )
            )
        return
    if output is opt.Format.CSV:
        opt.print_rows(rows, COLUMNS, output)
        return
    for case in dict.fromkeys(row[0] for row in rows):
        own = [row[1:] for row in rows if row[0] == case]
        opt.print_rows(own, COLUMNS[1:], output, title=case)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}"


def _difference(change: "Change") -> str:
    if change.baseline is None or change.today is None:
        return "-"
    difference = change.today - change.baseline
    share = f" ({difference / change.baseline:+.1%})" if change.baseline else ""
    return f"{difference:+,.6g}{share}"
