"""Nodes with our daemon, for tests of container runtimes: each the only node of a lab."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from cni.daemon.install import NETWORK, PLUGIN, STOCK
from sim.lab.lab import Lab
from sim.lab.node import LabNode
from sim.lab.plan import LabPlan
from tests.node.books import recovered
from tests.node.containerd import STOCK_PLUGINS
from tests.node.nodes import Node


def assigned_on(node: LabNode) -> Mapping[str, str]:
    """Say which sandbox, by container ID, holds which address, as the ledger has it."""
    holdings = recovered(node).holdings
    return {one.sandbox.container_id: str(one.address) for one in holdings}


@contextlib.contextmanager
def daemon_node(
    name: str, folder: Path, plugin: str, instance: str, settings: Mapping[str, str]
) -> Iterator[Node]:
    """Bring up a lab with one node, whose EC2 answers at once; `plugin` is "python" or "c"."""
    plan = LabPlan(
        name=name, run_dir=folder, instance=instance, latency=0, plugin=plugin, settings=settings
    )
    with Lab(plan) as lab:
        (node,) = lab.nodes
        stock = {name: STOCK_PLUGINS / name for name in STOCK}
        yield Node(
            netns=node.namespace.name,
            conf_dir=node.runtime.conf_dir,
            network=NETWORK,
            plugins={PLUGIN: node.runtime.bin_dir / PLUGIN} | stock,
            environment={"WARMBENCH_STATE_DIR": str(node.runtime.state_dir)},
            assigned=partial(assigned_on, node),
            host_link=re.compile(r"eni[0-9a-f]{11}"),
        )
