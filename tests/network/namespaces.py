"""Network namespaces without names: they live as long as a descriptor, and leave nothing behind.

A node, its pods, the VPC's router and the internet behind it are such namespaces; nothing here
ever touches the one that the tests run in.
"""

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any, ParamSpec, TypeVar

import pytest

from cni.allocator.model import AttachedEni, EniId
from cni.network.desired import EniNetwork, HostNetwork, NetworkOptions, eni_network, host_network
from cni.network.netlink import Kernel
from cni.network.netns import CLONE_NEWNET, inside, route_socket
from cni.network.snat import find_program

P = ParamSpec("P")
T = TypeVar("T")

VPC = IPv4Network("10.0.0.0/16")
NODE = IPv4Address("10.0.0.5")
SECONDARY = IPv4Address("10.0.1.9")
SECONDARY_SUBNET = IPv4Network("10.0.1.0/24")
POD_ON_PRIMARY = IPv4Address("10.0.0.77")
POD_ON_SECONDARY = IPv4Address("10.0.1.77")
IN_VPC, EXCLUDED, OUTSIDE = "10.0.9.9", "192.168.7.7", "198.51.100.7"
PRIMARY_MAC, SECONDARY_MAC = "02:00:00:00:00:05", "02:00:00:00:01:09"
DEADLINE_S = 10.0


class Namespace:
    """One network namespace, and one thread that is in it."""

    def __init__(self) -> None:
        made: list[int] = []
        maker = threading.Thread(target=lambda: made.append(_unshare()))
        maker.start()
        maker.join()
        (self.fd,) = made
        self._thread: ThreadPoolExecutor | None = None

    def ip(self, command: str) -> str:
        """Run `ip` in it, and return what it prints."""
        return self.shell(f"ip {command}")

    def ip_json(self, command: str) -> Any:
        """Run `ip -j -d`, and return what it prints as values."""
        return json.loads(self.ip(f"-j -d {command}") or "[]")

    def shell(self, command: str) -> str:
        """Run a command line in it, and return what it prints; it must succeed."""
        done = subprocess.run(  # noqa: S603, as a test says
            [_found("nsenter"), f"--net=/proc/self/fd/{self.fd}", "sh", "-ec", command],
            pass_fds=[self.fd],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def call(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call a function in the thread that is in it, always the same one."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, initializer=_stay, initargs=(self.fd,))
        return self._thread.submit(function, *arguments, **named).result(timeout=60)

    def in_threads(self, functions: Iterable[Callable[[], None]]) -> None:
        """Run functions side by side, each in a thread of its own that is in the namespace."""
        with ThreadPoolExecutor(initializer=_stay, initargs=(self.fd,)) as threads:
            for done in [threads.submit(function) for function in functions]:
                done.result(timeout=60)

    def socket(self, kind: int, address: str = "", port: int = 0) -> socket.socket:
        """Open an IPv4 socket in it, bound where an address is given, with a time limit."""
        with inside(self.fd):
            opened = socket.socket(socket.AF_INET, kind)
        opened.settimeout(DEADLINE_S)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address or port:
            opened.bind((address, port))
        return opened

    def listen(self) -> Callable[[], list[int]]:
        """Hear what changes from now on: the answer gives the kinds of netlink messages."""
        # Links, addresses, routes and rules of IPv4: RTMGRP_LINK, _IPV4_IFADDR, _ROUTE, _RULE.
        heard = route_socket(self.fd, groups=0x1 | 0x10 | 0x40 | 0x80)
        heard.setblocking(False)

        def kinds() -> list[int]:
            found: list[int] = []
            with heard, contextlib.suppress(BlockingIOError):
                while message := heard.recv(1 << 16):
                    found.append(int.from_bytes(message[4:6], sys.byteorder))
            return found

        return kinds

    def close(self) -> None:
        """End its thread and let the kernel have it."""
        if self._thread is not None:
            self._thread.shutdown()
        os.close(self.fd)


class NodeKernel:
    """A `Kernel` that lives in a node's thread, and is called from the test's."""

    def __init__(self, node: Namespace, options: NetworkOptions, **named: object) -> None:
        self._node = node
        self.kernel = node.call(partial(Kernel, options, **named))  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Call a method of the kernel where it lives."""
        return partial(self._node.call, getattr(self.kernel, name))


def _unshare() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    # This thread ends now, and the namespace stays with the descriptor.
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _stay(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.setns(fd, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def need_programs(*names: str) -> None:
    """Skip the test where one of these is missing."""
    for name in names:
        if find_program(name) is None:
            pytest.skip(f"needs the program {name}")


def _found(name: str) -> str:
    path = find_program(name)
    assert path is not None, f"need_programs({name!r}) comes first"
    return path


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that the kernel does in its own time."""
    given_up = threading.Event()
    timer = threading.Timer(DEADLINE_S, given_up.set)
    timer.start()
    try:
        while not condition():
            assert not given_up.wait(0.01), f"not within {DEADLINE_S} s: {what}"
    finally:
        timer.cancel()
        timer.join()


def make_node(node: Namespace, router: Namespace) -> None:
    """Join a node with two ENIs to a router that has the VPC, and everything else, behind it.

    As EC2 does, the router sends a pod's address to its ENI, and drops what comes from an ENI
    with an address that is not its own.
    """
    there = f"/proc/{os.getpid()}/fd/{router.fd}"
    node.shell(
        f"""
        ip link set lo up
        ip link add eth0 address {PRIMARY_MAC} type veth peer name rt0 netns {there}
        ip link add eth1 address {SECONDARY_MAC} type veth peer name rt1 netns {there}
        ip link set eth0 up
        ip addr add {NODE}/24 dev eth0
        """
    )
    router.shell(
        f"""
        ip link set lo up
        ip link set rt0 mtu 9001 up
        ip link set rt1 mtu 9001 up
        ip addr add 10.0.0.1/24 dev rt0
        ip addr add 10.0.1.1/24 dev rt1
        for address in {IN_VPC} {EXCLUDED} {OUTSIDE}; do ip addr add $address/32 dev lo; done
        for link in rt0 rt1; do echo 1 >/proc/sys/net/ipv4/conf/$link/rp_filter; done
        ip route add {POD_ON_PRIMARY} via {NODE} dev rt0
        ip route add {POD_ON_SECONDARY} via {SECONDARY} dev rt1
        """
    )
    node.ip("route add default via 10.0.0.1")


def the_host(options: NetworkOptions) -> HostNetwork:
    """Say what the node of `make_node` needs."""
    return host_network(PRIMARY_MAC, NODE, [VPC], options)


def the_eni(options: NetworkOptions) -> EniNetwork:
    """Say what the second ENI of `make_node` needs."""
    attached = AttachedEni(EniId("eni-2"), 1, SECONDARY, ())
    return eni_network(attached, SECONDARY_MAC, SECONDARY_SUBNET, options)
