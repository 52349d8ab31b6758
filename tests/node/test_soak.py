"""ADD and DEL for a long time, twenty at once: no leak, no drift, and how long an ADD takes."""

import os
import threading
import time
from pathlib import Path
from statistics import quantiles

import pytest

from sim.lab.lab import Lab
from sim.lab.node import LabNode
from sim.lab.plan import LabPlan
from tests.node.books import wait_settled
from tests.node.test_hostile import figures

pytestmark = pytest.mark.root

PAIRS = int(os.environ.get("WARMBENCH_PAIRS", "500"))
"""Pairs of ADD and DEL: `make soak` asks for 10,000."""

AT_ONCE = 20


def work(
    node: LabNode, worker: int, pairs: int, took: list[float], errors: list[Exception]
) -> None:
    """Make and delete one pod after the other."""
    try:
        for number in range(pairs):
            began = time.monotonic()
            node.add_pod(f"w{worker}-{number}")
            took.append(time.monotonic() - began)
            node.delete_pod(f"w{worker}-{number}")
    except Exception as error:
        errors.append(error)
        raise


def storm(node: LabNode, pairs: int) -> list[float]:
    """Run so many pairs, AT_ONCE side by side; return how long each ADD took, in seconds."""
    took: list[float] = []
    errors: list[Exception] = []
    share = max(pairs // AT_ONCE, 1)
    workers = [
        threading.Thread(target=work, args=(node, worker, share, took, errors))
        for worker in range(AT_ONCE)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
    return took


def test_pods_come_and_go_for_long(tmp_path: Path) -> None:
    """After all of them the books agree, and memory and descriptors are what they were."""
    settings = {"WARM_IP_TARGET": "30", "IP_COOLDOWN_PERIOD": "1"}
    plan = LabPlan(
        name=f"t{os.getpid():x}",
        run_dir=tmp_path,
        instance="m5.4xlarge",
        latency=0,
        settings=settings,
    )
    with Lab(plan) as lab:
        (node,) = lab.nodes
        stays = node.add_pod("stays")
        storm(node, max(PAIRS // 5, 100))
        wait_settled(lab, node)
        memory, descriptors = figures(node)
        took = storm(node, PAIRS)
        wait_settled(lab, node)
        memory_after, descriptors_after = figures(node)
        cuts = quantiles(took, n=100)
        print(  # noqa: T201 - what a soak is run for
            f"{len(took)} pairs, {AT_ONCE} at once: an ADD with its namespace takes"
            f" p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms; memory {memory} ->"
            f" {memory_after} KiB, descriptors {descriptors} -> {descriptors_after}"
        )
        assert descriptors_after <= descriptors + 2
        assert memory_after <= memory + 16 * 1024
        node.check_pod(stays)
