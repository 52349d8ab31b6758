"""The commands that run the allocator: node, replay, compare."""

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sim import cli_options as opt

if TYPE_CHECKING:
    from sim.record import RunRecord
    from sim.scenario import Scenario
    from sim.summary import Summary
    from sim.trace import Trace

NODE_COLUMNS = (
    "pods",
    "enis",
    "addresses",
    "prefixes",
    "assigned",
    "available",
    "free_prefixes",
    "per_eni",
    "calls",
    "refused",
    "settled",
)

QUIET = {"/28s": 0, "free /28s": 0, "refused": 0, "settled": "yes"}
"""Columns of the table that are left out where every row says the same: nothing of note."""


def node(
    pods: Annotated[
        str,
        typer.Option("--pods", help="Pod counts in turn, such as 0,5,9.", metavar="N,N,..."),
    ],
    instance: opt.Instance = None,
    max_enis: opt.MaxEnis = None,
    ips_per_eni: opt.IpsPerEni = None,
    max_pods: opt.MaxPods = None,
    settings: opt.Set = None,
    burst: Annotated[
        bool, typer.Option("--burst", help="All new pods at once, not one by one.")
    ] = False,
    settle: Annotated[
        float,
        typer.Option("--settle", help="Seconds from the last pod change to the report.", min=0),
    ] = 1200.0,
    seed: opt.Seed = 0,
    behaviour: opt.BehaviourOption = opt.BehaviourName.NATIVE,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Tell what one node holds at each pod count.

    EC2 answers at once and the subnet has no end, so that what shows is the setting's own rule.
    """
    from sim.one_node import hold
    from sim.tables import kind

    node_type = opt.node_type_of(instance, max_enis, ips_per_eni)
    chosen = opt.settings_of(settings, behaviour.preset)
    opt.warn(chosen.warnings)
    holdings = []
    for holding in hold(
        node_type,
        chosen,
        _counts(pods),
        behaviour=behaviour.preset,
        burst=burst,
        settle_s=settle,
        seed=seed,
        max_pods=max_pods,
    ):
        if output is opt.Format.JSON:
            typer.echo(json.dumps(holding.as_dict()))
        holdings.append(holding.as_dict())
    if output is opt.Format.JSON:
        return
    if output is opt.Format.CSV:
        rows = [[_cell(holding[name]) for name in NODE_COLUMNS] for holding in holdings]
        opt.print_rows(rows, NODE_COLUMNS, output)
        return
    title = f"{kind(node_type.name)}, {behaviour.value}, {chosen.target}"
    told = [_told(holding) for holding in holdings]
    heads = [
        head
        for head in told[0]
        if head not in QUIET or any(row[head] != QUIET[head] for row in told)
    ]
    opt.print_rows([[row[head] for head in heads] for row in told], heads, output, title=title)


def _told(holding: dict[str, Any]) -> dict[str, object]:
    """Return what a terminal of 80 columns has room for: runs of equal ENIs, calls in all."""
    runs = ((size, len(list(same))) for size, same in groupby(holding["per_eni"]))
    return {
        "pods": holding["pods"],
        "ENIs": holding["enis"],
        "addresses": holding["addresses"],
        "free": holding["available"],
        "/28s": holding["prefixes"],
        "free /28s": holding["free_prefixes"],
        "per ENI": ", ".join(f"{size} x{many}" if many > 1 else str(size) for size, many in runs),
        "EC2 calls": sum(holding["calls"].values()),
        "refused": holding["refused"],
        "settled": _cell(holding["settled"]),
    }


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--pods {text}: write whole numbers with commas, such as 0,5,9") from None
    if min(counts) < 0 or max(counts) > 100_000:  # noqa: PLR2004 - no node comes near
        raise ValueError(f"--pods {text}: allowed are 0 to 100,000")
    return counts


def _cell(value: object) -> object:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{api}={count}" for api, count in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


def replay(
    trace: opt.TraceArgument,
    subnet: opt.Subnets,
    instance: opt.Instance = None,
    max_enis: opt.MaxEnis = None,
    ips_per_eni: opt.IpsPerEni = None,
    nodes: opt.Nodes = 10,
    max_pods: opt.MaxPods = None,
    settings: opt.Set = None,
    behaviour: opt.BehaviourOption = opt.BehaviourName.NATIVE,
    seed: opt.Seed = 0,
    replicate: opt.Replicate = 1,
    compress: opt.Compress = 1.0,
    thin: opt.Thin = 1.0,
    ignore_requests: opt.IgnoreRequests = False,
    placement: opt.PlacementOption = opt.PlacementName.SPREAD,
    cold: opt.Cold = False,
    checks: opt.Checks = True,
    numbers: opt.Numbers = None,
    out: opt.Out = None,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Replay a trace of pods under one setting.

    Prints how many addresses the nodes held, how long pods waited, and which calls EC2 got.
    """
    from sim.metrics import summarise
    from sim.tables import headline, summary_rows

    loaded = opt.load_trace(trace)
    pods = opt.changed(loaded, replicate=replicate, compress=compress, thin=thin, seed=seed)
    scenario = _scenario(locals(), settings)
    opt.warn(scenario.warnings)
    tell_trace(trace, loaded, pods)
    record = run_with_progress(scenario, pods, "replaying")
    summary = summarise(record)
    if out is not None:
        write_run(out, record)
    _print_summary(summary, headline(summary), summary_rows(summary), output)
    tell_where(out)


def compare(
    trace: opt.TraceArgument,
    subnet: opt.Subnets,
    a: Annotated[
        str, typer.Option("--a", help="Settings of the first run.", metavar="KEY=VALUE,...")
    ],
    b: Annotated[
        str, typer.Option("--b", help="Settings of the second run.", metavar="KEY=VALUE,...")
    ],
    instance: opt.Instance = None,
    max_enis: opt.MaxEnis = None,
    ips_per_eni: opt.IpsPerEni = None,
    nodes: opt.Nodes = 10,
    max_pods: opt.MaxPods = None,
    settings: opt.Set = None,
    behaviour: opt.BehaviourOption = opt.BehaviourName.NATIVE,
    behaviour_b: Annotated[
        opt.BehaviourName | None,
        typer.Option("--behaviour-b", help="Behaviour of the second run, where it differs."),
    ] = None,
    seed: opt.Seed = 0,
    replicate: opt.Replicate = 1,
    compress: opt.Compress = 1.0,
    thin: opt.Thin = 1.0,
    ignore_requests: opt.IgnoreRequests = False,
    placement: opt.PlacementOption = opt.PlacementName.SPREAD,
    cold: opt.Cold = False,
    checks: opt.Checks = True,
    numbers: opt.Numbers = None,
    out: opt.Out = None,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Replay a trace under two settings and say which to deploy.

    Both runs meet the same pods and the same chance. A tick marks the better figure, where the
    two differ by 1 % or more.
    """
    from sim.metrics import summarise
    from sim.verdict import verdict

    loaded = opt.load_trace(trace)
    pods = opt.changed(loaded, replicate=replicate, compress=compress, thin=thin, seed=seed)
    options = locals()
    scenarios = []
    for side, own, who in (("a", a, behaviour), ("b", b, behaviour_b or behaviour)):
        pairs = [*(settings or ()), *_pairs(own)]
        scenario = _scenario(options | {"behaviour": who}, pairs)
        opt.warn(f"{side}: {line}" for line in scenario.warnings)
        scenarios.append(scenario)
    tell_trace(trace, loaded, pods)
    records = tuple(
        run_with_progress(scenario, pods, f"replaying {side}")
        for side, scenario in zip("ab", scenarios, strict=True)
    )
    one, two = records
    summaries = summarise(one), summarise(two)
    if out is not None:
        _write(out, {"a": one, "b": two}, (one, two))
    _print_comparison(summaries, output, verdict(*summaries))
    tell_where(out)


def _pairs(text: str) -> list[str]:
    """Split KEY=VALUE,KEY=VALUE; a value may hold commas, a part without = belongs to it."""
    pairs: list[str] = []
    for part in text.split(","):
        if "=" in part or not pairs:
            pairs.append(part)
        else:
            pairs[-1] += f",{part}"
    return [pair for pair in pairs if pair]


def _scenario(options: dict[str, object], pairs: Sequence[str] | None) -> "Scenario":
    """Make a scenario of a command's options, which are named alike in replay and compare."""
    from sim.cloud_numbers import CloudNumbers
    from sim.scenario import scenario_for

    behaviour = options["behaviour"]
    placement = options["placement"]
    assert isinstance(behaviour, opt.BehaviourName)
    assert isinstance(placement, opt.PlacementName)
    return scenario_for(
        opt.node_type_of(options["instance"], options["max_enis"], options["ips_per_eni"]),  # type: ignore[arg-type]
        opt.settings_of(pairs, behaviour.preset),
        subnets=opt.subnets_of(options["subnet"]),  # type: ignore[arg-type]
        behaviour=behaviour.preset,
        nodes=options["nodes"],  # type: ignore[arg-type]
        max_pods=options["max_pods"],  # type: ignore[arg-type]
        seed=options["seed"],  # type: ignore[arg-type]
        placement=placement.value,
        ignore_requests=bool(options["ignore_requests"]),
        warm=not options["cold"],
        checks=bool(options["checks"]),
        numbers=CloudNumbers.load(options["numbers"]),  # type: ignore[arg-type]
        command=opt.command_line(),
    )


def run_with_progress(scenario: "Scenario", trace: "Trace", what: str) -> "RunRecord":
    """Run, with a bar once it takes long."""
    from sim.simulation import run

    with opt.progress_bar(what, len(trace)) as progress:
        return run(scenario, trace, progress=progress)


def write_run(out: Path, record: "RunRecord") -> None:
    """Write all files of one run into a folder."""
    _write(out, {"": record}, record)


def _write(
    out: Path, records: "dict[str, RunRecord]", shown: "RunRecord | tuple[RunRecord, RunRecord]"
) -> None:
    """Write all files of a run or of two into a folder; an interrupt leaves none of them."""
    from sim import report, store
    from sim.metrics import summarise

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=out) as name:
        draft = Path(name)
        for side, record in records.items():
            folder = draft / side
            folder.mkdir(exist_ok=True)
            text = json.dumps(summarise(record).as_dict(), indent=2)
            (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
            store.save(record, folder / "record")
        report.write_report(shown, draft / "report.html")
        for made in sorted(draft.iterdir()):
            target = out / made.name
            if target.is_dir():
                shutil.rmtree(target)
            made.replace(target)


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        _say(f"note: {note}")


def _say(line: str) -> None:
    """Tell something beside the figures, on standard error."""
    console = Console(stderr=True, highlight=False, markup=False)
    console.print(line, soft_wrap=not console.is_terminal)


def tell_trace(path: Path, loaded: "Trace", pods: "Trace") -> None:
    """Say in a line what is replayed, then what is ignored and what this command changed."""
    from sim.sources.openb import IGNORED
    from sim.tables import number, seconds

    noted = len(loaded.notes)
    line = f"trace: {path.name}, {number(len(pods))} pods over {seconds(pods.end_s)}"
    if noted:
        notes = "1 note" if noted == 1 else f"{noted} notes"
        told = "tells it" if noted == 1 else "lists them"
        line += f" ({notes}; `warmbench trace describe` {told})"
    _say(line)
    _tell([note for note in loaded.notes if note.endswith(IGNORED)])
    _tell(pods.notes[noted:])


def tell_where(out: Path | None) -> None:
    """Say where the report is."""
    if out is not None:
        _say(f"Open {out / 'report.html'} in a browser.")


def _print_summary(
    summary: "Summary", head: str, rows: list[tuple[str, str]], output: opt.Format
) -> None:
    if output is opt.Format.JSON:
        typer.echo(json.dumps(summary.as_dict(), indent=2))
        return
    if output is opt.Format.CSV:
        opt.print_rows(rows, ("figure", "value"), output)
        return
    console = Console(highlight=False, markup=False)
    console.print(head)
    console.print()
    opt.print_facts(rows)


def _print_comparison(
    summaries: "tuple[Summary, Summary]", output: opt.Format, answer: object
) -> None:
    from sim.tables import comparison_rows
    from sim.verdict import Verdict

    assert isinstance(answer, Verdict)
    one, two = summaries
    if output is opt.Format.JSON:
        both = {
            "a": one.as_dict(),
            "b": two.as_dict(),
            "verdict": {
                "kind": answer.kind,
                "winner": answer.winner,
                "headline": answer.headline,
                "price": answer.price,
            },
        }
        typer.echo(json.dumps(both, indent=2))
        return
    rows = comparison_rows(one, two)
    if output is opt.Format.CSV:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("figure", "a", "b", "difference"), *rows])
        typer.echo(text.getvalue(), nl=False)
        return
    console = Console(highlight=False, markup=False)
    table = Table(show_edge=False, pad_edge=False)
    for head in ("", "A", "B", "B - A"):
        table.add_column(head, justify="left" if not head else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()
    console.print(answer.headline, style="bold")
    for line in (answer.price, *answer.reasons, *answer.caveats):
        if line:
            console.print(line)
