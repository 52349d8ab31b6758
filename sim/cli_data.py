"""The commands about data: limits of instance types, and traces."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim import cli_options as opt
from sim.tables import NONE, TIMES, number, seconds, share

if TYPE_CHECKING:
    from instance_limits import InstanceLimits, SourceLimits
    from sim.sources.lives import Imported
    from sim.sources.shapes import Shape

trace_app = typer.Typer(
    help="Make, describe and convert traces of pods.", no_args_is_help=True, rich_markup_mode=None
)

LIMIT_COLUMNS = (
    "type",
    "ENIs",
    "IPs per ENI",
    "addresses",
    "with prefixes",
    "vCPUs",
    "memory MiB",
    "agreement",
)
SHOWN_COLUMNS = ("type", "ENIs", "IPs per ENI", "addresses", "with prefixes", "agreement")
"""What 80 columns have room for; one type by itself shows the rest."""

AGREEMENT = {
    "agree": "both sources give the same limits",
    "counted_differently": "one limit; EC2's record adds up the ENIs of all network cards",
    "conflict": "the sources differ; EC2's own record is used",
    "single_source": "only one source knows the type",
}
SHORT_AGREEMENT = {"counted_differently": "by card", "single_source": "one only"}

FIGURES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "origin": ("made by or read from", str),
    "pods": ("pods", number),
    "span_s": ("length", seconds),
    "first_arrival_s": ("first pod comes after", seconds),
    "last_arrival_s": ("last pod comes after", seconds),
    "present_at_start": ("pods that come at the very start", number),
    "arrivals_per_minute_mean": ("pods per minute, mean", number),
    "arrivals_worst_minute": ("pods in the busiest 60 s", number),
    "arrivals_worst_5_s": ("pods in the busiest 5 s", number),
    "life_p50_s": ("life of a pod, p50", seconds),
    "life_p90_s": ("life of a pod, p90", seconds),
    "life_p99_s": ("life of a pod, p99", seconds),
    "life_mean_s": ("life of a pod, mean", seconds),
    "outliving_share": ("pods that outlive the trace", share),
    "peak_pods": ("most pods alive at once", number),
    "peak_at_s": ("  after", seconds),
    "mean_pods": ("pods alive, mean", number),
    "cpu_m_mean": ("CPU request, mean, millicores", number),
    "cpu_m_max": ("CPU request, largest, millicores", number),
    "memory_mib_mean": ("memory request, mean, MiB", number),
    "memory_mib_max": ("memory request, largest, MiB", number),
    "without_requests_share": ("pods without requests", share),
    "placed_share": ("pods whose node the trace names", share),
    "nodes": ("nodes the trace names", number),
    "peak_pods_on_a_node": ("most pods on one of these at once", number),
}
"""How each figure of a `TraceDescription` is called and written."""


def limits(
    instance: Annotated[
        str | None, typer.Argument(help="An instance type; none lists all.", metavar="TYPE")
    ] = None,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Show EC2's limits for an instance type, or for all.

    "addresses" are those pods can have with all ENIs attached: ENI primaries are not among
    them. "with prefixes" is the same where /28 prefixes are taken, 16 addresses in each slot.
    "agreement" tells whether EC2's own record and the table of amazon-vpc-cni-k8s say the same.
    """
    import instance_limits

    if instance is not None and output is opt.Format.TABLE:
        _print_type(instance_limits.get(instance))
        return
    names = instance_limits.all_types() if instance is None else [instance]
    found = [instance_limits.get(name) for name in names]
    if output is not opt.Format.TABLE:
        opt.print_rows([tuple(_limits(one).values()) for one in found], LIMIT_COLUMNS, output)
        return
    rows = []
    for one in found:
        cells = _limits(one) | {"agreement": SHORT_AGREEMENT.get(one.agreement, one.agreement)}
        if not one.prefixes:
            cells["with prefixes"] = "no"
        rows.append([cells[head] for head in SHOWN_COLUMNS])
    opt.print_rows(rows, SHOWN_COLUMNS, output)
    typer.echo("\nagreement:")
    for name, meaning in AGREEMENT.items():
        typer.echo(f"  {SHORT_AGREEMENT.get(name, name):10}{meaning}")


