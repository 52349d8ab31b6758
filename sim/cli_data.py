"""The commands about data: limits of instance types, and traces."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sim import cli_options as opt

trace_app = typer.Typer(
    help="Make, describe and convert traces of pods.", no_args_is_help=True, rich_markup_mode=None
)

LIMIT_COLUMNS = (
    "type",
    "ENIs",
    "IPv4 per ENI",
    "secondary IPs",
    "prefixes",
    "vCPUs",
    "memory MiB",
    "agreement",
)


def limits(
    instance: Annotated[
        str | None, typer.Argument(help="An instance type; none lists all.", metavar="[TYPE]")
    ] = None,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Show EC2's limits for an instance type, or for all of them."""
    import instance_limits

    names = instance_limits.all_types() if instance is None else [instance]
    rows = []
    for name in names:
        found = instance_limits.get(name)
        most = found.enis * (found.ipv4_per_eni - 1)
        prefixes = most if found.prefixes else 0
        rows.append(
            (
                found.instance_type,
                found.enis,
                found.ipv4_per_eni,
                most,
                prefixes,
                found.vcpus,
                found.memory_mib,
                found.agreement,
            )
        )
    opt.print_rows(rows, LIMIT_COLUMNS, output)


@trace_app.command("generate")
def generate(
    shape: Annotated[
        str | None, typer.Argument(help="The shape of churn; none lists the shapes.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write: .csv, .csv.gz or .parquet.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter of the shape; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    seed: opt.Seed = 0,
) -> None:
    """Make a trace of a shape: steady, rolling restart, scale, minute jobs, a job, a day."""
    from sim import trace as traces
    from sim.sources.shapes import SHAPES
    from sim.sources.shapes import generate as make

    if shape is None:
        rows = [
            (name, f"{p.name}={p.default}", p.help)
            for name, known in SHAPES.items()
            for p in known.parameters
        ]
        opt.print_rows(rows, ("shape", "parameter and default", "meaning"), opt.Format.TABLE)
        return
    if out is None:
        raise ValueError("name the file to write with --out FILE")
    values: dict[str, str] = {}
    for pair in settings or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set {pair}: write KEY=VALUE")
        if name in values:
            raise ValueError(f"--set {name}: given twice")
        values[name] = value
    made = make(shape, values, seed=seed)
    traces.save(made, out)
    typer.echo(f"{len(made)} pods over {made.end_s:g} s in {out}")


@trace_app.command("describe")
def describe(
    trace: opt.TraceArgument,
    replicate: opt.Replicate = 1,
    compress: opt.Compress = 1.0,
    thin: opt.Thin = 1.0,
    seed: opt.Seed = 0,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Tell how many pods a trace has, how they arrive, how long they live."""
    from sim import trace as traces

    loaded = opt.trace_of(trace, replicate=replicate, compress=compress, thin=thin, seed=seed)
    found = asdict(traces.describe(loaded))
    if output is opt.Format.JSON:
        typer.echo(json.dumps(found))
        return
    rows = [(name, _shown(value)) for name, value in found.items() if name != "notes"]
    rows += [("note", note) for note in loaded.notes]
    opt.print_rows(rows, ("figure", "value"), output)


@trace_app.command("convert")
def convert(
    trace: opt.TraceArgument,
    out: Annotated[Path, typer.Argument(help="File to write: .csv, .csv.gz or .parquet.")],
    replicate: opt.Replicate = 1,
    compress: opt.Compress = 1.0,
    thin: opt.Thin = 1.0,
    seed: opt.Seed = 0,
) -> None:
    """Write a trace in another format, changed on the way where options say so."""
    from sim import trace as traces

    loaded = opt.trace_of(trace, replicate=replicate, compress=compress, thin=thin, seed=seed)
    traces.save(loaded, out)
    typer.echo(f"{len(loaded)} pods in {out}")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.0f}"  # noqa: PLR2004
    if isinstance(value, tuple | list):
        return ", ".join(map(_shown, value))
    return "-" if value is None else str(value)
