"""EC2's limits as data: how many ENIs and addresses each instance type can hold.

`limits.csv` beside this file has one row per instance type: what a node may use, what each
source says, and whether they agree. `refresh` rewrites it; nothing here changes it. Sources
are EC2's own DescribeInstanceTypes record and the table that amazon-vpc-cni-k8s publishes;
where they differ both stay in the row, and the newer, EC2's record, is the one used.

Standard library only, so that whoever asks for a limit pays for nothing else. Imports
nothing of ours.
"""

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

Agreement = Literal["agree", "counted_differently", "conflict", "single_source"]
Hypervisor = Literal["nitro", "xen", "unknown"]

ADDRESSES_PER_PREFIX = 16
"""A delegated prefix is a /28 (EC2 User Guide, "Prefix delegation for network interfaces")."""


HOST_NETWORK_PODS = 2
"""aws-node and kube-proxy run on every node and take no address (eni-max-pods: the "+ 2")."""

_PODS_SMALL, _PODS_LARGE, _VCPUS_SMALL = 110, 250, 30


def max_pods(addresses: int, vcpus: int, *, prefix_mode: bool) -> int:
    """Return the kubelet's max-pods as EKS sets it, host-network pods included.

    In prefix mode EKS advises at most 110 pods on up to 30 vCPUs and 250 above.

    >>> max_pods(29 * 8, 16, prefix_mode=False), max_pods(9 * 3 * 16, 2, prefix_mode=True)
    (234, 110)
    """
    by_addresses = addresses + HOST_NETWORK_PODS
    if not prefix_mode:
        return by_addresses
    return min(by_addresses, _PODS_LARGE if vcpus > _VCPUS_SMALL else _PODS_SMALL)


class UnknownInstanceType(LookupError):  # noqa: N818, a refusal is named for what is refused
    """No row has this name; the message names near ones and the way around the table."""

    def __init__(self, instance_type: str, known: tuple[str, ...]) -> None:
        self.instance_type = instance_type
        self.near = tuple(difflib.get_close_matches(instance_type.strip().lower(), known, n=4))
        hint = f"; did you mean {' or '.join(self.near)}?" if self.near else "."
        super().__init__(
            f"unknown instance type {instance_type!r}{hint}"
            " A type that is too new for the table can be described by hand,"
            " with --max-enis and --ips-per-eni."
        )


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """What one source says of one instance type."""

    source: str
    """Name and version or date, for example ``moto 5.2.5``."""
    enis: int
    """ENIs on the default network card."""
    enis_total: int | None
    """ENIs over all cards, where the source counts them so (EC2's MaximumNetworkInterfaces)."""
    ipv4_per_eni: int
    """IPv4 addresses of one ENI, its primary address included."""
    enis_by_card: tuple[int, ...]
    default_network_card: int
    hypervisor: Hypervisor
    bare_metal: bool


@dataclass(frozen=True, slots=True)
class InstanceLimits:
    """What one instance type can hold, and how sure we are.

    A node attaches ENIs to its default network card alone, so `enis` is that card's number:
    p5.48xlarge has 64 ENIs on 32 cards, and 2 that count.
    """

    instance_type: str
    enis: int
    """ENIs on the default network card, the primary one included."""
    ipv4_per_eni: int
    """IPv4 addresses of one ENI, its primary address included."""
    hypervisor: Hypervisor
    """``unknown`` for bare metal, which has none."""
    bare_metal: bool
    vcpus: int | None
    memory_mib: int | None
    network_cards: int
    default_network_card: int
    agreement: Agreement
    """``counted_differently``: one limit, but EC2's headline number adds up all cards."""
    sources: tuple[SourceLimits, ...]
    """What each source says; the first is the one used."""

    @property
    def secondary_ips_per_eni(self) -> int:
        """Addresses of one ENI that sandboxes can hold in secondary-IP mode.

        It is the number of prefixes one ENI can hold as well: a prefix takes the place of a
        secondary address (EC2 User Guide, "Prefix delegation for network interfaces").

        >>> get("m5.large").secondary_ips_per_eni
        9
        """
        return self.ipv4_per_eni - 1

    @property
    def prefixes(self) -> bool:
        """Tell whether EC2 delegates prefixes to it: Nitro and bare metal only.

        >>> get("m5.large").prefixes, get("m4.large").prefixes
        (True, False)
        """
        return self.hypervisor == "nitro" or self.bare_metal

    def max_addresses(self, *, prefix_mode: bool) -> int:
        """Addresses that sandboxes can hold when every ENI is attached and full.

        Raise ValueError in prefix mode for a type that has no prefixes.

        >>> get("m4.4xlarge").max_addresses(prefix_mode=False)
        232
        """
        if not prefix_mode:
            return self.enis * self.secondary_ips_per_eni
        if not self.prefixes:
            raise ValueError(f"{self.instance_type} runs on {self.hypervisor}: no prefixes")
        return self.enis * self.secondary_ips_per_eni * ADDRESSES_PER_PREFIX


