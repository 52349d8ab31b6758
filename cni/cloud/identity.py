"""Who the node is, and which ENIs it sees of itself: values that the metadata is read into."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from cni.allocator.model import AttachedEni


@dataclass(frozen=True, slots=True)
class Identity:
    """The instance this daemon runs on; subnet, groups and address are its primary ENI's."""

    instance_id: str
    instance_type: str
    region: str
    zone: str
    mac: str
    vpc_id: str
    subnet_id: str
    security_group_ids: tuple[str, ...]
    vpc_cidrs: tuple[IPv4Network, ...]
    private_ip: IPv4Address


@dataclass(frozen=True, slots=True)
class MetadataEni:
    """An ENI that the metadata shows whole, with what its link and routes need."""

    eni: AttachedEni
    mac: str
    subnet: IPv4Network
