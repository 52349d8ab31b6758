"""Rewrite `limits.csv` from EC2's record and the published table.

    python -m instance_limits.refresh --from-ec2 --regions us-east-1,eu-west-1
    python -m instance_limits.refresh --from-json types.json --ec2-source "EC2 2026-11-23"
    python -m instance_limits.refresh --from-moto
    python -m instance_limits.refresh --table vpc_limits.csv --table-source "... v1.23.1"

Each source has its own columns, so what a run is not given stays as it was: a source that is
left out keeps all its cells, and a type that the given source no longer lists keeps the cells
it had, under the source's earlier name. The columns a node goes by are worked out afresh:

- The default network card's ENIs count, not the sum over cards.
- Where the sources contradict each other EC2's record is used, because it is dated and the
  authority, and the row is marked `conflict`; the other's values stay beside it.
- A hypervisor that only one source knows is taken from that one: EC2 leaves it out for bare
  metal, which is no contradiction.

Performs I/O, so nothing imports it. boto3 is imported only where EC2 is asked.
"""

import argparse
import csv
import gzip
import importlib.metadata
import importlib.util
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from instance_limits import Agreement, SourceLimits, hypervisor_of, source_of, truth_of

PRESENT = Path(__file__).with_name("limits.csv")

SOURCE_COLUMNS = (
    "source",
    "enis",
    "enis_total",
    "ipv4_per_eni",
    "enis_by_card",
    "default_network_card",
    "hypervisor",
    "bare_metal",
)
COLUMNS = (
    "instance_type",
    "enis",
    "ipv4_per_eni",
    "hypervisor",
    "bare_metal",
    "vcpus",
    "memory_mib",
    "network_cards",
    "default_network_card",
    "agreement",
    "used",
    *(f"ec2_{column}" for column in SOURCE_COLUMNS),
    # The published table counts the default card and has no total.
    *(f"table_{column}" for column in SOURCE_COLUMNS if column != "enis_total"),
)

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Ec2Type:
    """One record of DescribeInstanceTypes, as far as we use it."""

    limits: SourceLimits
    vcpus: int
    memory_mib: int


def ec2_type_of(record: Mapping[str, Any], source: str) -> Ec2Type:
    """Read one InstanceTypeInfo; raise KeyError for one without network cards.

    Field names are those of the EC2 API reference, "InstanceTypeInfo" and "NetworkInfo".
    """
    network = record["NetworkInfo"]
    default = network["DefaultNetworkCardIndex"]
    by_card = {
        card["NetworkCardIndex"]: card["MaximumNetworkInterfaces"]
        for card in network["NetworkCards"]
    }
    return Ec2Type(
        limits=SourceLimits(
            source=source,
            enis=by_card[default],
            enis_total=network["MaximumNetworkInterfaces"],
            ipv4_per_eni=network["Ipv4AddressesPerInterface"],
            enis_by_card=tuple(enis for _, enis in sorted(by_card.items())),
            default_network_card=default,
            hypervisor=hypervisor_of(record.get("Hypervisor") or "unknown"),
            bare_metal=record["BareMetal"],
        ),
        vcpus=record["VCpuInfo"]["DefaultVCpus"],
        memory_mib=record["MemoryInfo"]["SizeInMiB"],
    )


def table_type_of(row: Mapping[str, str], source: str) -> SourceLimits:
    """Read one row of the published table; raise KeyError or ValueError.

    Its columns: instance_type, eni_limit, ipv4_per_eni_incl_primary, hypervisor, bare_metal,
    default_network_card, max_enis_per_card (``0:8 1:8``).
    """
    by_card = dict(card.split(":") for card in row["max_enis_per_card"].split())
    return SourceLimits(
        source=source,
        enis=int(row["eni_limit"]),
        enis_total=None,
        ipv4_per_eni=int(row["ipv4_per_eni_incl_primary"]),
        enis_by_card=tuple(int(by_card[card]) for card in sorted(by_card, key=int)),
        default_network_card=int(row["default_network_card"]),
        hypervisor=hypervisor_of(row["hypervisor"]),
        bare_metal=truth_of(row["bare_metal"]),
    )


