"""The only place that enters a network namespace.

A namespace belongs to a thread, not to a process. A thread goes in, opens a socket and comes
back; the socket stays in the namespace it was made in, so nobody needs to be in there to use it.
Nothing is awaited in between. A thread that cannot come back would do the host's work in a pod's
namespace, so the whole process ends.
"""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from cni.network.errors import refused

CLONE_NEWNET = 0x40000000

EXIT_LOST = 70
"""How the process ends when a thread cannot leave a namespace (EX_SOFTWARE of sysexits.h)."""

# os.setns exists from Python 3.12 on only.
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(netns_fd: int) -> Iterator[None]:
    """Run the body of the `with` in the namespace, by this thread alone. Raises NetworkError."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(netns_fd)
        try:
            yield
        finally:
            _come_back(home)
    finally:
        os.close(home)


def route_socket(netns_fd: int | None = None, *, groups: int = 0) -> socket.socket:
    """Open a NETLINK_ROUTE socket in a namespace, in the thread's own one for None.

    `groups` are the events it receives (RTMGRP_LINK is 1). Raises NetworkError.
    """
    if netns_fd is None:
        return _open(groups)
    with inside(netns_fd):
        return _open(groups)


def _open(groups: int) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    made = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    if groups:
        made.bind((0, groups))
    return made


def _enter(netns_fd: int) -> None:
    if _LIBC.setns(netns_fd, CLONE_NEWNET) != 0:
        raise refused("enter the pod's network namespace", ctypes.get_errno())


def _come_back(home: int) -> None:
    if _LIBC.setns(home, CLONE_NEWNET) != 0:
        # No clean-up: whatever ran here from now on would touch the wrong namespace.
        os._exit(EXIT_LOST)
