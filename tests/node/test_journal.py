"""What a node wrote down replays in the workbench: today's allocator gives the same answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.lab.lab import Lab
from sim.lab.plan import LabPlan

pytestmark = pytest.mark.root


def test_a_nodes_journal_replays_alone(tmp_path: Path) -> None:
    """Pods come, go and wait on a real daemon; `warmbench replay-journal` finds no difference."""
    settings = {"WARM_IP_TARGET": "2", "IP_COOLDOWN_PERIOD": "1", "WARMBENCH_ADD_WAIT": "20"}
    plan = LabPlan(
        name=f"t{os.getpid():x}",
        run_dir=tmp_path,
        instance="t3.small",
        latency=0,
        settings=settings,
    )
    with Lab(plan) as lab:
        (node,) = lab.nodes
        for number in range(9):
            node.add_pod(f"pod-{number}")
        for number in range(0, 9, 2):
            node.delete_pod(f"pod-{number}")
        node.add_pod("waits-for-a-cooldown")
        node.end_daemon()
        segments = sorted((node.runtime.state_dir / "journal").glob("*.jsonl"))
        assert segments
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "sim.cli", "replay-journal", *map(str, segments)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10" in done.stdout
    print(done.stdout)  # noqa: T201 - shown where the test fails