def merge(
    present: Iterable[Mapping[str, str]],
    ec2: Mapping[str, Ec2Type],
    table: Mapping[str, SourceLimits],
) -> list[Row]:
    """Return the rows of the new table: today's, with what the given sources say, sorted."""
    old = {row["instance_type"]: row for row in present}
    return [
        _merged(name, old.get(name, {}), ec2.get(name), table.get(name))
        for name in sorted({*old, *ec2, *table})
    ]


def _merged(
    name: str, old: Mapping[str, str], new_ec2: Ec2Type | None, new_table: SourceLimits | None
) -> Row:
    vcpus, memory_mib = old.get("vcpus", ""), old.get("memory_mib", "")
    ec2 = source_of(old, "ec2") if old.get("ec2_source") else None
    table = source_of(old, "table") if old.get("table_source") else None
    if new_ec2 is not None:
        ec2, vcpus, memory_mib = new_ec2.limits, str(new_ec2.vcpus), str(new_ec2.memory_mib)
    if new_table is not None:
        table = new_table
    used = ec2 or table
    assert used is not None, name
    cells: Row = dict.fromkeys(COLUMNS, "")
    cells |= _cells(used) | {
        "instance_type": name,
        "vcpus": vcpus,
        "memory_mib": memory_mib,
        "hypervisor": _known_hypervisor(ec2, table),
        "network_cards": str(len(used.enis_by_card)),
        "agreement": agreement_of(ec2, table),
        "used": "table" if ec2 is None else "ec2",
    }
    for prefix, limits in (("ec2", ec2), ("table", table)):
        if limits is not None:
            cells |= {f"{prefix}_{column}": cell for column, cell in _cells(limits).items()}
    return {column: cells[column] for column in COLUMNS}


def agreement_of(ec2: SourceLimits | None, table: SourceLimits | None) -> Agreement:
    """Tell whether two sources mean one limit, and whether they count it alike."""
    if ec2 is None or table is None:
        return "single_source"
    if _facts(ec2) != _facts(table) or _contradict(ec2.hypervisor, table.hypervisor):
        return "conflict"
    # EC2 counts the ENIs of every card, the published table those of the default card.
    return "agree" if ec2.enis_total in (None, table.enis) else "counted_differently"


def _facts(limits: SourceLimits) -> tuple[object, ...]:
    return (
        limits.enis,
        limits.ipv4_per_eni,
        limits.enis_by_card,
        limits.default_network_card,
        limits.bare_metal,
    )


def _contradict(one: str, other: str) -> bool:
    return one != other and "unknown" not in (one, other)


def _known_hypervisor(*sources: SourceLimits | None) -> str:
    """Return the first hypervisor that a source names, in order of precedence."""
    named = (limits.hypervisor for limits in sources if limits is not None)
    return next((name for name in named if name != "unknown"), "unknown")


def _cells(limits: SourceLimits) -> Row:
    total = limits.enis_total
    return {
        "source": limits.source,
        "enis": str(limits.enis),
        "enis_total": "" if total is None else str(total),
        "ipv4_per_eni": str(limits.ipv4_per_eni),
        "enis_by_card": " ".join(str(enis) for enis in limits.enis_by_card),
        "default_network_card": str(limits.default_network_card),
        "hypervisor": limits.hypervisor,
        "bare_metal": str(limits.bare_metal).lower(),
    }


