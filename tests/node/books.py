"""What must hold on a lab's node once its daemon serves again: every book agrees with the others.

The books are the runtime's list of pods, the ledger on disk, the node's kernel and EC2.
"""

import asyncio
import json
import shutil
import time
from collections import Counter
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cni.daemon.ledger import Ledger, Recovered
from cni.network.desired import FROM_ENI, FROM_POD, TO_POD, host_link_name
from sim.lab.lab import Lab
from sim.lab.node import LabNode
from sim.vpc import EniDescription

PREFIX = "eni"
SETTLE_S = 20.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def recovered(node: LabNode) -> Recovered:
    """Return what a daemon that starts now would read in the ledger."""
    copied = node.runtime.directory / "ledger-copy.jsonl"
    shutil.copyfile(node.runtime.state_dir / "ledger.jsonl", copied)
    boot_id = BOOT_ID.read_text(encoding="ascii").strip()

    async def read() -> Recovered:
        ledger, found = Ledger.open(copied, boot_id=boot_id, now_unix=time.time())
        await ledger.close()
        return found

    return asyncio.run(read())


def wait_settled(lab: Lab, node: LabNode) -> None:
    """Return once the books agree; AssertionError with what differs where they never do.

    Links of deleted pods go half a second later, and ENIs of an earlier life some seconds.
    """
    until = time.monotonic() + SETTLE_S
    while True:
        try:
            check(lab, node)
        except AssertionError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


def check(lab: Lab, node: LabNode) -> None:
    """Compare all books of a node; AssertionError names what differs."""
    pods = [pod for pod in node.pods if pod.result]
    expected = {pod.container_id: pod.address for pod in pods}
    twice = [address for address, count in Counter(expected.values()).items() if count > 1]
    assert not twice, f"two pods have {twice}"
    found = recovered(node)
    assert found.problems == ()
    assert {one.sandbox.container_id: one.address for one in found.holdings} == expected
    enis = lab.call(lambda: lab.vpc.interfaces_of(node.instance_id, time.monotonic()))
    _check_ec2(lab, enis, expected)
    links = {host_link_name(PREFIX, "default", pod.name): str(pod.address) for pod in pods}
    _check_pods(node, links, enis)
    _check_enis(node, enis)


def _check_ec2(
    lab: Lab, enis: tuple[EniDescription, ...], expected: dict[str, IPv4Address]
) -> None:
    """Every pod's address is on an ENI of this node, and no ENI of the account hangs loose."""
    ours = {address for eni in enis for block in eni.blocks for address in block}
    assert set(expected.values()) <= ours
    loose = lab.call(lambda: lab.vpc.detached(time.monotonic()))
    assert not loose, f"ENIs of nobody: {loose}"


def _check_pods(node: LabNode, links: dict[str, str], enis: tuple[EniDescription, ...]) -> None:
    """Links, host routes and rules are those of the pods that live, and no more."""
    shown = _json(node, "link show type veth")
    assert {one["ifname"] for one in shown if one["ifname"].startswith(PREFIX)} == set(links)
    routes = _json(node, "route show table main")
    hosts = {one["dev"]: one["dst"] for one in routes if one["dev"].startswith(PREFIX)}
    assert hosts == links
    rules = _json(node, "rule show")
    to_pods = [one["dst"] for one in rules if one["priority"] == TO_POD]
    assert sorted(to_pods) == sorted(links.values())
    secondary = {
        str(address)
        for eni in enis
        if eni.attachment is not None and eni.attachment.device_index > 0
        for block in eni.blocks
        for address in block
    }
    from_pods = [one["src"] for one in rules if one["priority"] == FROM_POD]
    assert sorted(from_pods) == sorted(secondary & set(links.values()))


def _check_enis(node: LabNode, enis: tuple[EniDescription, ...]) -> None:
    """Each secondary ENI has its rule, and no ENI that is gone has one."""
    rules = _json(node, "rule show")
    from_enis = [one["src"] for one in rules if one["priority"] == FROM_ENI]
    secondary = [
        str(eni.primary_ip)
        for eni in enis
        if eni.attachment is not None and eni.attachment.device_index > 0
    ]
    assert sorted(from_enis) == sorted(secondary)


def _json(node: LabNode, words: str) -> list[dict[str, Any]]:
    """Return what `ip -json` shows in the node; objects without a key have an empty text there."""
    text = node.run(["ip", "-json", *words.split()]).stdout
    found: list[dict[str, Any]] = json.loads(text or "[]")
    return [{"dev": "", **one} for one in found]
