"""warmbench: parse, call, print; nothing else.

The commands live beside this file by subject. Whatever goes wrong reaches the user as one line
that says what to do: exit 2 for bad input, 1 where a gate found something worse, 130 after
Ctrl-C, 70 for a fault of ours.
"""

import os
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer
from rich.console import Console

from sim import (
    cli_behaviours,
    cli_calibrate,
    cli_data,
    cli_fleet,
    cli_lab,
    cli_notebook,
    cli_plan,
    cli_regress,
    cli_replay,
    cli_runs,
    cli_sweep,
)

DEBUG = "WARMBENCH_DEBUG"

app = typer.Typer(
    name="warmbench",
    help="Judge warm-pool settings of the Amazon VPC CNI plug-in before they are deployed:"
    " replay pod churn through the allocator that runs on nodes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("node")(cli_runs.node)
app.command("replay")(cli_runs.replay)
app.command("compare")(cli_runs.compare)
app.command("sweep")(cli_sweep.sweep)
app.command("recommend")(cli_sweep.recommend)
app.command("plan")(cli_plan.plan)
app.command("calibrate")(cli_calibrate.calibrate)
app.command("regress")(cli_regress.regress)
app.command("behaviours")(cli_behaviours.behaviours)
app.command("replay-journal")(cli_replay.replay_journal)
app.command("limits")(cli_data.limits)
app.command("notebook")(cli_notebook.notebook)
app.add_typer(cli_data.trace_app, name="trace")
app.add_typer(cli_fleet.fleet_app, name="fleet")
app.add_typer(cli_lab.lab_app, name="lab")


def _version(asked: bool) -> None:
    if asked:
        try:
            typer.echo(f"warmbench {version('warmbench')}")
        except PackageNotFoundError:
            typer.echo("warmbench (not installed)")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options before any command."""


class _Interrupted(BaseException):
    """Ctrl-C, under a name that nobody below catches: what is being written is cleaned up."""


def _interrupt(_signal: int, _frame: object) -> None:
    raise _Interrupted


def main() -> None:
    """Run the command line; no traceback reaches a user, unless WARMBENCH_DEBUG asks for it."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except _Interrupted:
        console.print("warmbench: interrupted; nothing half-written is left")
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone (`warmbench … | head`): not an error, and nobody to tell.
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - closed with the process
        sys.exit(0)
    except (ValueError, LookupError, OSError) as error:
        if os.environ.get(DEBUG):
            raise
        for line in _told(error):
            console.print(f"warmbench: {line}")
        sys.exit(2)
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        console.print(
            f"warmbench: a fault of warmbench itself: {type(error).__name__}: {error}\n"
            f"warmbench: run again with {DEBUG}=1 for the details a bug report needs"
        )
        sys.exit(70)


def _told(error: Exception) -> list[str]:
    """Return an error's lines; a KeyError's text is its key in quotes, so take its argument."""
    text = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
    return text.splitlines() or [type(error).__name__]


if __name__ == "__main__":
    main()