def _limits(found: "InstanceLimits") -> dict[str, object]:
    """Return the figures of a type by column; what it does not have is None."""
    prefixes = found.max_addresses(prefix_mode=True) if found.prefixes else None
    figures = (
        found.instance_type,
        found.enis,
        found.ipv4_per_eni,
        found.max_addresses(prefix_mode=False),
        prefixes,
        found.vcpus,
        found.memory_mib,
        found.agreement,
    )
    return dict(zip(LIMIT_COLUMNS, figures, strict=True))


def _print_type(found: "InstanceLimits") -> None:
    """Print all that is known of one type, a line for each."""
    slots = found.max_addresses(prefix_mode=False)
    per_eni = found.secondary_ips_per_eni
    machine = "bare metal" if found.bare_metal else found.hypervisor
    prefixes = f"no: it runs on {machine}"
    if found.prefixes:
        addresses = number(found.max_addresses(prefix_mode=True))
        prefixes = f"{addresses}: {number(slots)} prefixes of 16"
    rows = [
        ("type", found.instance_type),
        ("ENIs", f"{found.enis}"),
        ("IPs per ENI", f"{found.ipv4_per_eni}, the ENI's own primary address included"),
        ("addresses", f"{number(slots)} for pods: {found.enis} {TIMES} {per_eni}"),
        ("with prefixes", prefixes),
        ("hypervisor", machine),
        ("vCPUs", NONE if found.vcpus is None else number(found.vcpus)),
        ("memory", NONE if found.memory_mib is None else f"{number(found.memory_mib)} MiB"),
    ]
    if found.network_cards > 1:
        rows.append(("network cards", f"{found.network_cards}; a node uses the default one"))
    rows.append(("agreement", AGREEMENT[found.agreement]))
    rows += [(f"  {one.source}", _source(one)) for one in found.sources]
    opt.print_facts(rows)


def _source(one: "SourceLimits") -> str:
    """Return what a source says."""
    text = f"{one.enis} ENIs {TIMES} {one.ipv4_per_eni} addresses"
    if one.enis_total is not None and one.enis_total != one.enis:
        text += f" ({one.enis_total} ENIs over all cards)"
    return text


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
    """Make a trace of one of the usual shapes.

    Without a shape, lists them all; with a shape but no --out, shows its parameters.
    """
    from sim import trace as traces
    from sim.sources.shapes import SHAPES, find
    from sim.sources.shapes import generate as make

    if shape is None:
        opt.print_facts([(known.name, known.summary) for known in SHAPES.values()])
        typer.echo("\nThe parameters of each, for --set:\n")
        _print_parameters(SHAPES.values())
        return
    if out is None:
        known = find(shape)
        if settings:
            raise ValueError("name the file to write with --out FILE")
        typer.echo(f"{known.name}: {known.summary}\n")
        _print_parameters([known])
        typer.echo("\nTo make one, name the file to write with --out FILE.")
        return
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
    typer.echo(f"{number(len(made))} pods over {seconds(made.end_s)} in {out}")


def _print_parameters(shapes: "Iterable[Shape]") -> None:
    """Print what can be set; a shape's name stands beside its first parameter."""
    rows = []
    for shape in shapes:
        names = [shape.name] + [""] * len(shape.parameters)
        for name, known in zip(names, shape.parameters, strict=False):
            rows.append((name, f"{known.name}={known.default}", known.help))
    heads = ("shape", "parameter and default", "meaning")
    opt.print_rows(rows, heads, opt.Format.TABLE)


