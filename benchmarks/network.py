"""(e) One pod's links, routes and rules, 200 pods in shuffled order: three ways, in alternation.

The three make and remove the same things. The first is pyroute2 as its manual has it, an
`IPRoute` on the host and one opened inside each pod's namespace; the second has pyroute2 encode
what is sent, in the same batches as ours; the third is ours, which patches what was encoded once.
What is left is the kernel's: the parts of ours are told as well. Removing does not include the
deletion of the link, which ours leaves to a thread and the first does itself.

Seen on two shared cores, p50/p99 in ms: in alternation, install 9.7/18 by IPRoute, 3.3/6.4
encoded for each pod, 1.4/3.7 ours; remove 29/62, 0.63/2.2 and 0.16/0.41. Ours alone, 200 pods in
a row: install 0.8/1.3 to 1.1/2.4, remove 0.07/0.33 to 0.11/0.53 (a hand-packed encoder that does
less, without sysctls and without waiting for the carrier, had 0.9/1.4 in the same minutes).
Half of an install is the kernel making the pair, a quarter its work in the pod's namespace.
"""

import ctypes
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from time import perf_counter

from pyroute2 import IPRoute

from cni.network.batches import Batch, Placement
from cni.network.desired import MAIN_TABLE, POD_GATEWAY, NetworkOptions, PodNetwork, host_link_name
from cni.network.errors import refused
from cni.network.netlink import Kernel
from cni.network.netns import CLONE_NEWNET, inside
from cni.network.rtnetlink import Replies, RouteSocket
from cni.network.templates import Templates

PODS, WARM = 200, 5
WANTED_MS = 1.0
WANTED_REMOVE_MS = 0.3
Rows = list[tuple[str, str, str]]


def measure() -> Rows:
    """Return rows of (what, measured, wanted); needs root."""
    if os.geteuid() != 0:
        return [("one pod's network", "needs root", "")]
    rows: Rows = []
    # A thread of its own is in the node's namespace, and ends there.
    thread = threading.Thread(target=lambda: rows.extend(_in_a_node()))
    thread.start()
    thread.join()
    return rows


def _in_a_node() -> Rows:
    libc = ctypes.CDLL(None)
    assert libc.unshare(CLONE_NEWNET) == 0
    with IPRoute() as loopback:
        loopback.link("set", index=1, state="up")
    times: dict[str, list[float]] = {}
    timed = TimedTemplates()
    ours, encoding = Kernel(NetworkOptions(), templates=timed), Kernel(NetworkOptions())
    encoding._tools = type(encoding._tools)(  # noqa: SLF001, the way that is compared
        encoding._socket,  # noqa: SLF001
        EncodeEachTime(),
        "/proc/sys",
    )
    plain = Plain()
    ways: dict[str, Kernel | Plain] = {
        "pyroute2's IPRoute": plain,
        "encoded for each pod": encoding,
        "patched templates": ours,
    }
    try:
        for number in range(WARM + PODS):
            for name in random.sample(list(ways), len(ways)):
                install, remove = _one(ways[name], name, number)
                if number >= WARM:
                    times.setdefault(f"install, {name}", []).append(install)
                    times.setdefault(f"remove, {name}", []).append(remove)
    finally:
        for way in ways.values():
            way.close()
    rows = [(what, _quantiles(each), _wanted(what)) for what, each in sorted(times.items())]
    return rows + [
        (f"of ours: {name}", _quantiles(each[WARM:]), "") for name, each in timed.times.items()
    ]


def _one(way: "Kernel | Plain", name: str, number: int) -> tuple[float, float]:
    """Return milliseconds of installing and removing a pod; its namespace ends after it."""
    pod = PodNetwork(
        host_link_name("eni", name, str(number)),
        "eth0",
        IPv4Address("10.0.4.0") + number,
        MAIN_TABLE if number % 2 else 3,
        9001,
    )
    with _namespace() as netns_fd:
        started = perf_counter()
        way.install_pod(pod, netns_fd)
        installed = perf_counter()
        way.remove_pod(pod)
        removed = perf_counter()
    return (installed - started) * 1e3, (removed - installed) * 1e3


