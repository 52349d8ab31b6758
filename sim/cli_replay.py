"""The command that replays a node's journal."""

import json
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim import cli_options as opt
from sim.tables import DOT, number, seconds

if TYPE_CHECKING:
    from cni.allocator.journal import Mismatch
    from sim.replay import Day, Replayed

SAME, DIFFERS, UNREADABLE = 0, 1, 2


def replay_journal(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Segments of a node's journal, or files that join several.", metavar="FILE"
        ),
    ],
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Replay a node's journal and tell what happened.

    It says whether today's allocator gives the answers that the node got. The daemon keeps its
    journal in WARMBENCH_STATE_DIR/journal; each file there replays alone. Exit 1 where an answer
    comes out differently today, and 2 where a file cannot be read.
    """
    from sim import replay

    code = SAME
    rows: list[dict[str, Any]] = []
    for path in files:
        try:
            found = replay.replay_file(path)
        except (ValueError, OSError) as error:
            told = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            typer.echo(f"warmbench: {told}", err=True)
            code = UNREADABLE
            continue
        if found.report.mismatch is not None:
            code = max(code, DIFFERS)
        if output is opt.Format.TABLE:
            _print(path, found)
        else:
            rows.append(_row(path, found))
    if output is opt.Format.JSON:
        for row in rows:
            typer.echo(json.dumps(row))
    elif output is opt.Format.CSV and rows:
        cells = [[_cell(value) for value in row.values()] for row in rows]
        opt.print_rows(cells, tuple(rows[0]), output)
    raise typer.Exit(code)


def _print(path: Path, found: "Replayed") -> None:
    """Print a file's day and its verdict."""
    day, report = found.day, found.report
    typer.echo(str(path))
    opt.print_facts(_facts(day))
    if report.torn:
        typer.echo("The last line is cut off, as a crash or a full disk leaves it.")
    if report.mismatch is None:
        typer.echo(f"Today's allocator gives the same {number(report.inputs)} answers.")
    else:
        for line in _difference(report.mismatch):
            typer.echo(line)
    typer.echo()


def _facts(day: "Day") -> list[tuple[str, str]]:
    refused = sum(day.refused.values())
    adds = [f"{number(day.served_at_once)} served at once", f"{number(day.waited)} waited"]
    facts = [
        ("time", seconds(day.span_s)),
        ("ADDs", f"{number(day.adds)}: {', '.join(adds)}, {number(refused)} refused in the end"),
    ]
    if day.waited or day.served_after_waiting:
        served = f"{number(day.served_after_waiting)} served"
        facts.append(("waits", f"{served}, the longest after {seconds(day.longest_wait_s)}"))
    if refused:
        facts.append(("refused", _counts(day.refused)))
    dels = f"{number(day.dels)}, and {number(day.dels_of_nothing)} of sandboxes that held nothing"
    facts.append(("DELs", dels))
    facts.append(("actions", _counts(day.actions) or "none"))
    if day.failed:
        facts.append(("failed", _counts(day.failed)))
    return facts


def _counts(counter: "Counter[str]") -> str:
    return DOT.join(f"{name} {number(count)}" for name, count in counter.most_common() if count)


def _difference(mismatch: "Mismatch") -> list[str]:
    asked = {name: value for name, value in mismatch.input.items() if name != "answer"}
    return [
        f"Line {mismatch.line} comes out differently today; what follows was not replayed.",
        f"  input:   {json.dumps(asked)}",
        f"  journal: {json.dumps(mismatch.journal)}",
        f"  today:   {json.dumps(mismatch.today)}",
    ]


def _row(path: Path, found: "Replayed") -> dict[str, Any]:
    """Return a file's figures for programs."""
    mismatch = found.report.mismatch
    differs = None if mismatch is None else asdict(mismatch)
    # `asdict` would count the pairs of a Counter.
    plain = {field.name: getattr(found.day, field.name) for field in fields(found.day)}
    figures = {n: dict(+v) if isinstance(v, Counter) else v for n, v in plain.items()}
    return {"file": str(path), **figures, "torn": found.report.torn, "differs": differs}


def _cell(value: object) -> object:
    """Return a figure for a CSV cell: what has parts, as JSON."""
    if isinstance(value, dict):
        return json.dumps(value) if value else ""
    return "" if value is None else value
