"""The commands that try many settings: sweep and recommend."""

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sim import cli_options as opt

if TYPE_CHECKING:
    import pandas as pd

    from cni.settings import Settings
    from sim.grid import Cell, Place
    from sim.recommend import Recommendation
    from sim.scenario import Scenario
    from sim.sweep import Bench
    from sim.trace import Trace

ROWS_SHOWN = 20

Grid = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        help="Values to try, crossed with all other --grid: WARM_IP_TARGET=1,2,5 or 0..20/5, also"
        " instance, behaviour, nodes, max-pods, seed; subnet='CIDR CIDR' parts them by blanks.",
        metavar="NAME=VALUE,...",
    ),
]
Listed = Annotated[
    list[str] | None,
    typer.Option(
        "--list",
        help="One setting to try beside those of the grid; repeatable.",
        metavar="KEY=VALUE,...",
    ),
]
Seeds = Annotated[
    int, typer.Option("--seeds", help="Runs of each setting, from --seed upwards.", min=1)
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", help="Processes; default: one for each core.", min=1)
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="Run on a Dask cluster in place of processes; needs the extra `dask`.",
        metavar="tcp://HOST:PORT",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder of finished runs, to go on from; default: OUT/cache."),
]
SweepOut = Annotated[
    Path, typer.Option("--out", help="Folder for sweep.parquet, sweep.csv and report.html.")
]
Promise = Annotated[
    str,
    typer.Option(
        "--slo",
        help="What pods are promised: limits with commas, on mean_wait, p50_wait, p90_wait,"
        " p99_wait, max_wait, refused, throttled and taken.",
        metavar="NAME<=VALUE,...",
    ),
]
Runs = Annotated[int, typer.Option("--runs", help="Runs to take, over all seeds.", min=60)]
RecommendOut = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for recommend.json, all runs and report.html."),
]