@contextmanager
def _namespace() -> Iterator[int]:
    made: list[int] = []

    def make() -> None:
        assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
        made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    maker = threading.Thread(target=make)
    maker.start()
    maker.join()
    try:
        yield made[0]
    finally:
        os.close(made[0])


class TimedTemplates(Templates):
    """Ours, with the time that each batch takes."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[str, list[float]] = {}

    def run(self, kernel: RouteSocket, batch: Batch, placed: Placement, *accepted: int) -> Replies:
        """Carry a batch out and note the milliseconds."""
        started = perf_counter()
        replies = super().run(kernel, batch, placed, *accepted)
        taken = (perf_counter() - started) * 1e3
        self.times.setdefault(batch.__name__, []).append(taken)
        return replies


class EncodeEachTime(Templates):
    """The same batches, encoded by pyroute2 for each pod."""

    def run(self, kernel: RouteSocket, batch: Batch, placed: Placement, *accepted: int) -> Replies:
        """Encode and carry out."""
        requests = batch(placed)
        sent = b"".join(request.data for request in requests)
        replies = kernel.exchange(sent, len(requests))
        for request, number in zip(requests, replies.errors, strict=True):
            if number and number not in (*request.accepted, *accepted):
                raise refused(request.step, number)
        return replies


class Plain:
    """The same things by pyroute2's own calls."""

    def __init__(self) -> None:
        self._host = IPRoute()

    def install_pod(self, pod: PodNetwork, netns_fd: int) -> None:
        """Make everything that ours makes."""
        peer = {"ifname": pod.ifname, "mtu": pod.mtu, "net_ns_fd": netns_fd}
        host, dst, gateway = self._host, f"{pod.address}/32", str(POD_GATEWAY)
        host.link("add", ifname=pod.host_link, kind="veth", mtu=pod.mtu, peer=peer, state="up")
        (index,) = host.link_lookup(ifname=pod.host_link)
        mac = host.get_links(index)[0].get_attr("IFLA_ADDRESS")
        host.route("add", dst=dst, oif=index, scope="link")
        for rule in _rules(pod):
            host.rule("add", **rule)
        with inside(netns_fd):
            within = IPRoute()
        with within:
            (link,) = within.link_lookup(ifname=pod.ifname)
            within.link("set", index=1, state="up")
            within.link("set", index=link, state="up")
            within.addr("add", index=link, address=str(pod.address), prefixlen=32)
            within.route("add", dst=f"{gateway}/32", oif=link, scope="link")
            within.route("add", dst="default", gateway=gateway, oif=link, flags=["onlink"])
            within.neigh("replace", dst=gateway, lladdr=mac, ifindex=link, state="permanent")

    def remove_pod(self, pod: PodNetwork) -> None:
        """Remove it, the link included."""
        for rule in _rules(pod):
            self._host.rule("del", **rule)
        (index,) = self._host.link_lookup(ifname=pod.host_link)
        self._host.route("del", dst=f"{pod.address}/32", oif=index, scope="link")
        self._host.link("del", index=index)

    def close(self) -> None:
        """Close the socket."""
        self._host.close()


def _rules(pod: PodNetwork) -> list[dict[str, object]]:
    address = {"dst": str(pod.address), "dst_len": 32, "priority": 512, "table": MAIN_TABLE}
    if pod.table == MAIN_TABLE:
        return [address]
    return [
        address,
        {"src": str(pod.address), "src_len": 32, "priority": 1536, "table": pod.table},
    ]


def _quantiles(times: list[float]) -> str:
    ordered = sorted(times)
    return f"p50 {ordered[len(ordered) // 2]:.3f}, p99 {ordered[len(ordered) * 99 // 100]:.3f} ms"


def _wanted(what: str) -> str:
    if "templates" not in what:
        return ""
    return f"p50 <= {WANTED_MS if what.startswith('install') else WANTED_REMOVE_MS} ms"
