"""One pod's link, routes and rules: install, find what is missing, remove.

Installing sends three batches: the pair of links, on the host; routes and rules, on the host;
the pod's side, through a socket that was opened in its namespace. The peer is made directly in
the pod's namespace, so nothing is ever moved.

The last four bytes of a host link's MAC are the pod's address, the first two are random. So a
late DEL of an old sandbox can tell that a link of the same name, which is made from the pod's
name, belongs to the next sandbox already, and leaves it alone.
"""

import errno
import os
from contextlib import ExitStack, closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from cni.network import messages, tables
from cni.network.desired import POD_GATEWAY, PodNetwork
from cni.network.errors import NetworkError, refused
from cni.network.links import Link, link_at, link_named, read_link
from cni.network.netns import route_socket
from cni.network.rtnetlink import RouteSocket
from cni.network.sysctls import missing_sysctls, write_sysctls

_ATTEMPTS = 4
_LOOPBACK = 1


@dataclass(frozen=True, slots=True)
class PodLinks:
    """The MACs of both ends of a pod's link."""

    host_mac: str
    pod_mac: str


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both ends as they stand: numbers, and MACs."""

    host_index: int
    pod_index: int
    macs: PodLinks


def install_pod(host: RouteSocket, sysctl_root: str, pod: PodNetwork, netns_fd: int) -> PodLinks:
    """Make or complete a pod's network. Raises NetworkError, and then leaves nothing it made."""
    with ExitStack() as undo:
        pair = _make_pair(host, pod, netns_fd)
        if pair is None:
            pair = _standing_pair(host, pod, netns_fd)
        else:
            undo.callback(_take_back, host, pod, pair.host_index)
        write_sysctls(sysctl_root, pod.sysctls)
        host.run(
            [
                messages.new_route(pod.host_route, pair.host_index),
                *map(messages.new_rule, pod.rules),
            ]
        )
        with closing(RouteSocket(route_socket(netns_fd))) as inside:
            inside.run(
                [
                    messages.link_up(_LOOPBACK),
                    messages.link_up(pair.pod_index),
                    messages.new_address(pair.pod_index, IPv4Interface(pod.address)),
                    *(messages.new_route(route, pair.pod_index) for route in pod.pod_routes),
                    messages.gateway_neighbour(pair.pod_index, pair.macs.host_mac),
                ]
            )
        undo.pop_all()
        return pair.macs


def _make_pair(host: RouteSocket, pod: PodNetwork, netns_fd: int) -> _Pair | None:
    """Make both links; None if this very pod has them already."""
    for _ in range(_ATTEMPTS):
        macs = PodLinks(_host_mac(pod.address), _pod_mac())
        make = messages.new_pair(pod, netns_fd, macs.host_mac, macs.pod_mac)
        # Asked for in the same send: the kernel picks the numbers of both ends.
        look = messages.link_named(pod.host_link)
        replies = host.exchange(make.data + look.data, 2)
        there = read_link(replies.messages[0]) if replies.messages else None
        if replies.errors[0] == 0 and there is not None:
            return _Pair(there.index, there.peer, macs)
        if replies.errors[0] not in {0, errno.EEXIST}:
            raise refused(make.step, replies.errors[0], replies.said.get(0, ""))
        if not _make_room(host, pod, netns_fd, there):
            return None
    raise NetworkError(
        f"make the link {pod.host_link}",
        f"{pod.host_link} on the host, or {pod.ifname} in the pod, came back {_ATTEMPTS} times",
        "look who else makes links of that name",
        errno.EEXIST,
    )


def _make_room(host: RouteSocket, pod: PodNetwork, netns_fd: int, there: Link | None) -> bool:
    """Remove what has one of the names and is to go; False if it is this pod's and may stay."""
    with closing(RouteSocket(route_socket(netns_fd))) as inside:
        within = link_named(inside, pod.ifname)
        if there is not None:
            if _is_of(pod, there) and not there.going and _is_complete(inside, pod, there, within):
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


def _is_complete(inside: RouteSocket, pod: PodNetwork, there: Link, within: Link | None) -> bool:
    """Tell whether the host link ends in this namespace, and there holds the pod's address."""
    return (
        within is not None
        and (within.index, within.peer) == (there.peer, there.index)
        and IPv4Interface(pod.address) in tables.addresses(inside, within.index)
    )


