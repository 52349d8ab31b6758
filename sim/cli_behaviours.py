"""The command that lays both behaviours side by side."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from sim import cli_options as opt

if TYPE_CHECKING:
    from sim.behaviours import Pair

MARKS = {1: "better", 0: "", -1: "worse"}


def behaviours(
    suite: Annotated[Path, typer.Argument(help="TOML file that lists the scenarios.")],
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Compare native with upstream on a suite of scenarios.

    On waiting, addresses and mutating EC2 calls. Exit 1 where native is worse on two of them at
    once, or makes more mutating calls.
    """
    from sim import behaviours as both
    from sim import regress as gate
    from sim import suite as suites

    loaded = suites.load(suite, behaviours=both.BOTH)
    pods = sum(len(case.pods) for case in loaded.cases)
    with opt.progress_bar(f"{len(loaded.cases)} runs", pods) as bar:
        today = gate.measure_all(loaded, progress=bar, clock=time.perf_counter)
    found = both.pairs(today)
    _print(found, output)
    if output is opt.Format.TABLE:
        typer.echo("\n" + "\n".join(both.verdict(found)))
    if any(pair.exception for pair in found):
        raise typer.Exit(1)


def _print(found: "list[Pair]", output: opt.Format) -> None:
    if output is opt.Format.TABLE:
        table = Table(show_edge=False, pad_edge=False)
        for head in ("", "upstream", "native", "difference", "native is"):
            table.add_column(head, justify="right" if head not in ("", "native is") else "left")
        for pair in found:
            table.add_row(pair.name)
            for axis in pair.axes:
                table.add_row(f"  {axis.name}", *axis.told, MARKS[axis.verdict])
        Console(highlight=False, markup=False).print(table)
        return
    heads = ("scenario", "figure", "upstream", "native")
    rows = [
        (pair.name, axis.name, axis.upstream, axis.native) for pair in found for axis in pair.axes
    ]
    if output is opt.Format.JSON:
        for row in rows:
            typer.echo(json.dumps(dict(zip(heads, row, strict=True))))
        return
    opt.print_rows(rows, heads, output)
