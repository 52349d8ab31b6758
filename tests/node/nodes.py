"""Nodes for a container runtime: a network namespace, a plug-in and who knows its addresses.

The same tests run on two of them. The stock plug-ins prove the harness: what fails there is no
fault of ours. Then comes the plug-in of this project with its daemon.
"""

import contextlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from tests.node.containerd import STOCK_PLUGINS

STOCK_NETWORK = "stock"
STOCK_CONFLIST = "20-stock.conflist"


@dataclass(frozen=True, slots=True)
class Node:
    """What the tests of runtimes need to know of a node, whichever plug-in it has.

    `network` is the name in its configuration; `plugins` are programs by type, first the one that
    the configuration begins with; `host_link` matches the names of the links that it makes on the
    host; `assigned` tells addresses by container ID.
    """

    netns: str
    conf_dir: Path
    network: str
    plugins: Mapping[str, Path]
    environment: Mapping[str, str]
    assigned: Callable[[], Mapping[str, str]]
    host_link: re.Pattern[str]

    @property
    def main_plugin(self) -> str:
        """The type that the configuration names."""
        return next(iter(self.plugins))


@contextlib.contextmanager
def stock_node(name: str, folder: Path, addresses: IPv4Network) -> Iterator[Node]:
    """Make a node with the stock plug-ins `ptp` and `host-local`; its configuration is written."""
    held = folder / "held"
    conf_dir = folder / "net.d"
    conf_dir.mkdir()
    (conf_dir / STOCK_CONFLIST).write_text(stock_conflist(addresses, held), encoding="utf-8")
    with network_namespace(name):
        yield Node(
            netns=name,
            conf_dir=conf_dir,
            network=STOCK_NETWORK,
            plugins={
                plugin: STOCK_PLUGINS / plugin for plugin in ("ptp", "host-local", "loopback")
            },
            environment={},
            assigned=lambda: held_addresses(held / STOCK_NETWORK),
            host_link=re.compile(r"veth[0-9a-f]{8}"),
        )


def stock_conflist(addresses: IPv4Network, held: Path) -> str:
    """Configure `ptp` with the addresses of a network, kept below `held`."""
    ipam = {
        "type": "host-local",
        "dataDir": str(held),
        "ranges": [[{"subnet": str(addresses)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    whole = {
        "cniVersion": "1.0.0",
        "name": STOCK_NETWORK,
        "plugins": [{"type": "ptp", "ipMasq": False, "ipam": ipam}],
    }
    return json.dumps(whole)


def held_addresses(folder: Path) -> dict[str, str]:
    """Read host-local's store: a file for each address, which holds container ID and interface."""
    with contextlib.suppress(FileNotFoundError):
        return {
            file.read_text(encoding="utf-8").split()[0]: file.name
            for file in sorted(folder.iterdir())
            if file.name[0].isdigit()
        }
    return {}


@contextlib.contextmanager
def network_namespace(name: str) -> Iterator[None]:
    """Make a named network namespace, and delete it."""
    ip("netns", "add", name)
    try:
        ip("-netns", name, "link", "set", "lo", "up")
        yield
    finally:
        ip("netns", "delete", name)


def traces_of(node: Node, addresses: set[str]) -> list[str]:
    """List what the node's kernel still has of sandboxes: their links, rules, routes, neighbours.

    Links are known by the plug-in's names for them, all else by the addresses in it.
    """
    shown = [
        line
        for what in (("rule", "show"), ("route", "show", "table", "all"), ("neigh", "show"))
        for line in ip("-4", "-netns", node.netns, *what).splitlines()
        if addresses & set(re.split(r"[ /\t]+", line))
    ]
    for line in ip("-oneline", "-netns", node.netns, "link", "show").splitlines():
        name = line.split(": ")[1].split("@")[0]
        if node.host_link.fullmatch(name):
            shown.append(line)
    return shown


def ip(*arguments: str) -> str:
    """Run iproute2's `ip`."""
    done = subprocess.run(  # noqa: S603, the system's program
        ["ip", *arguments],  # noqa: S607
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout
