"""The command of a design review: plan."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cni.allocator.behaviour import Behaviour
from sim import cli_options as opt
from sim.tables import TIMES, number

if TYPE_CHECKING:
    from sim.plan import Case, Plan, Pool, Shortage, Zone

POOL_KEYS = (
    "name",
    "nodes",
    "instance",
    "max-enis",
    "ips-per-eni",
    "pods",
    "shared-pods",
    "max-pods",
)
SUBNET_KEYS = ("used", "zone", "prefixes", "reserved")
NODES_MAX = 100_000
PODS_MAX = 1_000_000

COLUMNS = (
    "case",
    "pool",
    "nodes",
    "pods",
    "enis",
    "prefixes",
    "assigned",
    "cooling",
    "warm",
    "primary",
    "held",
    "held_by_all",
    "placed",
    "fit",
)


class CaseName(StrEnum):
    """How well things must go for a plan to count as fitting."""

    BEST = "best"
    WORST = "worst"


PlannedSubnets = Annotated[
    list[str],
    typer.Option(
        "--subnet",
        help="A subnet; repeatable. After the CIDR, each after a comma: used=SHARE or COUNT of"
        " others, zone=NAME, prefixes=CIDR (a reservation for prefixes), reserved=CIDR (one"
        " that nodes cannot use).",
        metavar="CIDR",
    ),
]
Pools = Annotated[
    list[str] | None,
    typer.Option(
        "--pool",
        help="Equal nodes; repeatable, in place of the options for one pool:"
        " nodes=20,instance=m5.large,pods=15. Also name=, shared-pods=, max-pods=, max-enis=,"
        " ips-per-eni=, and settings (WARM_IP_TARGET=5) on top of --set.",
        metavar="KEY=VALUE,...",
    ),
]
PlannedNodes = Annotated[int | None, typer.Option("--nodes", help="Number of nodes.")]
Pods = Annotated[
    int | None,
    typer.Option(
        "--pods",
        help="Pods with an address on every node, those of DaemonSets among them, without"
        " those on the host's network.",
    ),
]
SharedPods = Annotated[
    int | None, typer.Option("--shared-pods", help="Pods spread over all nodes, besides.")
]
Replaced = Annotated[
    float,
    typer.Option(
        "--replaced",
        help="Share of a node's pods replaced within one cool-down, at worst"
        " (maxSurge of a Deployment is 0.25).",
    ),
]
Require = Annotated[
    CaseName, typer.Option("--require", help="Exit 1 where the plan does not fit in this case.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Short for --format json.")]


def plan(
    subnet: PlannedSubnets,
    pool: Pools = None,
    nodes: PlannedNodes = None,
    instance: opt.Instance = None,
    max_enis: opt.MaxEnis = None,
    ips_per_eni: opt.IpsPerEni = None,
    pods: Pods = None,
    shared_pods: SharedPods = None,
    max_pods: opt.MaxPods = None,
    settings: opt.Set = None,
    behaviour: opt.BehaviourOption = opt.BehaviourName.NATIVE,
    replaced: Replaced = 0.25,
    require: Require = CaseName.WORST,
    numbers: opt.Numbers = None,
    seed: opt.Seed = 0,
    output: opt.OutputFormat = opt.Format.TABLE,
    as_json: AsJson = False,
) -> None:
    """Tell whether nodes fit into subnets, at best and at worst.

    No pod comes or goes over time here; `replay` does that. best: nodes grew to their pods and
    rest. worst: nodes were full before, the pods that stayed are scattered over ENIs and
    prefixes, and some are being replaced. Nodes are dealt to the zones in turn; a subnet without
    a zone is one of its own. Exit 1 where the plan does not fit.
    """
    from sim import plan as plans
    from sim.cloud_numbers import CloudNumbers

    single = {
        "nodes": nodes,
        "instance": instance,
        "max-enis": max_enis,
        "ips-per-eni": ips_per_eni,
        "pods": pods,
        "shared-pods": shared_pods,
        "max-pods": max_pods,
    }
    answer = plans.plan(
        pools_of(pool or (), single, settings or (), behaviour.preset),
        zones_of(subnet),
        behaviour=behaviour.preset,
        replaced=replaced,
        numbers=CloudNumbers.load(numbers),
        seed=seed,
    )
    opt.warn(answer.warnings)
    if as_json or output is opt.Format.JSON:
        typer.echo(json.dumps(_told(answer, behaviour.value, replaced), indent=2))
    elif output is opt.Format.CSV:
        opt.print_rows(_rows(answer), COLUMNS, output)
    else:
        _print(answer)
    if not answer.fits(require.value):
        raise typer.Exit(1)


# From words to pools and subnets.


def pools_of(
    texts: Sequence[str],
    single: Mapping[str, object],
    settings: Sequence[str],
    behaviour: Behaviour,
) -> "list[Pool]":
    """Read --pool values, or the options that describe one pool; ValueError says what is wrong."""
    given = [f"--{key}" for key, value in single.items() if value is not None]
    if texts and given:
        raise ValueError(f"{given[0]} and --pool: describe one pool by options, or each by --pool")
    if not texts:
        words = {key: str(value) for key, value in single.items() if value is not None}
        return [_pool(words, settings, behaviour, "--nodes N --instance TYPE --pods N")]
    pools = [_pool(*_pool_words(text, settings), behaviour, f"--pool {text}") for text in texts]
    names = [pool.name for pool in pools]
    return [
        replace(pool, name=f"{pool.name} #{names[: at + 1].count(pool.name)}")
        if names.count(pool.name) > 1
        else pool
        for at, pool in enumerate(pools)
    ]


def _pool_words(text: str, settings: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Part a pool's own keys from its settings, which replace those for all pools."""
    words: dict[str, str] = {}
    own: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        into = own if re.fullmatch("[A-Z][A-Z0-9_]+", key) else words
        if not equals or (into is words and key not in POOL_KEYS):
            raise ValueError(
                f"--pool {text}: {part!r} is not KEY=VALUE with KEY one of {', '.join(POOL_KEYS)}"
                " or a setting such as WARM_IP_TARGET"
            )
        if key in into:
            raise ValueError(f"--pool {text}: {key} is given twice")
        into[key] = value
    shared = [pair for pair in settings if pair.partition("=")[0] not in own]
    return words, shared + [f"{key}={value}" for key, value in own.items()]


