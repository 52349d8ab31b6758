"""Network links as the kernel tells them, and finding the one with a MAC.

A link message is read here and not by pyroute2: there are two links for each pod, and reading
them all must not take longer than making one.
"""

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cni.network import messages
from cni.network.errors import NetworkError
from cni.network.netns import route_socket
from cni.network.rtnetlink import RouteSocket, attribute, attributes

_RTMGRP_LINK = 1
_INFO = struct.Struct("=4xiI4x")
_UINT = struct.Struct("=I")
_NETLINK_HEADER_BYTES = 16
_ATTRIBUTES_AT = _NETLINK_HEADER_BYTES + _INFO.size
_IFF_UP = 1
_ADDRESS, _IFNAME, _MTU, _LINK, _LINKINFO, _GROUP = 1, 3, 4, 5, 18, 27
_INFO_KIND = 1
_OPERSTATE, _OPERATIONAL = 16, b"\x06"
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Link:
    """One link; `peer` is the number of a veth's other end in its own namespace."""

    index: int
    name: str
    mac: bytes
    mtu: int
    up: bool
    peer: int
    group: int
    kind: str

    @property
    def mac_text(self) -> str:
        """The MAC with colons."""
        return self.mac.hex(":")

    @property
    def going(self) -> bool:
        """Whether the reaper is to delete it."""
        return self.group == messages.GOING


def read_link(message: bytes) -> Link:
    """Read one RTM_NEWLINK message."""
    index, flags = _INFO.unpack_from(message, _NETLINK_HEADER_BYTES)
    found = dict(attributes(message, _ATTRIBUTES_AT))
    info = dict(attributes(found.get(_LINKINFO, b""), 0))
    return Link(
        index=index,
        name=found[_IFNAME].rstrip(b"\0").decode(),
        mac=found.get(_ADDRESS, b""),
        mtu=_number(found, _MTU, 0),
        up=bool(flags & _IFF_UP),
        # As in `ends_of`.
        peer=_number(found, _LINK, index),
        group=_number(found, _GROUP, 0),
        kind=info.get(_INFO_KIND, b"").rstrip(b"\0").decode(),
    )


def ends_of(message: bytes) -> tuple[int, int]:
    """Read only the numbers of both ends of a veth from its RTM_NEWLINK message."""
    index, _ = _INFO.unpack_from(message, _NETLINK_HEADER_BYTES)
    peer = attribute(message, _ATTRIBUTES_AT, _LINK)
    # Kernels before 5.13 leave it out where both ends have the same number.
    return index, index if peer is None else _UINT.unpack(peer)[0]


def is_operational(message: bytes) -> bool:
    """Tell from a link's message whether it has a carrier and the kernel has acted on that."""
    return attribute(message, _ATTRIBUTES_AT, _OPERSTATE) == _OPERATIONAL


def _number(found: dict[int, bytes], kind: int, default: int) -> int:
    return int(_UINT.unpack(found[kind])[0]) if kind in found else default


def link_named(kernel: RouteSocket, name: str) -> Link | None:
    """Look one link up by name. Raises NetworkError."""
    found = kernel.run([messages.link_named(name)])
    return read_link(found[0]) if found else None


def link_at(kernel: RouteSocket, index: int) -> Link | None:
    """Look one link up by number. Raises NetworkError."""
    found = kernel.run([messages.link_at(index)])
    return read_link(found[0]) if found else None


def all_links(kernel: RouteSocket) -> tuple[Link, ...]:
    """Read all links, by number. Raises NetworkError."""
    found = map(read_link, kernel.dump(messages.all_links()))
    return tuple(sorted(found, key=lambda link: link.index))


def link_with_mac(kernel: RouteSocket, mac: str) -> Link | None:
    """Look an ENI's link up; of several the oldest, since VLANs share their parent's MAC."""
    wanted = _bytes_of(mac)
    candidates = [data for data in kernel.dump(messages.all_links()) if wanted in data]
    links = sorted(map(read_link, candidates), key=lambda link: link.index)
    return next((link for link in links if link.mac == wanted), None)


def await_link_with_mac(kernel: RouteSocket, mac: str, timeout_s: float) -> Link:
    """Wait for an ENI's link, which appears seconds after EC2 says that it is attached.

    Raises NetworkError after `timeout_s`.
    """
    # Listening begins before looking, so that no link can appear unseen in between.
    events = RouteSocket(route_socket(groups=_RTMGRP_LINK))
    wanted = _bytes_of(mac)
    try:
        with _alarm(timeout_s) as expired:
            while (link := link_with_mac(kernel, mac)) is None:
                while not expired.is_set() and not _heard(events, wanted, timeout_s):
                    pass
                if expired.is_set():
                    raise NetworkError(
                        f"find the link with MAC {mac}",
                        f"none appeared within {timeout_s:g} s",
                        "check in EC2 that the ENI is attached, and the kernel log for its driver",
                    )
    finally:
        events.close()
    return link


def _heard(events: RouteSocket, mac: bytes, timeout_s: float) -> bool:
    """Tell whether it is worth looking again: the MAC was named, or events were lost."""
    # In short waits, because an event that concerns another link does not restart the clock.
    try:
        return mac in events.next_events(min(_LOOK_AGAIN_S, max(timeout_s / 4, 0.01)))
    except NetworkError:
        return True


@contextmanager
def _alarm(timeout_s: float) -> Iterator[threading.Event]:
    """Set the event yielded after a time; no clock is read here."""
    expired = threading.Event()
    timer = threading.Timer(timeout_s, expired.set)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
        timer.join()


def _bytes_of(mac: str) -> bytes:
    try:
        return bytes.fromhex(mac.replace(":", ""))
    except ValueError as error:
        raise NetworkError("find a link", f"{mac!r} is no MAC", "correct it") from error
