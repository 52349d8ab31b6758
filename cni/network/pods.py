"""One pod's link, routes and rules: install, find what is missing, remove.

Installing sends three batches: the pair of links, on the host; the pod's side, through a socket
that was opened in its namespace; route and rules, on the host. The peer is made directly in
the pod's namespace, so nothing is ever moved.

The last four bytes of a host link's MAC are the pod's address, the first two are random. So a
late DEL of an old sandbox can tell that a link of the same name, which is made from the pod's
name, belongs to the next sandbox already, and leaves it alone.
"""

import errno
import os
import threading
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface

from cni.network import messages, tables
from cni.network.batches import Placement, farewell, host_side, make_pair, pod_side, removal
from cni.network.desired import POD_GATEWAY, PodNetwork
from cni.network.errors import NetworkError, refused
from cni.network.links import Link, ends_of, is_operational, link_at, link_named, read_link
from cni.network.netns import route_socket
from cni.network.rtnetlink import RouteSocket
from cni.network.sysctls import missing_sysctls, write_sysctls
from cni.network.templates import Templates

_ATTEMPTS = 4
_LOOKS, _LOOK_AGAIN_S = 2000, 0.001
_LOOPBACK = 1


@dataclass(frozen=True, slots=True)
class PodLinks:
    """The MACs of both ends of a pod's link."""

    host_mac: str
    pod_mac: str


@dataclass(frozen=True, slots=True)
class Tools:
    """What it takes: a socket on the host, encoded messages, and where sysctls are."""

    host: RouteSocket
    templates: Templates
    sysctl_root: str


def install_pod(tools: Tools, pod: PodNetwork, netns_fd: int) -> PodLinks:
    """Make or complete a pod's network. Raises NetworkError, and then leaves nothing it made."""
    host, run = tools.host, tools.templates.run
    with ExitStack() as undo:
        placed = _make_pair(tools, pod, netns_fd)
        if placed is None:
            placed = _standing_pair(host, pod, netns_fd)
        else:
            undo.callback(_take_back, host, pod, placed.host_index)
        write_sysctls(tools.sysctl_root, pod.sysctls)
        with closing(_enter(host, netns_fd)) as inside:
            run(inside, pod_side, placed)
        _await_link(host, pod, run(host, host_side, placed).messages)
        undo.pop_all()
        return PodLinks(placed.host_mac.hex(":"), placed.pod_mac.hex(":"))


def _make_pair(tools: Tools, pod: PodNetwork, netns_fd: int) -> Placement | None:
    """Make both links; None if this very pod has them already."""
    for _ in range(_ATTEMPTS):
        placed = Placement(pod, netns_fd, _host_mac(pod.address), _pod_mac())
        replies = tools.templates.run(tools.host, make_pair, placed, errno.EEXIST)
        if replies.errors[0] == 0 and replies.messages:
            host_index, pod_index = ends_of(replies.messages[0])
            return replace(placed, host_index=host_index, pod_index=pod_index)
        there = read_link(replies.messages[0]) if replies.messages else None
        if not _make_room(tools.host, pod, netns_fd, there):
            return None
    raise NetworkError(
        f"make the link {pod.host_link}",
        f"{pod.host_link} on the host, or {pod.ifname} in the pod, came back {_ATTEMPTS} times",
        "look who else makes links of that name",
        errno.EEXIST,
    )


def _await_link(host: RouteSocket, pod: PodNetwork, found: list[bytes]) -> None:
    """Wait until the host link sends, which a worker of the kernel sees to, a little later.

    What is sent to the pod before is lost, one first packet in 25 where this was measured; a DNS
    answer that is lost costs 5 s. From Linux 6.8 on, asking makes the kernel notice at once.
    """
    pause = threading.Event()
    for _ in range(_LOOKS):
        if found and is_operational(found[0]):
            return
        pause.wait(_LOOK_AGAIN_S)
        found = host.run([messages.link_named(pod.host_link)])
    raise NetworkError(
        f"use the link {pod.host_link}",
        f"it did not come up within {_LOOKS * _LOOK_AGAIN_S:g} s",
        "the next attempt starts afresh; if it repeats, look who else changes the pod's link",
        errno.ENETDOWN,
    )


def _enter(host: RouteSocket, netns_fd: int) -> RouteSocket:
    """Open a socket in the pod's namespace; it is used by turns with the host's."""
    return host.sharing(route_socket(netns_fd))


def _make_room(host: RouteSocket, pod: PodNetwork, netns_fd: int, there: Link | None) -> bool:
    """Remove what has one of the names and is to go; False if it is this pod's and may stay."""
    with closing(_enter(host, netns_fd)) as inside:
        within = link_named(inside, pod.ifname)
        if there is not None:
            ends = None if within is None else (within.peer, within.index)
            if ends == (there.index, there.peer) and _is_of(pod, there) and not there.going:
                return False
            # Deleting waits until the name is free.
            host.run([messages.delete_link(there.index)])
            return True
    if within is None:
        return True
    other = link_at(host, within.peer)
    if other is not None and other.peer == within.index and other.going:
        host.run([messages.delete_link(other.index)])
        return True
    raise NetworkError(
        f"make the link {pod.ifname} in the pod",
        "its namespace has another link of that name",
        "delete that link, or ask for another CNI_IFNAME",
        errno.EEXIST,
    )


