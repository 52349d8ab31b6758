"""What the commands share: options, their meaning, and how figures are shown."""

import csv
import io
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from cni.allocator.behaviour import PRESETS, Behaviour
from cni.settings import Settings, parse_assignments

if TYPE_CHECKING:
    from sim.node_type import NodeType
    from sim.scenario import SubnetPlan
    from sim.trace import Trace

SHOW_PROGRESS_AFTER_S = 2.0


class Format(StrEnum):
    """How a command prints."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class BehaviourName(StrEnum):
    """Whose allocator decides."""

    NATIVE = "native"
    UPSTREAM = "upstream"

    @property
    def preset(self) -> Behaviour:
        """The behaviour of that name."""
        return PRESETS[self.value]


class PlacementName(StrEnum):
    """How pods without a node are placed."""

    SPREAD = "spread"
    PACK = "pack"


Instance = Annotated[
    str | None, typer.Option("--instance", help="Instance type, such as m5.large.", metavar="TYPE")
]
MaxEnis = Annotated[
    int | None,
    typer.Option("--max-enis", help="ENIs of the instance, in place of --instance.", metavar="N"),
]
IpsPerEni = Annotated[
    int | None,
    typer.Option(
        "--ips-per-eni",
        help="IPv4 addresses per ENI, the primary one included (m5.large has 10).",
        metavar="N",
    ),
]
MaxPods = Annotated[
    int | None,
    typer.Option("--max-pods", help="The kubelet's max-pods, host-network pods included."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A setting of the plug-in by its environment variable; repeatable.",
        metavar="KEY=VALUE",
    ),
]
BehaviourOption = Annotated[
    BehaviourName,
    typer.Option(
        "--behaviour",
        help="native: our own daemon. upstream: amazon-vpc-cni-k8s v1.23.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.", min=0)]
Nodes = Annotated[int, typer.Option("--nodes", help="Number of nodes.", min=1)]
Subnets = Annotated[
    list[str],
    typer.Option(
        "--subnet",
        help="A subnet; repeatable. CIDR,used=0.4 gives a share (or a count) to others.",
        metavar="CIDR",
    ),
]
TraceArgument = Annotated[
    Path, typer.Argument(help="Pods that come and go: CSV, Parquet, or Alibaba's openb CSV.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for summary.json, the record and report.html."),
]
OutputFormat = Annotated[Format, typer.Option("--format", help="How to print.")]
Replicate = Annotated[
    int, typer.Option("--replicate", help="Overlay the trace with itself so many times.", min=1)
]
Compress = Annotated[
    float,
    typer.Option("--compress", help="Divide all times (arrivals and lives) by this."),
]
Thin = Annotated[float, typer.Option("--thin", help="Keep this share of the pods, by chance.")]
IgnoreRequests = Annotated[
    bool, typer.Option("--ignore-requests", help="Place by max-pods alone, not by CPU and memory.")
]
PlacementOption = Annotated[
    PlacementName, typer.Option("--placement", help="Where the trace names no nodes.")
]
Cold = Annotated[
    bool,
    typer.Option("--cold", help="Start all daemons at the trace's zero, instead of long before."),
]
Checks = Annotated[
    bool,
    typer.Option("--checks/--no-checks", help="Audit every event; a violation stops the run."),
]
Numbers = Annotated[
    Path | None,
    typer.Option(
        "--numbers", help="TOML file with EC2 latencies and limits that replace the built-in ones."
    ),
]


def node_type_of(instance: str | None, max_enis: int | None, ips_per_eni: int | None) -> "NodeType":
    """Return the kind of node the options name; ValueError where they name none or two."""
    from sim import node_type

    if instance is not None and max_enis is None and ips_per_eni is None:
        return node_type.named(instance)
    if instance is None and max_enis is not None and ips_per_eni is not None:
        return node_type.explicit(max_enis, ips_per_eni)
    raise ValueError("name the node with --instance TYPE, or with --max-enis N --ips-per-eni N")


def settings_of(pairs: Iterable[str] | None, behaviour: Behaviour) -> Settings:
    """Read settings as strictly as the behaviour does."""
    return parse_assignments(pairs or (), lenient=behaviour.name == "upstream")


def subnets_of(texts: Sequence[str]) -> "tuple[SubnetPlan, ...]":
    """Read --subnet values; ValueError says what is wrong."""
    from sim.scenario import SubnetPlan

    plans = []
    for text in texts:
        cidr, _, rest = text.partition(",")
        used = 0.0
        if rest:
            key, _, value = rest.partition("=")
            try:
                used = float(value)
            except ValueError:
                used = -1.0
            if key != "used" or not used >= 0:
                raise ValueError(f"--subnet {text}: after the CIDR comes used=SHARE or used=COUNT")
        plans.append(SubnetPlan(cidr, used))
    return tuple(plans)


def load_trace(path: Path) -> "Trace":
    """Load a trace as it is."""
    from sim import trace as traces

    return traces.load(path)


def changed(trace: "Trace", *, replicate: int, compress: float, thin: float, seed: int) -> "Trace":
    """Change a trace as the options say: replicate, compress, thin, in this order.

    Notes on what was done follow those the trace came with.
    """
    from sim import trace as traces

    if not 0 < compress < float("inf"):
        raise ValueError(f"--compress {compress:g}: allowed is a number above 0")
    if not 0 < thin <= 1:
        raise ValueError(f"--thin {thin:g}: allowed is a share above 0, up to 1")
    if replicate > 1:
        trace = traces.replicate(trace, replicate, seed=seed)
    if compress != 1:
        trace = traces.compress(trace, compress)
    if thin != 1:
        trace = traces.thin(trace, thin, seed=seed)
    return trace


def command_line() -> tuple[str, ...]:
    """Return the words of this command, for reports."""
    return ("warmbench", *sys.argv[1:])


def warn(lines: Iterable[str]) -> None:
    """Tell warnings on standard error."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for line in lines:
        console.print(f"warning: {line}")


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the remaining time on standard error, once something takes long."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task(what, total=total)
    started = time.monotonic()
    shown = False

    def advance(done: int) -> None:
        nonlocal shown
        if not shown and time.monotonic() - started > SHOW_PROGRESS_AFTER_S:
            shown = True
            bar.start()
        bar.update(task, completed=done)

    try:
        yield advance
    finally:
        if shown:
            # Ctrl-C may come in the middle of `start`, when there is nothing to take down yet.
            with suppress(IndexError):
                bar.stop()


def print_rows(
    rows: Sequence[Sequence[object]], heads: Sequence[str], form: Format, *, title: str = ""
) -> None:
    """Print rows as a table, as CSV, or as one JSON object per line."""
    if form is Format.JSON:
        for row in rows:
            typer.echo(json.dumps(dict(zip(heads, row, strict=True))))
        return
    if form is Format.CSV:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows(rows)
        typer.echo(text.getvalue(), nl=False)
        return
    console = Console(highlight=False, markup=False)
    if title:
        # A title of the table's own would be folded to the table's width.
        console.print(title)
    table = Table(show_edge=False, pad_edge=False)
    for head, example in zip(heads, rows[0] if rows else heads, strict=True):
        number = isinstance(example, int | float)
        # Names stay whole; what is told of them runs over several lines rather than be cut.
        name = not number and not table.columns
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(head, justify=justify, no_wrap=name, overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console.print(table)


def print_facts(rows: Iterable[tuple[str, str]]) -> None:
    """Print facts below each other: what, and its value."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def quoted(words: Sequence[str]) -> str:
    """Return words ready for a shell."""
    return shlex.join(words)
