"""The journals that ship: what three daemons of ours would have written in two hours.

To write them anew after a change of the recipe or of the allocator:
`python -m tests.sim.test_example_journals`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from cni.allocator.allocator import Allocator
from cni.allocator.behaviour import UPSTREAM
from cni.allocator.journal import Journaled, Start
from cni.daemon.journal_file import JournalFile
from cni.settings import Settings
from sim import trace
from sim.node_type import named
from sim.replay import replay_file
from sim.scenario import scenario_for
from sim.simulation import run
from sim.sources import shapes
from sim.sources.pods import Trace

JOURNALS = Path(__file__).resolve().parents[2] / "sim" / "examples" / "journals"
NODES = 3
BEGAN_AT = 1_794_297_600.0
"""2026-11-10, 08:00 UTC."""
BYTES_MAX = 640_000
"""What a node keeps: more than it writes, in segments of 80 kB."""

SANDBOX = re.compile(r'(\["aws-cni",")(\d+)"')


def two_hours() -> Trace:
    """Return web pods, cron jobs, a deployment that is restarted, and a burst."""
    parts = {
        "web": shapes.steady(rate_per_s=0.015, mean_life_s=1500, duration_s=7200, seed=11),
        "cron": shapes.minute_jobs(jobs=3, period_s=120, duration_s=7200, seed=12),
        "shop": shapes.rolling_restart(
            pods=12, batch=4, start_s=2400, rest_s=4000, restarts=1, seed=13
        ),
        "burst": shapes.scale(
            pods=45, ramp_s=5, hold_s=600, rest_s=3000, repeats=1, cpu_m=50, seed=14
        ),
    }
    # Daemons start first, and pods come a minute later: not on the beat of their five seconds.
    return trace.shift(trace.merge(parts), 62.5)


@contextmanager
def journaled(folder: Path) -> Iterator[None]:
    """Let each node of a run keep its journal in a folder of its own, as the daemon does."""
    files: list[JournalFile] = []

    def make(**arguments: Any) -> Allocator:
        start = Start(**arguments)
        clock = [float(start.now)]
        place = folder / f"ip-10-0-0-{11 + len(files)}"
        file = JournalFile(place, BYTES_MAX, unix=lambda: BEGAN_AT + clock[0], tell=print)
        files.append(file)

        refused: Counter[str] = Counter()

        def write(line: str) -> None:
            one = json.loads(line)
            clock[0] = one["now"]
            file.write(with_real_ids(line, refused))
            if one.get("in") == "assign" and not isinstance(one["answer"], str):
                # The kubelet's next try is a sandbox of its own.
                refused[one["sandbox"][1]] += 1

        allocator = Journaled(start, write)
        file.snapshot_by(lambda: with_real_ids(allocator.snapshot(), refused))
        return allocator

    with patch("sim.node.Allocator", make):
        yield
    for file in files:
        file.close()


def with_real_ids(line: str, refused: Mapping[str, int]) -> str:
    """Call sandboxes as a runtime would: the simulator numbers pods, and keeps the number."""

    def name(found: re.Match[str]) -> str:
        text = f"{found[2]}/{refused.get(found[2], 0)}"
        return f'{found[1]}{sha256(text.encode()).hexdigest()}"'

    return SANDBOX.sub(name, line)


def write_journals(folder: Path) -> None:
    """Run the two hours on three nodes whose warm pool somebody has cut to two addresses."""
    scenario = scenario_for(
        named("m5.xlarge"),
        Settings(warm_ip_target=2),
        subnets="10.0.0.0/24",
        nodes=NODES,
        behaviour=UPSTREAM,
        warm=False,
    )
    with journaled(folder):
        run(scenario, two_hours())


def inputs_in(folder: Path) -> dict[str, list[str]]:
    """Return each node's inputs with their answers, whatever headers stand between them."""
    return {
        node.name: [
            line
            for path in sorted(node.iterdir())
            for line in path.read_text(encoding="utf-8").splitlines()
            if not line.startswith('{"format"')
        ]
        for node in folder.iterdir()
    }


def test_the_journals_are_what_their_recipe_makes(tmp_path: Path) -> None:
    """Inputs and answers equal the recipe's; headers may be of an earlier version."""
    write_journals(tmp_path)

    assert inputs_in(tmp_path) == inputs_in(JOURNALS)


@pytest.mark.parametrize("path", sorted(JOURNALS.glob("*/*")), ids=lambda path: path.name)
def test_todays_allocator_gives_the_answers_in_the_journals(path: Path) -> None:
    """Whoever changes a decision of the allocator sees it here, and writes the journals anew."""
    assert replay_file(path).report.mismatch is None


def test_each_node_has_more_than_one_segment() -> None:
    """As on a node: a file ends, and the next one goes on from a snapshot."""
    folders = sorted(JOURNALS.iterdir())

    assert [folder.name for folder in folders] == [f"ip-10-0-0-{11 + n}" for n in range(NODES)]
    assert all(len(list(folder.iterdir())) > 1 for folder in folders)


if __name__ == "__main__":
    shutil.rmtree(JOURNALS, ignore_errors=True)
    write_journals(JOURNALS)