def sweep(
    trace: opt.TraceArgument,
    subnet: opt.Subnets,
    out: SweepOut,
    grid: Grid = None,
    listed: Listed = None,
    seeds: Seeds = 1,
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
    jobs: Jobs = None,
    scheduler: Scheduler = None,
    cache: Cache = None,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Replay a trace under many settings and show the best.

    All settings meet the same pods and the same chance. What was computed stays in the cache:
    a sweep that was interrupted, or is asked for more, goes on from there.
    """
    options = locals()
    pods = _pods(options)
    cells = _cells(options)
    with ExitStack() as stack:
        bench = bench_of(stack, pods, options, cache or out / "cache")
        frame = _swept(bench, cells)
        found = bench.computed, bench.asked
    _write(out, frame, pods)
    _print_sweep(frame, output)
    _say(f"{found[1]:,} runs, of these {found[0]:,} computed now; {_where(out)}")


def recommend(
    trace: opt.TraceArgument,
    subnet: opt.Subnets,
    slo: Promise = "p99_wait<=1s,refused<=0.1%,throttled<=1%",
    seeds: Seeds = 5,
    runs: Runs = 150,
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
    jobs: Jobs = None,
    scheduler: Scheduler = None,
    cache: Cache = None,
    out: RecommendOut = None,
    output: opt.OutputFormat = opt.Format.TABLE,
) -> None:
    """Find the setting that keeps a promise at the least cost.

    Tries a coarse grid, then ever finer around its best; what looks best must keep the promise
    on every seed. Exit 1 where no setting does: then it shows the nearest, and what is missing.
    """
    answer = _searched(locals())
    _print_answer(answer, output)
    if not answer.feasible:
        raise typer.Exit(1)


def _searched(options: dict[str, Any]) -> "Recommendation":
    """Search as the options say, and write what was found where they say."""
    from sim.recommend import recommend as search_best
    from sim.slo import parse_slo

    limits = parse_slo(options["slo"])
    pods = _pods(options)
    (place,) = places_of({"seed": (str(options["seed"]),)}, options)
    out: Path | None = options["out"]
    folder = options["cache"] or (None if out is None else out / "cache")
    with ExitStack() as stack:
        bench = bench_of(stack, pods, options, folder)
        progress = stack.enter_context(opt.progress_bar("searching", options["runs"]))
        answer, frame = search_best(
            bench,
            place,
            maker_of(options),
            limits,
            fixed=options["settings"] or (),
            seeds=options["seeds"],
            runs_max=options["runs"],
            progress=progress,
        )
    if out is not None:
        _write(out, frame, pods)
        text = json.dumps(answer.as_dict(), indent=2)
        (out / "recommend.json").write_text(text + "\n", encoding="utf-8")
    return answer


def _print_answer(answer: "Recommendation", output: opt.Format) -> None:
    from sim.recommend import environment_block, lines

    if output is opt.Format.JSON:
        typer.echo(json.dumps(answer.as_dict(), indent=2))
        return
    if output is opt.Format.CSV:
        opt.print_rows(lines(answer), ("what", "answer"), output)
        return
    opt.print_facts(lines(answer))
    if not answer.feasible:
        return
    typer.echo(f"\n{environment_block(answer)}\n\n{answer.deploy}")
    if answer.scenario.pool.behaviour.name == "native":
        _say(
            "Found for our own daemon (--behaviour native);"
            " where nodes run amazon-vpc-cni-k8s, ask with --behaviour upstream"
        )


def _pods(options: dict[str, Any]) -> "Trace":
    loaded = opt.load_trace(options["trace"])
    names = ("replicate", "compress", "thin", "seed")
    return opt.changed(loaded, **{name: options[name] for name in names})


def _cells(options: dict[str, Any]) -> "tuple[Cell, ...]":
    """Read all that a sweep's options say; nothing has run yet where something is refused."""
    from sim import grid

    axes: dict[str, tuple[str, ...]] = {}
    for text in options["grid"] or ():
        name, values = grid.axis_of(text)
        if axes.setdefault(name, values) != values:
            raise ValueError(f"--grid {name}: given twice")
    listed = [pairs_of(text) for text in options["listed"] or ()]
    variables = {name: axes[name] for name in axes if name not in grid.AXES}
    chosen = grid.settings_in(variables, listed, options["settings"] or ())
    return grid.cells(chosen, places_of(axes, options), maker_of(options))


def pairs_of(text: str) -> tuple[str, ...]:
    """Split KEY=VALUE,KEY=VALUE."""
    return tuple(pair for pair in text.split(",") if pair)


def places_of(axes: dict[str, tuple[str, ...]], options: dict[str, Any]) -> "list[Place]":
    """Lay the axes that are no settings across each other; an option gives the one value else."""
    from sim import grid, node_type

    if "instance" in axes:
        types = [node_type.named(name) for name in axes["instance"]]
    else:
        limits = (options[name] for name in ("instance", "max_enis", "ips_per_eni"))
        types = [opt.node_type_of(*limits)]
    subnets = [opt.subnets_of([one]) for one in axes.get("subnet", ())]
    if "seed" in axes:
        seeds = [grid.whole("seed", text) for text in axes["seed"]]
    else:
        seeds = list(range(options["seed"], options["seed"] + options["seeds"]))
    counts = [grid.whole("nodes", text, 1) for text in axes.get("nodes", ())]
    bounds: list[int | None] = [
        grid.whole("max-pods", text, 3) for text in axes.get("max-pods", ())
    ]
    return [
        grid.Place(*values)
        for values in product(
            types,
            [grid.behaviour_of(text) for text in axes.get("behaviour", ())]
            or [options["behaviour"].value],
            subnets or [opt.subnets_of(options["subnet"])],
            counts or [options["nodes"]],
            bounds or [options["max_pods"]],
            seeds,
        )
    ]


def maker_of(options: dict[str, Any]) -> "Callable[[Place, Settings], Scenario]":
    """Return what makes a cell's scenario, with everything that all cells share."""
    from cni.allocator.behaviour import PRESETS
    from sim.cloud_numbers import CloudNumbers
    from sim.scenario import scenario_for

    numbers = CloudNumbers.load(options["numbers"])

    def make(place: "Place", settings: "Settings") -> "Scenario":
        return scenario_for(
            place.node_type,
            settings,
            subnets=place.subnets,
            behaviour=PRESETS[place.behaviour],
            nodes=place.nodes,
            max_pods=place.max_pods,
            seed=place.seed,
            placement=options["placement"].value,
            ignore_requests=options["ignore_requests"],
            warm=not options["cold"],
            checks=options["checks"],
            numbers=numbers,
        )

    return make


def bench_of(
    stack: ExitStack, pods: "Trace", options: dict[str, Any], cache: Path | None
) -> "Bench":
    """Return a bench as --jobs and --scheduler say, which ends with the stack."""
    from sim.cell import CellCache
    from sim.executor import executor_for
    from sim.sweep import Bench

    chosen = executor_for(pods, jobs=options["jobs"], scheduler=options["scheduler"])
    executor = stack.enter_context(chosen)
    return Bench(pods, executor, None if cache is None else CellCache(cache))


def _swept(bench: "Bench", cells: "Sequence[Cell]") -> "pd.DataFrame":
    from sim.sweep import sweep as run_all

    with opt.progress_bar(f"{len(cells)} cells", 2 * len(cells)) as progress:
        return run_all(bench, cells, progress=progress)


def _write(out: Path, frame: "pd.DataFrame", pods: "Trace") -> None:
    """Write table and report; an interrupt leaves none of them half-written."""
    from sim import report
    from sim import sweep as sweeps
    from sim.tables import seconds

    table = sweeps.by_setting(frame)
    facts = [
        ("trace", pods.origin),
        ("pods", f"{len(pods):,} over {seconds(pods.end_s)}"),
        *((name.replace("_", "-"), ", ".join(_values(table, name))) for name in sweeps.PLACE),
        ("runs", f"{len(frame):,}"),
    ]
    command = opt.quoted(opt.command_line())
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=out) as name:
        draft = Path(name)
        sweeps.save(frame, draft)
        report.write_sweep(
            table, draft / "report.html", headline=_headline(table), facts=facts, command=command
        )
        for made in sorted(draft.iterdir()):
            made.replace(out / made.name)


def _values(table: "pd.DataFrame", name: str) -> list[str]:
    return [str(value) for value in table[name].drop_duplicates()]


def _headline(table: "pd.DataFrame") -> str:
    count = int(table["on_front"].sum())
    verb = "is" if count == 1 else "are"
    return f"{count} of {len(table)} settings {verb} on the front: none has less of both"


def _print_sweep(frame: "pd.DataFrame", output: opt.Format) -> None:
    from sim.sweep import by_setting
    from sim.tables import SWEEP_HEADS, sweep_rows

    if output is opt.Format.CSV:
        typer.echo(frame.to_csv(index=False, lineterminator="\n"), nl=False)
        return
    if output is opt.Format.JSON:
        typer.echo(frame.to_json(orient="records", lines=True), nl=False)
        return
    table = by_setting(frame)
    ran = table[table["failed"] == 0]
    chosen = ran[ran["on_front"]].to_dict("records")
    best = sweep_rows([{str(name): one[name] for name in one} for one in chosen], _varying(table))
    kept = [at for at, head in enumerate(SWEEP_HEADS) if head != "throttled" or _throttled(best)]
    shown = [[row[at] for at in kept] for row in best[:ROWS_SHOWN]]
    opt.print_rows(shown, [SWEEP_HEADS[at] for at in kept], output, title=_headline(table))
    if len(best) > ROWS_SHOWN:
        typer.echo(f"and {len(best) - ROWS_SHOWN} more in sweep.csv")
    if len(ran):
        typer.echo(_bound(ran))
    errors = frame[frame["error"] != ""]
    for setting, place, error in errors[["setting", "instance", "error"]].to_numpy()[:ROWS_SHOWN]:
        _say(f"failed: {place}, {setting}: {error}")
    if len(errors):
        _say(f"{len(errors):,} of {len(frame):,} cells failed; the others stand")


def _throttled(rows: "list[tuple[str, ...]]") -> bool:
    from sim.tables import SWEEP_HEADS, share

    return any(row[SWEEP_HEADS.index("throttled")] != share(0.0) for row in rows)


def _bound(ran: "pd.DataFrame") -> str:
    from sim.tables import number

    low, high = ran["bound"].min(), ran["bound"].max()
    told = number(low) if number(low) == number(high) else f"{number(low)} to {number(high)}"
    return f"No setting can take fewer than {told} addresses on average and let no pod wait."


def _varying(table: "pd.DataFrame") -> list[str]:
    """Return the columns of the place that tell rows apart."""
    from sim.sweep import PLACE

    return [name for name in PLACE if len(table[name].unique()) > 1 and name != "max_pods"]


def _where(out: Path) -> str:
    return f"figures and plot in {out}"


def _say(line: str) -> None:
    """Tell something beside the figures, on standard error."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(line)