def _pool(
    words: dict[str, str], settings: Sequence[str], behaviour: Behaviour, where: str
) -> "Pool":
    from sim.plan import Pool

    def whole(key: str, lowest: int, highest: int) -> int | None:
        if key not in words:
            return None
        try:
            value = int(words[key])
        except ValueError:
            value = lowest - 1
        if not lowest <= value <= highest:
            raise ValueError(
                f"{where}: {key}={words[key]}: allowed is a whole number"
                f" from {lowest} to {highest:,}"
            )
        return value

    nodes = whole("nodes", 1, NODES_MAX)
    if nodes is None or not {"pods", "shared-pods"} & words.keys():
        missing = "nodes" if nodes is None else "pods or shared-pods"
        raise ValueError(f"{where}: say {missing}: a plan is about nodes with pods")
    node_type = opt.node_type_of(
        words.get("instance"), whole("max-enis", 1, 128), whole("ips-per-eni", 2, 256)
    )
    return Pool(
        words.get("name", node_type.name),
        node_type,
        opt.settings_of(settings, behaviour),
        nodes,
        whole("pods", 0, 100_000) or 0,
        whole("shared-pods", 0, PODS_MAX) or 0,
        whole("max-pods", 1, 100_000),
    )


def zones_of(texts: Sequence[str]) -> "list[Zone]":
    """Read --subnet values; ValueError says what is wrong."""
    from sim.plan import Zone
    from sim.scenario import SubnetPlan
    from sim.subnet import Reservation, ReservationType

    zones = []
    for text in texts:
        cidr, *parts = text.split(",")
        used, zone = 0.0, ""
        reservations = []
        for part in parts:
            key, _, value = part.partition("=")
            if key not in SUBNET_KEYS or not value:
                raise ValueError(
                    f"--subnet {text}: after the CIDR comes used=SHARE or COUNT, zone=NAME,"
                    " prefixes=CIDR or reserved=CIDR"
                )
            if key == "used":
                used = _used(text, value)
            elif key == "zone":
                zone = value
            else:
                kind = ReservationType.PREFIX if key == "prefixes" else ReservationType.EXPLICIT
                reservations.append(Reservation(_reserved(text, value), kind))
        zones.append(Zone(SubnetPlan(cidr, used, tuple(reservations)), zone))
    _require_apart(zones)
    return zones


def _used(text: str, value: str) -> float:
    try:
        used = float(value)
    except ValueError:
        used = -1.0
    if not used >= 0:
        raise ValueError(f"--subnet {text}: used={value}: allowed is a share below 1 or a count")
    return used


def _reserved(text: str, value: str) -> IPv4Network:
    try:
        return IPv4Network(value)
    except ValueError as error:
        raise ValueError(f"--subnet {text}: reservation {value!r} is no network: {error}") from None


def _require_apart(zones: "Sequence[Zone]") -> None:
    from sim.subnet import parse_subnet

    networks = [parse_subnet(zone.subnet.cidr) for zone in zones]
    for at, one in enumerate(networks):
        for other in networks[:at]:
            if one.overlaps(other):
                raise ValueError(f"subnets {other} and {one} overlap")


# How the answer is told.


def _rows(answer: "Plan") -> list[tuple[object, ...]]:
    """Return a row for each case and each group of equal nodes."""
    rows: list[tuple[object, ...]] = []
    for name, case in (("best", answer.best), ("worst", answer.worst)):
        for at, (pool, groups) in enumerate(zip(answer.pools, case.held, strict=True)):
            for group in groups:
                each = group.each.as_dict()
                total = group.nodes * each["held"]
                figures = (each[key] for key in COLUMNS[4:11])
                placed = (case.placed[at], case.fit[at])
                rows.append((name, pool.name, group.nodes, group.pods, *figures, total, *placed))
    return rows


def _told(answer: "Plan", behaviour: str, replaced: float) -> dict[str, object]:
    """Return the answer's JSON form."""
    from cni.settings import effective

    pools = [
        {
            "name": pool.name,
            "instance": pool.node_type.name,
            "nodes": pool.nodes,
            "pods": pool.pods,
            "shared_pods": pool.shared_pods,
            "max_pods": pool.pods_max,
            "addresses_max": pool.addresses_max,
            "settings": dict(effective(pool.settings)),
        }
        for pool in answer.pools
    ]
    subnets = [
        {
            "cidr": before.cidr,
            "zone": before.zone,
            "usable": usable,
            "used_by_others": usable - before.free,
            "free_prefixes": before.free_prefixes,
        }
        for before, usable in zip(answer.before, answer.usable, strict=True)
    ]
    return {
        "behaviour": behaviour,
        "replaced": replaced,
        "fits": {"best": answer.fits("best"), "worst": answer.fits("worst")},
        "misfits": list(answer.misfits),
        "warnings": list(answer.warnings),
        "pools": pools,
        "subnets": subnets,
        "best": _case_told(answer, answer.best),
        "worst": _case_told(answer, answer.worst),
    }


def _case_told(answer: "Plan", case: "Case") -> dict[str, object]:
    return {
        "addresses": sum(case.addresses(at) for at in range(len(answer.pools))),
        "enis": case.enis,
        "pools": [
            {
                "name": pool.name,
                "addresses": case.addresses(at),
                "placed": case.placed[at],
                "fit": case.fit[at],
                "nodes": [
                    {"nodes": group.nodes, "pods": group.pods, **group.each.as_dict()}
                    for group in case.held[at]
                ],
            }
            for at, pool in enumerate(answer.pools)
        ],
        "subnets": [
            {"cidr": left.cidr, "free": left.free, "free_prefixes": left.free_prefixes}
            for left in case.left
        ],
        "shortages": [_shortage_told(one) for one in case.shortages],
        "runs_out_first": _shortage_told(case.first_out),
    }


def _shortage_told(one: "Shortage") -> dict[str, object]:
    return {"what": one.what, "where": one.where, "after_nodes": one.nodes}


def _print(answer: "Plan") -> None:
    console = Console(highlight=False, markup=False)
    console.print(_verdict(answer), style="bold")
    console.print()
    for table in (_nodes_table(answer), _pools_table(answer), _subnets_table(answer)):
        console.print(table)
        console.print()
    for name, case in (("best", answer.best), ("worst", answer.worst)):
        console.print(f"Runs out first, at {name}: {_runs_out(answer, case)}")


def _verdict(answer: "Plan") -> str:
    if answer.misfits:
        return "\n".join(f"It does not fit. {line}." for line in answer.misfits)
    if answer.fits("worst"):
        return "It fits, at worst too."
    case, when = (
        (answer.worst, "It fits at best, not at worst")
        if answer.fits("best")
        else (answer.best, "It does not fit")
    )
    asked = sum(pool.nodes for pool in answer.pools)
    room = f"{number(sum(case.placed))} of {number(asked)} nodes find room"
    return f"{when}: {room}; short of {', '.join(map(str, case.shortages))}."


def _runs_out(answer: "Plan", case: "Case") -> str:
    found = case.first_out
    ratio = found.nodes / sum(pool.nodes for pool in answer.pools)
    return f"{found}, after {number(found.nodes)} nodes ({ratio:.2f} {TIMES} the plan)"


def _table(first: str, heads: Sequence[str]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column(first, overflow="fold")
    for head in heads:
        table.add_column(head, justify="left" if head == "case" else "right")
    return table


def _nodes_table(answer: "Plan") -> Table:
    """Lay out what each node holds; a column of prefixes only where there are some."""
    rows = _rows(answer)
    prefixes = any(row[5] for row in rows)
    heads = ["pods", "cooling", "warm", "primary", "held", "by all"]
    table = _table("each node", ["case", *(["/28s"] if prefixes else []), *heads])
    for at, pool in enumerate(answer.pools):
        for name, case in (("best", answer.best), ("worst", answer.worst)):
            for group in case.held[at]:
                each = group.each
                cells = [each.assigned, each.cooling, each.warm, each.enis, each.addresses]
                if prefixes:
                    cells.insert(0, each.prefixes)
                cells.append(group.nodes * each.addresses)
                told = (f"{cell:,}" for cell in cells)
                table.add_row(f"{group.nodes:,} {TIMES} {pool.name}", name, *told)
    return table


def _pools_table(answer: "Plan") -> Table:
    """Lay out the limits of each pool: of its nodes, and of where they go."""
    heads = ("max-pods", "addresses for pods", "nodes", "fit at best", "fit at worst")
    table = _table("pool", heads)
    for at, pool in enumerate(answer.pools):
        fit = (answer.best.fit[at], answer.worst.fit[at])
        cells = (pool.pods_max, pool.addresses_max, pool.nodes, *fit)
        table.add_row(pool.name, *(f"{cell:,}" for cell in cells))
    return table


def _subnets_table(answer: "Plan") -> Table:
    """Lay out what each subnet has, and has left: addresses, and whole /28s."""
    table = _table("subnet", ("usable", "free before", "left at best", "left at worst"))
    lefts = zip(answer.before, answer.usable, answer.best.left, answer.worst.left, strict=True)
    for before, usable, best, worst in lefts:
        zone = "" if before.zone == before.cidr else f" ({before.zone})"
        cells = (_left(one.free, one.free_prefixes) for one in (before, best, worst))
        table.add_row(f"{before.cidr}{zone}", number(usable), *cells)
    return table


def _left(free: int, prefixes: int) -> str:
    return f"{free:,}, {prefixes:,} /28s" if prefixes else f"{free:,}, no /28"