def _standing_pair(host: RouteSocket, pod: PodNetwork, netns_fd: int) -> Placement:
    """Describe the links that an earlier ADD made, and make them as they should be."""
    with closing(_enter(host, netns_fd)) as inside:
        there, within = link_named(host, pod.host_link), link_named(inside, pod.ifname)
        if there is None or within is None:
            raise refused(f"complete the link {pod.host_link}", errno.ENODEV)
        host.run([messages.link_up(there.index, pod.mtu)])
        inside.run([messages.link_up(within.index, pod.mtu)])
    return Placement(pod, netns_fd, there.mac, within.mac, there.index, within.index)


def _take_back(host: RouteSocket, pod: PodNetwork, host_index: int) -> None:
    """Remove what an ADD that failed has made; the pod's side goes with its link."""
    host.run([*map(messages.delete_rule, pod.rules), messages.delete_link(host_index)])


def remove_pod(tools: Tools, pod: PodNetwork) -> bool:
    """Remove rules and route, and mark the link; tell whether there was one. Raises NetworkError.

    From here on nothing is sent to the pod. The link itself is the reaper's: deleting it waits
    about 30 ms for RCU.
    """
    replies = tools.templates.run(tools.host, removal, Placement(pod))
    there = read_link(replies.messages[0]) if replies.messages else None
    # Upstream's links have a random MAC: there the route that was deleted is the proof.
    had_route = replies.errors[-2] == 0
    if there is None or there.going or not (_is_of(pod, there) or had_route):
        return False
    tools.templates.run(tools.host, farewell, Placement(pod, host_index=there.index))
    return True


def missing_of_pod(tools: Tools, pod: PodNetwork, netns_fd: int | None) -> tuple[str, ...]:
    """List what a pod lacks, one line each; its own side is looked at where a namespace is given.

    Raises NetworkError.
    """
    host = tools.host
    there = link_named(host, pod.host_link)
    if there is None or there.going:
        missing = [f"host link {pod.host_link}"]
    else:
        missing = [] if there.up else [f"link {pod.host_link} is not up"]
        missing += [] if there.mtu == pod.mtu else [f"MTU of {pod.host_link} is {there.mtu}"]
        missing += missing_sysctls(tools.sysctl_root, pod.sysctls)
        routes = tables.routes(host, pod.host_route.table, pod.address.packed)
        if tables.Installed(pod.host_route, there.index) not in routes:
            missing.append(f"{pod.host_route} dev {pod.host_link}")
    rules = tables.rules(host, pod.address.packed)
    missing += [str(rule) for rule in pod.rules if rule not in rules]
    if netns_fd is not None:
        with closing(_enter(host, netns_fd)) as inside:
            missing += [f"in the pod: {line}" for line in _missing_inside(inside, pod, there)]
    return tuple(missing)


def _missing_inside(inside: RouteSocket, pod: PodNetwork, there: Link | None) -> list[str]:
    link, loopback = link_named(inside, pod.ifname), link_at(inside, _LOOPBACK)
    missing = [] if loopback is not None and loopback.up else ["link lo is not up"]
    if link is None:
        return [*missing, f"link {pod.ifname}"]
    # Its MTU is not looked at: a chained plug-in may have set it.
    missing += [] if link.up else [f"link {pod.ifname} is not up"]
    if IPv4Interface(pod.address) not in tables.addresses(inside, link.index):
        missing.append(f"address {pod.address}")
    routes = tables.routes(inside, pod.host_route.table)
    missing += [
        str(route) for route in pod.pod_routes if tables.Installed(route, link.index) not in routes
    ]
    if there is None or (there.peer, there.index) != (link.index, link.peer):
        return [*missing, f"link {pod.ifname} is not the other end of {pod.host_link}"]
    if tables.permanent_neighbours(inside, link.index).get(POD_GATEWAY) != there.mac_text:
        missing.append(f"neighbour {POD_GATEWAY} at {there.mac_text}")
    return missing


def _is_of(pod: PodNetwork, link: Link) -> bool:
    return link.mac[2:] == pod.address.packed


def _host_mac(address: IPv4Address) -> bytes:
    return _locally_administered(os.urandom(2)) + address.packed


def _pod_mac() -> bytes:
    return _locally_administered(os.urandom(6))


def _locally_administered(mac: bytes) -> bytes:
    """Set the bit for `no vendor's`, clear the one for `multicast`."""
    return bytes([mac[0] & 0xFC | 0x02]) + mac[1:]