def _standing_pair(host: RouteSocket, pod: PodNetwork, netns_fd: int) -> _Pair:
    """Describe the links that an earlier ADD made."""
    with closing(RouteSocket(route_socket(netns_fd))) as inside:
        there, within = link_named(host, pod.host_link), link_named(inside, pod.ifname)
    if there is None or within is None:
        raise refused(f"complete the link {pod.host_link}", errno.ENODEV)
    return _Pair(there.index, within.index, PodLinks(there.mac_text, within.mac_text))


def _take_back(host: RouteSocket, pod: PodNetwork, host_index: int) -> None:
    """Remove what an ADD that failed has made; the pod's side goes with its link."""
    host.run([*map(messages.delete_rule, pod.rules), messages.delete_link(host_index)])


def remove_pod(host: RouteSocket, pod: PodNetwork) -> bool:
    """Remove rules and route, and mark the link; tell whether there was one. Raises NetworkError.

    From here on nothing is sent to the pod. The link itself is the reaper's: deleting it waits
    about 30 ms for RCU.
    """
    requests = [
        *map(messages.delete_rule, pod.rules),
        messages.delete_route(pod.host_route),
        messages.link_named(pod.host_link),
    ]
    replies = host.exchange(b"".join(request.data for request in requests), len(requests))
    for place, (request, number) in enumerate(zip(requests, replies.errors, strict=True)):
        if number and number not in request.accepted:
            raise refused(request.step, number, replies.said.get(place, ""))
    there = read_link(replies.messages[0]) if replies.messages else None
    # Upstream's links have a random MAC: there the route that was deleted is the proof.
    had_route = replies.errors[-2] == 0
    if there is None or there.going or not (_is_of(pod, there) or had_route):
        return False
    host.run([messages.link_going(there.index)])
    return True


def missing_of_pod(
    host: RouteSocket, sysctl_root: str, pod: PodNetwork, netns_fd: int | None
) -> tuple[str, ...]:
    """List what a pod lacks, one line each; its own side is looked at where a namespace is given.

    Raises NetworkError.
    """
    there = link_named(host, pod.host_link)
    if there is None or there.going:
        missing = [f"host link {pod.host_link}"]
    else:
        missing = _of_link(there, pod.host_link, pod)
        missing += missing_sysctls(sysctl_root, pod.sysctls)
        routes = tables.routes(host, pod.host_route.table, pod.address.packed)
        if tables.Installed(pod.host_route, there.index) not in routes:
            missing.append(f"{pod.host_route} dev {pod.host_link}")
    rules = tables.rules(host, pod.address.packed)
    missing += [str(rule) for rule in pod.rules if rule not in rules]
    if netns_fd is not None:
        with closing(RouteSocket(route_socket(netns_fd))) as inside:
            missing += [f"in the pod: {line}" for line in _missing_inside(inside, pod, there)]
    return tuple(missing)


def _missing_inside(inside: RouteSocket, pod: PodNetwork, there: Link | None) -> list[str]:
    link, loopback = link_named(inside, pod.ifname), link_at(inside, _LOOPBACK)
    missing = [] if loopback is not None and loopback.up else ["link lo is not up"]
    if link is None:
        return [*missing, f"link {pod.ifname}"]
    missing += _of_link(link, pod.ifname, pod)
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


def _of_link(link: Link, name: str, pod: PodNetwork) -> list[str]:
    missing = [] if link.up else [f"link {name} is not up"]
    return missing if link.mtu == pod.mtu else [*missing, f"MTU of {name} is {link.mtu}"]


def _is_of(pod: PodNetwork, link: Link) -> bool:
    return link.mac[2:] == pod.address.packed


def _host_mac(address: IPv4Address) -> str:
    return (_locally_administered(os.urandom(2)) + address.packed).hex(":")


def _pod_mac() -> str:
    return _locally_administered(os.urandom(6)).hex(":")


def _locally_administered(mac: bytes) -> bytes:
    """Set the bit for `no vendor's`, clear the one for `multicast`."""
    return bytes([mac[0] & 0xFC | 0x02]) + mac[1:]