def get(instance_type: str) -> InstanceLimits:
    """Return the limits of `instance_type`; raise UnknownInstanceType.

    >>> limits = get("m4.4xlarge")
    >>> limits.enis, limits.ipv4_per_eni
    (8, 30)
    """
    rows = _rows()
    if instance_type not in rows:
        raise UnknownInstanceType(instance_type, all_types())
    return limits_of(rows[instance_type])


@cache
def all_types() -> tuple[str, ...]:
    """Return the name of every instance type in the table, sorted.

    >>> "t3.small" in all_types()
    True
    """
    return tuple(_rows())


def limits_of(row: Mapping[str, str]) -> InstanceLimits:
    """Read one row of the table; raise ValueError for a cell that makes no sense."""
    # The source that is used stands first; a row without one source has its cells empty.
    order = sorted(("ec2", "table"), key=lambda name: name != row["used"])
    return InstanceLimits(
        instance_type=row["instance_type"],
        enis=int(row["enis"]),
        ipv4_per_eni=int(row["ipv4_per_eni"]),
        hypervisor=hypervisor_of(row["hypervisor"]),
        bare_metal=truth_of(row["bare_metal"]),
        vcpus=_number_or_none(row["vcpus"]),
        memory_mib=_number_or_none(row["memory_mib"]),
        network_cards=int(row["network_cards"]),
        default_network_card=int(row["default_network_card"]),
        agreement=_agreement_of(row["agreement"]),
        sources=tuple(source_of(row, name) for name in order if row[f"{name}_source"]),
    )


def source_of(row: Mapping[str, str], name: str) -> SourceLimits:
    """Read what one source says from its columns, which all begin with its name."""
    return SourceLimits(
        source=row[f"{name}_source"],
        enis=int(row[f"{name}_enis"]),
        enis_total=_number_or_none(row.get(f"{name}_enis_total", "")),
        ipv4_per_eni=int(row[f"{name}_ipv4_per_eni"]),
        enis_by_card=tuple(int(enis) for enis in row[f"{name}_enis_by_card"].split()),
        default_network_card=int(row[f"{name}_default_network_card"]),
        hypervisor=hypervisor_of(row[f"{name}_hypervisor"]),
        bare_metal=truth_of(row[f"{name}_bare_metal"]),
    )


def hypervisor_of(cell: str) -> Hypervisor:
    """Return the hypervisor a cell names; raise ValueError.

    >>> hypervisor_of("nitro")
    'nitro'
    """
    for known in get_args(Hypervisor):
        if cell == known:
            return known  # type: ignore[no-any-return]  # get_args() is untyped
    raise ValueError(f"hypervisor {cell!r}: must be one of {', '.join(get_args(Hypervisor))}")


def truth_of(cell: str) -> bool:
    """Return what a cell of ``true`` or ``false`` says; raise ValueError.

    >>> truth_of("true")
    True
    """
    if cell not in ("true", "false"):
        raise ValueError(f"{cell!r}: must be true or false")
    return cell == "true"


def _agreement_of(cell: str) -> Agreement:
    for known in get_args(Agreement):
        if cell == known:
            return known  # type: ignore[no-any-return]  # get_args() is untyped
    raise ValueError(f"agreement {cell!r}: must be one of {', '.join(get_args(Agreement))}")


def _number_or_none(cell: str) -> int | None:
    return int(cell) if cell else None


@cache
def _rows() -> Mapping[str, Mapping[str, str]]:
    """Read the table once; a row becomes an object only when it is asked for."""
    text = files(__name__).joinpath("limits.csv").read_text(encoding="utf-8")
    return {row["instance_type"]: row for row in csv.DictReader(text.splitlines())}
