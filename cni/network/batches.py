"""What is sent for one pod: each batch as a list of requests, described once.

`Placement` holds everything that differs from pod to pod. `templates.py` encodes a batch once
and then only puts these values in; where a batch fails, it is described again for its words.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface

from cni.network import messages
from cni.network.desired import PodNetwork
from cni.network.rtnetlink import Request

_LOOPBACK = 1
_INT = struct.Struct("=i").pack


@dataclass(frozen=True, slots=True)
class Placement:
    """One pod, its namespace, and the MACs and numbers of both ends of its link."""

    pod: PodNetwork
    netns_fd: int = 0
    host_mac: bytes = bytes(6)
    pod_mac: bytes = bytes(6)
    host_index: int = 0
    pod_index: int = 0

    def values(self) -> dict[str, bytes]:
        """Give each value as it stands in a message, by name."""
        return {
            "host_link": self.pod.host_link.encode(),
            "address": self.pod.address.packed,
            # All tables are below 256: one byte, in the header as in the attribute.
            "table": bytes((self.pod.table,)),
            "netns_fd": _INT(self.netns_fd),
            "host_mac": self.host_mac,
            "pod_mac": self.pod_mac,
            "host_index": _INT(self.host_index),
            "pod_index": _INT(self.pod_index),
        }


Batch = Callable[[Placement], list[Request]]


def make_pair(placed: Placement) -> list[Request]:
    """Make both links, and ask which numbers the kernel gave them."""
    pod = placed.pod
    return [
        messages.new_pair(pod, placed.netns_fd, placed.host_mac.hex(":"), placed.pod_mac.hex(":")),
        messages.link_named(pod.host_link),
    ]


def host_side(placed: Placement) -> list[Request]:
    """Lead to the pod, and from it to its ENI; and ask whether the host link works."""
    pod = placed.pod
    return [
        messages.new_route(pod.host_route, placed.host_index),
        *map(messages.new_rule, pod.rules),
        messages.link_named(pod.host_link),
    ]


def pod_side(placed: Placement) -> list[Request]:
    """Set up what the pod sees; goes through a socket in its namespace."""
    pod, link = placed.pod, placed.pod_index
    return [
        messages.link_up(_LOOPBACK),
        messages.link_up(link),
        messages.new_address(link, IPv4Interface(pod.address)),
        *(messages.new_route(route, link) for route in pod.pod_routes),
        messages.gateway_neighbour(link, placed.host_mac.hex(":")),
    ]


def removal(placed: Placement) -> list[Request]:
    """Lead nothing to the pod any more, and ask for its host link; the route comes last but one."""
    pod = placed.pod
    return [
        *map(messages.delete_rule, pod.rules),
        messages.delete_route(pod.host_route),
        messages.link_named(pod.host_link),
    ]


def farewell(placed: Placement) -> list[Request]:
    """Leave the host link to the reaper."""
    return [messages.link_going(placed.host_index)]


ALL_BATCHES: tuple[Batch, ...] = (make_pair, host_side, pod_side, removal, farewell)