@trace_app.command("describe")
def describe(
    trace: opt.TraceArgument,
    replicate: opt.Replicate = 1,
    compress: opt.Compress = 1.0,
    thin: opt.Thin = 1.0,
    seed: opt.Seed = 0,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Tell how many pods a trace has, and how they come and go."""
    from sim import trace as traces

    loaded = opt.changed(
        opt.load_trace(trace), replicate=replicate, compress=compress, thin=thin, seed=seed
    )
    found = asdict(traces.describe(loaded))
    if output is opt.Format.JSON:
        typer.echo(json.dumps(found))
        return
    figures = {name: value for name, value in found.items() if name != "notes"}
    notes = [("note", note) for note in loaded.notes]
    if output is opt.Format.CSV:
        plain: list[tuple[str, object]] = [(name, _plain(value)) for name, value in figures.items()]
        opt.print_rows([*plain, *notes], ("figure", "value"), output)
        return
    rows = []
    for name, value in figures.items():
        told, write = FIGURES[name]
        rows.append((told, NONE if value is None else write(value)))
    opt.print_facts(rows + notes)


@trace_app.command("convert")
def convert(
    trace: opt.TraceArgument,
    out: Annotated[Path, typer.Argument(help="File to write: .csv, .csv.gz or .parquet.")],
    replicate: opt.Replicate = 1,
    compress: opt.Compress = 1.0,
    thin: opt.Thin = 1.0,
    seed: opt.Seed = 0,
) -> None:
    """Write a trace in another format.

    It is changed on the way where options say so.
    """
    from sim import trace as traces

    loaded = opt.changed(
        opt.load_trace(trace), replicate=replicate, compress=compress, thin=thin, seed=seed
    )
    traces.save(loaded, out)
    typer.echo(f"{number(len(loaded))} pods in {out}")


@trace_app.command("import")
def import_(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Where the data comes from; none lists what there is.", metavar="FORMAT"
        ),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Exported files, also gzipped; none shows how to get them.", metavar="FILE..."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write: .csv, .csv.gz or .parquet.")
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            "--drop",
            help="Leave out pods by NAMESPACE/NAME, * and ? allowed; repeatable.",
            metavar="PATTERN",
        ),
    ] = None,
    nodes: Annotated[
        bool,
        typer.Option("--nodes/--no-nodes", help="Keep pods on their nodes, or place them anew."),
    ] = True,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Make a trace of what your cluster has recorded.

    With a FORMAT alone, shows the commands that export the data, and what will be guessed.

    Host-network pods are dropped: they take no address. A pod holds its address from its first
    ADD (its binding to a node) to its DEL; a Job's pod until it completes. What was refused or
    waited is demand all the same. Whatever is guessed or dropped is counted in the table.
    """
    from sim import trace as traces

    if source is None or not files:
        _print_how_to(source, out)
        return
    if out is None:
        raise ValueError("name the file to write with --out FILE")
    traces.check_target(out, files)
    choices = traces.Choices(drop=tuple(drop or ()), nodes=nodes)
    done = 0
    with opt.progress_bar(f"reading {len(files):,} files", traces.size_of(files)) as show:

        def advance(more: int) -> None:
            nonlocal done
            done += more
            show(done)

        imported = traces.import_files(source, files, choices, advance)
    traces.save(imported.trace, out)
    _print_imported(imported, out, output)


def _print_imported(imported: "Imported", out: Path, output: opt.Format) -> None:
    """Tell what was kept, guessed and dropped."""
    rows = [(one.fate.value, one.number, one.what) for one in imported.counts]
    if output is not opt.Format.TABLE:
        opt.print_rows(rows, ("fate", "number", "what"), output)
        return
    opt.print_rows(rows, ("", "number", "of what"), output)
    typer.echo(
        f"\n{number(len(imported.trace))} pods over {seconds(imported.trace.end_s)} in {out}"
    )


def _print_how_to(source: str | None, out: Path | None) -> None:
    """Print what there is, or how to get files of one format."""
    from sim.sources import importers

    if source is None:
        opt.print_facts([(one.name, one.summary) for one in importers.IMPORTERS.values()])
        typer.echo("\nwarmbench trace import FORMAT tells how to get the files.")
        return
    found = importers.find(source)
    if out is not None:
        raise ValueError(f"name the files to import: trace import {source} FILE... --out {out}")
    typer.echo(f"{found.name}: {found.summary}\n\n{found.how_to}")


def _plain(value: object) -> object:
    """Return a figure as programs read it; what there is not is empty."""
    return f"{value:.10g}" if isinstance(value, float) else value
