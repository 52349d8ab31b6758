"""`warmbench sweep` and `recommend` as a user meets them; the seed makes all of it exact."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "NO_COLOR": "1"}
COMMAND = (sys.executable, "-m", "sim.cli")
FLEET = ("--max-enis", "3", "--ips-per-eni", "10", "--nodes", "3", "--subnet", "10.0.0.0/24")


def warmbench(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command; it must end with that exit code."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [*COMMAND, *words], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make the trace that all commands here replay."""
    path = str(tmp_path_factory.mktemp("trace") / "jobs.csv")
    warmbench("trace", "generate", "minute-jobs", "--set", "duration_s=300", "--out", path)
    return path


def test_a_sweep_writes_its_table_and_goes_on(jobs: str, tmp_path: Path) -> None:
    """Rows for every cell; asked again, nothing is run; widened, only what is new is."""
    out = tmp_path / "out"
    words = ("sweep", jobs, *FLEET, "--seeds", "2", "--jobs", "1", "--out", str(out))
    narrow = warmbench(*words, "--grid", "WARM_IP_TARGET=1,4")
    assert "5 runs, of these 5 computed now" in narrow.stderr
    assert "on the front" in narrow.stdout
    first = (out / "sweep.parquet").read_bytes()
    again = warmbench(*words, "--grid", "WARM_IP_TARGET=1,4")
    assert "5 runs, of these 0 computed now" in again.stderr
    assert (out / "sweep.parquet").read_bytes() == first
    wide = warmbench(*words, "--grid", "WARM_IP_TARGET=1,4", "--list", "WARM_ENI_TARGET=2")
    assert "7 runs, of these 2 computed now" in wide.stderr
    rows = list(csv.DictReader((out / "sweep.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["seed"] for row in rows] == ["0", "1"] * 3
    page = (out / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "<svg" in page
    assert not list(out.glob(".writing*"))


def test_axes_beside_settings(jobs: str, tmp_path: Path) -> None:
    """Types, subnets, nodes and behaviours are crossed; what cannot be run fails alone."""
    axes = ("instance=m5.large,m4.large", "nodes=2,3", "behaviour=native,upstream")
    grid = [word for axis in axes for word in ("--grid", axis)]
    words = ("--subnet", "10.0.0.0/24", "--grid", "subnet=10.1.0.0/24 10.2.0.0/24,used=0.5")
    fixed = ("--set", "ENABLE_PREFIX_DELEGATION=true", "--jobs", "1", "--out", str(tmp_path))
    done = warmbench("sweep", jobs, *words, *grid, *fixed, "--format", "json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 16
    failed = [row for row in rows if row["error"]]
    assert len(failed) == 8
    assert {row["instance"] for row in failed} == {"m4.large"}
    assert {row["subnet"] for row in rows} == {"10.1.0.0/24", "10.2.0.0/24,used=0.5"}


def test_an_interrupt_leaves_a_cache_to_go_on_from(jobs: str, tmp_path: Path) -> None:
    """Ctrl-C amid a sweep in processes: exit 130, no table, and each cached file is whole."""
    out = tmp_path / "out"
    grid = ("--grid", "WARM_IP_TARGET=1..20", "--grid", "MINIMUM_IP_TARGET=21..60")
    words = ("sweep", jobs, *FLEET, *grid, "--jobs", "2", "--out", str(out))
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        [*COMMAND, *words],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        until = time.monotonic() + 60
        while not list(out.glob("cache/*.json")) and time.monotonic() < until:
            assert running.poll() is None
        # The terminal sends it to every process of the group.
        os.killpg(running.pid, signal.SIGINT)
        _, told = running.communicate(timeout=30)
    assert running.returncode == 130, told
    assert "Traceback" not in told
    assert not (out / "sweep.csv").exists()
    kept = list(out.glob("cache/*.json"))
    assert kept
    for file in kept:
        assert json.loads(file.read_text())["key"] == file.stem


def test_recommend_tells_and_writes_its_answer(jobs: str, tmp_path: Path) -> None:
    """What to deploy is on the terminal and in the file; a promise nobody keeps exits with 1."""
    out = tmp_path / "out"
    words = ("recommend", jobs, *FLEET, "--seeds", "2", "--runs", "60", "--jobs", "1")
    upstream = ("--behaviour", "upstream", "--out", str(out))
    done = warmbench(*words, *upstream, "--slo", "p99_wait<=1min")
    answer = json.loads((out / "recommend.json").read_text())
    assert answer["deploy"] in done.stdout
    assert (out / "report.html").exists()
    again = warmbench(*words, *upstream, "--slo", "p99_wait<=1min", "--format", "json")
    assert json.loads(again.stdout) == answer
    hard = warmbench(*words, *upstream, "--slo", "taken<=3", code=1)
    assert "what would have to change" in hard.stdout
    assert "kubectl" not in hard.stdout


BAD = [
    (["sweep", "--grid", "WARM_IP_TARGETS=1"], "WARM_IP_TARGET"),
    (["sweep", "--grid", "WARM_IP_TARGET"], "NAME=VALUE"),
    (["sweep", "--grid", "warm=1"], "instance"),
    (["sweep", "--grid", "nodes=0"], "from 1"),
    (["sweep", "--grid", "behaviour=aws"], "upstream"),
    (["sweep", "--grid", "nodes=1", "--grid", "nodes=2"], "twice"),
    (["sweep", "--list", "WARM_IP_TARGET=two"], "two"),
    (["sweep", "--scheduler", "nowhere"], "--scheduler"),
    (["recommend", "--slo", "p99_wait<1s"], "NAME<=VALUE"),
    (["recommend", "--slo", "latency<=1s"], "nothing of that name"),
    (["recommend", "--set", "WARM_IP_TARGET=2"], "warmbench sweep"),
]


@pytest.mark.parametrize(("words", "told"), BAD, ids=lambda value: str(value)[-40:])
def test_bad_input_is_one_clear_error(
    words: list[str], told: str, jobs: str, tmp_path: Path
) -> None:
    """Exit 2, what is wrong on standard error, nothing on standard output or on disk."""
    out = tmp_path / "out"
    done = warmbench(words[0], jobs, *FLEET, *words[1:], "--out", str(out), code=2)
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not out.exists()
