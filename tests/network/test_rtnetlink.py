"""What is sure about the socket: every answer is read, and failures are told in one line."""

import errno
import os
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from cni.network import messages, tables
from cni.network.desired import EVERYWHERE, MAIN_TABLE, Route, Rule
from cni.network.errors import NetworkError, refused
from cni.network.links import all_links, link_at, link_named
from cni.network.netns import EXIT_LOST, route_socket
from cni.network.rtnetlink import RouteSocket
from tests.network.conftest import MakeNamespace
from tests.network.namespaces import Namespace

ROOT = Path(__file__).parents[2]


def test_a_refusal_is_one_line_with_cause_and_next_step() -> None:
    """What could not be done, what the kernel said, what to do."""
    error = refused("add the route", errno.EPERM, "no rights")

    assert str(error) == (
        "cannot add the route: Operation not permitted (no rights);"
        " run the daemon with the capabilities NET_ADMIN and SYS_ADMIN"
    )
    assert error.errno == errno.EPERM


@pytest.mark.root
def test_a_batch_goes_on_and_the_first_failure_is_told(new_namespace: MakeNamespace) -> None:
    """The kernel carries out what follows a failure, so all answers are read."""
    node = new_namespace()
    kernel = RouteSocket(route_socket(node.fd))
    to_nowhere = messages.new_route(Route(IPv4Network("10.1.0.0/16")), 77)
    rules = [Rule(600 + n, MAIN_TABLE, to=IPv4Network(f"10.{n}.0.0/16")) for n in range(3)]
    try:
        with pytest.raises(NetworkError, match=r"cannot add route 10\.1\.0\.0/16") as failure:
            kernel.run(
                [*map(messages.new_rule, rules[:2]), to_nowhere, messages.new_rule(rules[2])]
            )

        assert failure.value.errno == errno.ENODEV
        assert [rule for rule in tables.rules(kernel) if rule.priority >= 600][:3] == rules
    finally:
        kernel.close()


@pytest.mark.root
def test_the_kernels_own_words_are_told(new_namespace: MakeNamespace) -> None:
    """Extended acknowledgements say more than `Invalid argument`."""
    kernel = RouteSocket(route_socket(new_namespace().fd))
    try:
        with pytest.raises(NetworkError, match=r"\(.+\); "):
            kernel.run([messages.new_route(Route(EVERYWHERE, gateway=None), 1)])
    finally:
        kernel.close()


@pytest.mark.root
def test_a_conversation_that_broke_off_does_not_confuse_the_next(
    new_namespace: MakeNamespace,
) -> None:
    """Answers that nobody read, after an interrupt, are thrown away."""
    kernel = RouteSocket(route_socket(new_namespace().fd))
    try:
        with suppress(KeyboardInterrupt), kernel._conversation():
            kernel._socket.send(messages.delete_link(4711).data)
            raise KeyboardInterrupt

        replies = kernel.exchange(messages.link_named("lo").data, 1)

        assert (replies.errors, len(replies.messages)) == ([0], 1)
    finally:
        kernel.close()


def test_a_table_that_changed_underneath_is_read_again() -> None:
    """The kernel flags a dump that was interrupted; entries may be missing from it."""
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    kernels.settimeout(1.0)
    done = struct.Struct("=IHHIIi")
    for flags in (0x12, 0x2):
        kernels.send(struct.pack("=IHHII4s", 20, 32, flags, 0, 0, b"rule"))
        kernels.send(done.pack(20, 3, flags, 0, 0, 0))
    kernel = RouteSocket(ours)
    with kernels:
        found = kernel.dump(messages.all_rules())

        assert len(found) == 1
        # It was asked for twice.
        assert len([kernels.recv(1000) for _ in range(2)]) == 2
    kernel.close()


@pytest.mark.root
def test_links_are_read_as_ip_reads_them(new_namespace: MakeNamespace) -> None:
    """All links, one by name, one by number: name, MAC, MTU, flags, kind, other end."""
    node = new_namespace()
    node.ip("link set lo up")
    node.ip("link add left mtu 1400 type veth peer name right")
    node.ip("link add bridge type bridge")
    kernel = RouteSocket(route_socket(node.fd))
    try:
        links = all_links(kernel)

        assert [
            (one.index, one.name, one.mac_text, one.mtu, one.up, one.kind) for one in links
        ] == [
            (
                one["ifindex"],
                one["ifname"],
                one["address"],
                one["mtu"],
                "UP" in one["flags"],
                one.get("linkinfo", {}).get("info_kind", ""),
            )
            for one in sorted(node.ip_json("link"), key=lambda one: one["ifindex"])
        ]
        left, right = link_named(kernel, "left"), link_named(kernel, "right")
        assert left is not None
        assert right is not None
        assert (left.peer, right.peer) == (right.index, left.index)
        assert link_at(kernel, left.index) == left
        assert link_named(kernel, "absent") is None
    finally:
        kernel.close()


@pytest.mark.root
def test_a_big_table_is_read_whole(new_namespace: MakeNamespace) -> None:
    """A thousand pods: their rules take several reads, and mentions are found among them."""
    node = new_namespace()
    kernel = RouteSocket(route_socket(node.fd))
    wanted = [Rule(512, MAIN_TABLE, to=IPv4Network((0x0A000000 + n, 32))) for n in range(1000)]
    try:
        for rule in wanted:
            kernel.run([messages.new_rule(rule)])

        assert len(node.ip("rule").splitlines()) == len(tables.rules(kernel)) == 1003
        mentioned = tables.rules(kernel, bytes((10, 0, 1, 1)))
        assert mentioned == (wanted[257],)
    finally:
        kernel.close()


LOST = """
import os, sys
from cni.network import netns
with netns.inside(int(sys.argv[1])):
    # The way home is closed.
    netns._LIBC = type("Libc", (), {"setns": staticmethod(lambda *_: -1)})()
print("went on")
"""


@pytest.mark.root
def test_a_thread_that_cannot_come_home_ends_the_process(new_namespace: MakeNamespace) -> None:
    """Else it would do the host's work in a pod's namespace."""
    there: Namespace = new_namespace()

    done = subprocess.run(  # noqa: S603, our own interpreter
        [sys.executable, "-c", LOST, str(there.fd)],
        pass_fds=[there.fd],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert (done.returncode, done.stdout) == (EXIT_LOST, "")


@pytest.mark.root
def test_what_fails_inside_still_comes_home(new_namespace: MakeNamespace) -> None:
    """An exception in a pod's namespace leaves the thread where it was before."""
    from cni.network.netns import inside

    there = new_namespace()
    before = Path("/proc/thread-self/ns/net").readlink()

    with pytest.raises(ZeroDivisionError), inside(there.fd):
        raise ZeroDivisionError

    assert Path("/proc/thread-self/ns/net").readlink() == before
