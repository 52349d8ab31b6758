"""The command as a user meets it: real processes, exit codes, one clear line for bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = str(ROOT / "sim" / "examples" / "web-and-jobs.csv")
FLEET = ("--max-enis", "3", "--ips-per-eni", "10", "--nodes", "10", "--subnet", "10.0.0.0/22")
KEYS = "pods enis addresses prefixes assigned available free_prefixes per_eni calls refused settled"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "NO_COLOR": "1"}
COMMAND = (sys.executable, "-m", "sim.cli")


def warmbench(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command; it must end with that exit code."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [*COMMAND, *words], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_node_tells_one_object_per_count() -> None:
    """Every promised key is there, one line for each count, and nothing else is printed."""
    words = "node --max-enis 3 --ips-per-eni 4 --set WARM_IP_TARGET=2 --pods 0,5,2 --format json"
    lines = warmbench(*words.split(), "--behaviour", "upstream", "--burst").stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert [one["pods"] for one in told] == [0, 5, 2]
    assert all(set(KEYS.split()) <= set(one) for one in told)
    assert told[1]["per_eni"] == [3, 3, 1]
    assert sum(told[0]["calls"].values()) == 1
    assert told[1]["settled"] is True


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_replay_writes_its_files(form: str, tmp_path: Path) -> None:
    """Summary, record and report are there, and the figures printed are those in the file."""
    out = tmp_path / "out"
    done = warmbench("replay", EXAMPLE, *FLEET, "--out", str(out), "--format", form)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["pods"] == summary["served"] + summary["waiting"] + summary["unschedulable"]
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert sorted(path.suffix for path in (out / "record").iterdir()).count(".parquet") >= 7
    assert not list(out.glob(".writing*"))
    if form == "json":
        assert json.loads(done.stdout) == summary


def test_replay_takes_its_other_options(tmp_path: Path) -> None:
    """Each option that changes the run is accepted and named in the summary or the notes."""
    numbers = tmp_path / "numbers.toml"
    numbers.write_text("")
    done = warmbench(
        *("replay", EXAMPLE, "--instance", "m5.large", "--nodes", "6", "--max-pods", "20"),
        *("--subnet", "10.0.0.0/24", "--subnet", "10.0.1.0/24,used=0.2", "--seed", "4"),
        *("--replicate", "2", "--compress", "3", "--thin", "0.5", "--placement", "pack"),
        *("--ignore-requests", "--cold", "--no-checks", "--numbers", str(numbers)),
        *("--behaviour", "upstream", "--set", "WARM_ENI_TARGET=2", "--format", "json"),
    )
    summary = json.loads(done.stdout)
    assert summary["scenario"]["checks"] == "off"
    assert summary["scenario"]["start"] == "cold"
    assert len(summary["subnets"]) == 2
    assert len([note for note in summary["trace_notes"] if "replicated" in note.lower()]) == 1


def test_compare_says_which_one(tmp_path: Path) -> None:
    """The verdict is on the terminal, in JSON and in the report."""
    words = ("compare", EXAMPLE, *FLEET, "--a", "WARM_ENI_TARGET=1", "--b", "WARM_IP_TARGET=5")
    table = warmbench(*words, "--out", str(tmp_path / "out")).stdout
    told = json.loads(warmbench(*words, "--format", "json").stdout)
    assert told["verdict"]["headline"].split()[0] in table
    assert (tmp_path / "out" / "b" / "summary.json").exists()
    assert warmbench(*words, "--format", "csv").stdout.startswith("figure,a,b")
    both = warmbench(*words, "--behaviour", "upstream", "--behaviour-b", "native")
    assert "native" in both.stdout


def test_traces_are_made_described_and_converted(tmp_path: Path) -> None:
    """A generated trace survives a conversion with its pods."""
    made, packed = str(tmp_path / "pods.csv"), str(tmp_path / "pods.parquet")
    warmbench("trace", "generate", "steady", "--set", "duration_s=600", "--out", made)
    warmbench("trace", "convert", made, packed)
    first, second = (
        json.loads(warmbench("trace", "describe", path, "--format", "json").stdout)
        for path in (made, packed)
    )
    assert first == second
    assert "steady" in warmbench("trace", "generate").stdout


BAD = [
    (["replay", "nowhere.csv", *FLEET], "no such file"),
    (["replay", EXAMPLE, "--subnet", "10.0.0.0/22"], "--instance"),
    (["replay", EXAMPLE, *FLEET, "--instance", "m5.large"], "--instance"),
    (["replay", EXAMPLE, "--instance", "m5.larg", "--subnet", "10.0.0.0/22"], "m5.large"),
    (["replay", EXAMPLE, *FLEET[:-1], "10.0.0.1/22"], "10.0.0.0/22"),
    (["replay", EXAMPLE, *FLEET[:-1], "10.0.0.0/22,used=x"], "used="),
    (["replay", EXAMPLE, *FLEET[:-1], "10.0.0.0/28", "--nodes", "99"], "fit"),
    (["replay", EXAMPLE, *FLEET, "--set", "WARM_IP_TARGETS=2"], "WARM_IP_TARGET"),
    (["replay", EXAMPLE, *FLEET, "--set", "WARM_IP_TARGET=two"], "two"),
    (["replay", EXAMPLE, *FLEET, "--set", "WARM_IP_TARGET"], "="),
    (["replay", EXAMPLE, *FLEET, "--compress", "0"], "compress"),
    (["replay", EXAMPLE, *FLEET, "--compress", "nan"], "compress"),
    (["replay", EXAMPLE, *FLEET, "--thin", "2"], "thin"),
    (["replay", EXAMPLE, *FLEET, "--nodes", "0"], "nodes"),
    (["replay", EXAMPLE, *FLEET, "--max-pods", "1"], "max-pods"),
    (["replay", EXAMPLE, *FLEET, "--numbers", "nowhere.toml"], "nowhere.toml"),
    (["replay", str(ROOT), *FLEET], "folder"),
    (["compare", EXAMPLE, *FLEET, "--a", "x", "--b", "WARM_IP_TARGET=1"], "x"),
    (["node", "--instance", "m5.large", "--pods", "x"], "--pods"),
    (["node", "--instance", "m5.large", "--pods", "-1"], "--pods"),
    (["node", "--max-enis", "0", "--ips-per-eni", "4", "--pods", "1"], "--max-enis"),
    (
        ["node", "--instance", "m4.large", "--pods", "1", "--set", "ENABLE_PREFIX_DELEGATION=true"],
        "prefixes",
    ),
    (["limits", "m5.enormous"], "m5."),
    (["trace", "generate", "steadi", "--out", "x.csv"], "steady"),
    (["regress", "nowhere.toml"], "no such file"),
    (["frobnicate"], "frobnicate"),
]


@pytest.mark.parametrize(("words", "told"), BAD, ids=lambda value: str(value)[-40:])
def test_bad_input_is_one_clear_error(words: list[str], told: str, tmp_path: Path) -> None:
    """Exit 2, what is wrong named on standard error, nothing on standard output or on disk."""
    out = tmp_path / "out"
    extra = ["--out", str(out)] if words[0] in {"replay", "compare"} else []
    done = warmbench(*words, *extra, code=2)
    assert told.lower() in done.stderr.lower()
    assert done.stdout == ""
    assert not out.exists()


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """The file stays as it was."""
    out = tmp_path / "file"
    out.write_text("mine")
    warmbench("replay", EXAMPLE, *FLEET, "--out", str(out), code=2)
    assert out.read_text() == "mine"


def test_an_interrupt_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a replay: exit 130, one line, no output folder."""
    out = tmp_path / "out"
    words = ("replay", EXAMPLE, *FLEET, "--replicate", "40", "--ignore-requests")
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        [*COMMAND, *words, "--nodes", "200", "--subnet", "10.1.0.0/16", "--out", str(out)],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        first = running.stderr.readline()  # The trace is told before the run begins.
        running.send_signal(signal.SIGINT)
        rest = running.stderr.read()
    assert running.returncode == 130, first + rest
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert not out.exists()


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`warmbench limits | head -1` says nothing on standard error."""
    line = f"{' '.join(COMMAND)} limits --format csv | head -1"
    done = subprocess.run(  # noqa: S602 - a pipe is what is tested
        line, shell=True, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_help_tells_every_command() -> None:
    """The list of commands and the version are there without a project around."""
    told = warmbench("--help").stdout
    assert all(name in told for name in ("node", "replay", "compare", "limits", "trace", "regress"))
    assert warmbench("--version").stdout.startswith("warmbench")