def text_of(rows: Iterable[Row]) -> str:
    """Write the table as CSV with one line feed a row, on every system."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def ask_ec2(regions: Sequence[str]) -> list[Mapping[str, Any]]:
    """Ask DescribeInstanceTypes in each region, page by page, with the caller's credentials.

    No region has every type. No region named means the caller's default region. Raise
    ConnectionError for whatever keeps EC2 from answering.
    """
    # An optional dependency that only this function needs.
    import boto3  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    named: Sequence[str | None] = regions or (None,)
    records: list[Mapping[str, Any]] = []
    try:
        for region in named:
            ec2 = boto3.client("ec2", region_name=region)
            for page in ec2.get_paginator("describe_instance_types").paginate():
                records.extend(page["InstanceTypes"])
    except (BotoCoreError, ClientError) as error:
        raise ConnectionError(f"EC2 did not answer: {error}") from error
    return records


def read_json(path: Path) -> list[Mapping[str, Any]]:
    """Read records as `aws ec2 describe-instance-types` prints them, or keyed by name."""
    data = path.read_bytes()
    loaded = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    return list(loaded.get("InstanceTypes", loaded.values()))


def moto_json() -> Path:
    """Find the dump of DescribeInstanceTypes that moto carries; raise FileNotFoundError."""
    spec = importlib.util.find_spec("moto")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("moto is not installed")
    folder = Path(spec.origin).parent / "ec2" / "resources"
    for name in ("instance_types.json", "instance_types.json.gz"):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{folder} has no instance_types.json")


def by_name(records: Iterable[Mapping[str, Any]], source: str) -> dict[str, Ec2Type]:
    """Index records by type; raise ValueError where two regions contradict each other.

    Regions have not differed so far; if they do, a person should choose the regions to ask.
    """
    types: dict[str, Ec2Type] = {}
    for record in records:
        name = record["InstanceType"]
        found = ec2_type_of(record, source)
        if types.setdefault(name, found) != found:
            raise ValueError(f"{name}: regions differ: {types[name]} and {found}")
    return types


def read_csv(path: Path) -> list[Row]:
    """Read a table; one that is not there yet is empty."""
    if not path.exists():
        return []
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m instance_limits.refresh", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    ec2 = made.add_mutually_exclusive_group()
    ec2.add_argument("--from-ec2", action="store_true", help="ask DescribeInstanceTypes")
    ec2.add_argument("--from-json", type=Path, metavar="FILE", help="read such an answer")
    ec2.add_argument("--from-moto", action="store_true", help="read the answer moto carries")
    made.add_argument("--regions", default="", help="comma-separated, with --from-ec2")
    made.add_argument("--ec2-source", metavar="NAME", help="what the rows call this record")
    made.add_argument("--table", type=Path, metavar="CSV", help="read the published table")
    made.add_argument("--table-source", metavar="NAME", help="its name and version")
    made.add_argument("--present", type=Path, default=PRESENT, help="the table to start from")
    made.add_argument("--out", type=Path, default=PRESENT, help="where to write the new one")
    return made


def read_ec2(options: argparse.Namespace) -> dict[str, Ec2Type]:
    """Read the EC2 records the command line names, if it names any."""
    if options.from_ec2:
        regions = [region for region in options.regions.split(",") if region]
        asked = datetime.now(tz=UTC).date().isoformat()
        return by_name(ask_ec2(regions), options.ec2_source or f"EC2 {asked}")
    if options.from_moto:
        source = f"moto {importlib.metadata.version('moto')}"
        return by_name(read_json(moto_json()), options.ec2_source or source)
    if options.from_json:
        source = options.ec2_source or options.from_json.name
        return by_name(read_json(options.from_json), source)
    return {}


def read_table(options: argparse.Namespace) -> dict[str, SourceLimits]:
    """Read the published table the command line names, if it names one."""
    if options.table is None:
        return {}
    if not options.table.exists():
        raise FileNotFoundError(f"{options.table}: no such table")
    source = options.table_source or options.table.stem
    rows = read_csv(options.table)
    return {row["instance_type"]: table_type_of(row, source) for row in rows}


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the table as the command line says, and return the exit code."""
    options = parser().parse_args(arguments)
    try:
        rows = merge(read_csv(options.present), read_ec2(options), read_table(options))
    except (OSError, ImportError, KeyError, ValueError) as error:
        sys.stderr.write(f"instance_limits.refresh: {type(error).__name__}: {error}\n")
        return 2
    options.out.write_text(text_of(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
