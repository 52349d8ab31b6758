"""The commands for fleets: scenarios of several node pools, read from a file."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from sim import cli_options as opt
from sim.cli_sweep import Cache, Jobs, Promise, Runs, Scheduler, Seeds, bench_of

if TYPE_CHECKING:
    from sim.record import RunRecord
    from sim.scenario import Scenario
    from sim.summary import Summary
    from sim.trace import Trace

fleet_app = typer.Typer(
    help="Judge fleets of several node pools, from a TOML file.",
    no_args_is_help=True,
)

ScenarioArgument = Annotated[
    Path, typer.Argument(help="TOML file of one scenario; `fleet keys` lists what it may say.")
]
TraceOption = Annotated[
    Path | None,
    typer.Option("--trace", help="Trace of pods, in place of the one that the scenario names."),
]


Override = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Setting laid over the file's, for all pools or for one; repeatable.",
        metavar="[POOL/]KEY=VALUE",
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Seed, in place of the file's.", min=0)
]


def overrides(texts: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """Read [POOL/]KEY=VALUE words; ValueError says what is wrong.

    >>> overrides(["WARM_IP_TARGET=2", "web/MAX_ENI=3"])
    {'': {'WARM_IP_TARGET': '2'}, 'web': {'MAX_ENI': '3'}}
    """
    found: dict[str, dict[str, str]] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        pool, _, key = name.rpartition("/")
        if not equals or not key:
            raise ValueError(f"--set {text}: write KEY=VALUE, or POOL/KEY=VALUE for one pool")
        found.setdefault(pool, {})[key] = value
    return found


@fleet_app.command("run")
def run_fleet(
    scenario: ScenarioArgument,
    trace: TraceOption = None,
    settings: Override = None,
    behaviour: opt.BehaviourOption = opt.BehaviourName.NATIVE,
    seed: SeedOption = None,
    checks: opt.Checks = True,
    out: opt.Out = None,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Replay pods on a fleet, and print the figures of each pool.

    Nodes join, are drained and go as the file says.
    """
    from sim import scenario_file
    from sim.cli_runs import run_with_progress, tell_trace, tell_where, write_run
    from sim.metrics import summarise
    from sim.pools import summaries

    table = scenario_file.load(scenario)
    table = table if seed is None else table.seeded(seed)
    made = table.scenario(
        behaviour.value, checks=checks, command=opt.command_line(), over=overrides(settings)
    )
    pods, name = trace_of(table, trace)
    opt.warn(made.warnings)
    tell_trace(name, pods, pods)
    record = run_with_progress(made, pods, "replaying")
    whole, pools = summarise(record), summaries(record)
    if out is not None:
        write_run(out, record)
    if output is opt.Format.JSON:
        both = {**whole.as_dict(), "pools": {name: one.as_dict() for name, one in pools.items()}}
        typer.echo(json.dumps(both, indent=2))
        return
    if output is opt.Format.CSV:
        from sim.fleet_tables import pool_rows

        opt.print_rows(pool_rows(whole, pools), ("figure", *_heads(pools)), output)
        return
    _print(record, whole, pools)
    tell_where(out)


@fleet_app.command("recommend")
def recommend_for_fleet(
    scenario: ScenarioArgument,
    trace: TraceOption = None,
    slo: Promise = "p99_wait<=1s,refused<=0.1%,throttled<=1%",
    seeds: Seeds = 3,
    runs: Runs = 300,
    behaviour: opt.BehaviourOption = opt.BehaviourName.NATIVE,
    checks: opt.Checks = True,
    jobs: Jobs = None,
    scheduler: Scheduler = None,
    cache: Cache = None,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Find a setting for each pool, and one for all with its price.

    The promise must be kept in every pool, on every seed. What the file sets besides the warm
    pool's targets holds throughout. Exit 1 where nothing keeps the promise.
    """
    from sim import fleet_recommend, scenario_file
    from sim.cli_runs import tell_trace
    from sim.slo import parse_slo

    limits = parse_slo(slo)
    table = scenario_file.load(scenario)
    pods, name = trace_of(table, trace)
    table.scenario(behaviour.value)
    tell_trace(name, pods, pods)

    def make(words: Mapping[str, Sequence[str]], seed: int) -> "Scenario":
        made = table.scenario(behaviour.value, checks=checks, instead=words)
        return replace(made, seed=seed)

    options = {"jobs": jobs, "scheduler": scheduler, "cache": cache}
    with ExitStack() as stack:
        bench = bench_of(stack, pods, options, cache)
        progress = stack.enter_context(opt.progress_bar("searching", runs))
        answer = fleet_recommend.recommend_fleet(
            bench, make, limits, seed=table.seed, seeds=seeds, runs_max=runs, progress=progress
        )
    rows = fleet_recommend.lines(answer)
    if output is opt.Format.JSON:
        typer.echo(json.dumps(answer.as_dict(), indent=2))
    elif output is opt.Format.CSV:
        opt.print_rows(rows, ("what", "answer"), output)
    else:
        opt.print_facts(rows)
        if answer.feasible:
            typer.echo("\n" + "\n".join(fleet_recommend.deploy(answer)))
    if not answer.feasible:
        raise typer.Exit(1)


@fleet_app.command("keys")
def keys() -> None:
    """Print what a scenario file may say, with an example of each key."""
    from sim import scenario_file

    assert scenario_file.__doc__ is not None
    typer.echo(scenario_file.__doc__.strip())


def trace_of(table: object, given: Path | None) -> "tuple[Trace, Path]":
    """Return the trace given, or the scenario's own; ValueError where there is none."""
    from sim.scenario_file import ScenarioTable

    assert isinstance(table, ScenarioTable)
    if given is not None:
        return opt.load_trace(given), given
    pods = table.pods({})
    if pods is None:
        raise ValueError(f"{table.entry.where}: no trace: name one there, or give --trace FILE")
    return pods, Path(pods.origin)


def _heads(pools: "dict[str, Summary]") -> list[str]:
    return ["fleet", *pools] if len(pools) > 1 else list(pools)


def _print(record: "RunRecord", whole: "Summary", pools: "dict[str, Summary]") -> None:
    """Print a headline, a column for the fleet and each pool, and what happened to nodes."""
    from sim import nodes
    from sim.fleet_tables import node_rows, pool_rows, shared_rows
    from sim.tables import headline

    console = Console(highlight=False, markup=False)
    console.print(headline(whole))
    console.print()
    shown = Table(show_edge=False, pad_edge=False)
    shown.add_column("")
    for head in _heads(pools):
        shown.add_column(head, justify="right")
    for row in pool_rows(whole, pools):
        shown.add_row(*row)
    console.print(shown)
    console.print()
    opt.print_facts(
        [
            *node_rows(nodes.steps(record), nodes.counted(record), nodes.stuck(record)),
            *shared_rows(whole),
        ]
    )
