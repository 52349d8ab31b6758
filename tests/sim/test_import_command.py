"""`warmbench trace import` as a user meets it: the table, one line for what is wrong, no litter."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pytest
from typer.testing import CliRunner, Result

from benchmarks.audit_log import Log, lines
from sim.cli import app
from sim.sources.importers import IMPORTERS
from sim.trace import load

ROOT = Path(__file__).parents[2]
SAMPLES = Path(__file__).parents[2] / "sim" / "examples" / "samples"
AUDIT = SAMPLES / "audit.jsonl"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every command a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def run(*words: object) -> Result:
    """Run a command within this process."""
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def names_in(folder: Path) -> list[str]:
    """Return the names of what is in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def command(*words: object) -> list[str]:
    """Return a command for a process of its own."""
    return [sys.executable, "-m", "sim.cli", "trace", "import", *map(str, words)]


def started(*words: object) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter and command
        command(*words),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def opened_by(process: subprocess.Popen[str], pipe: Path) -> BinaryIO:
    """Open a pipe for writing once the command reads from it: it is at work then."""
    for _ in range(3000):
        with suppress(OSError):
            # Without a reader this fails, where a plain open would wait for ever.
            handle = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(handle, True)
            return os.fdopen(handle, "wb")
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
            pytest.fail(f"it ended without reading: {process.communicate()}")
    pytest.fail("it never read")


def finished(*words: object) -> tuple[int, str, str]:
    """Run a command in a process of its own; return its exit code and what it printed."""
    process = started(*words)
    told, wrong = process.communicate(timeout=60)
    return process.returncode, told, wrong


def test_without_a_format_all_are_listed() -> None:
    """A line for each format, and how to go on."""
    listed = run("trace", "import").stdout.splitlines()
    assert max(map(len, listed)) <= 80
    for line, one in zip(listed, IMPORTERS.values(), strict=False):
        assert line.rstrip().split(maxsplit=1) == [one.name, one.summary]


@pytest.mark.parametrize("name", IMPORTERS)
def test_a_format_alone_shows_its_how_to(name: str) -> None:
    """Whoever names no file is told how to get one."""
    assert IMPORTERS[name].how_to in run("trace", "import", name).stdout


def test_the_table_tells_what_became_of_everything(tmp_path: Path) -> None:
    """What was read, kept, guessed and dropped stands there with its number."""
    out = tmp_path / "trace.parquet"
    told = run("trace", "import", "audit", AUDIT, "--out", out).stdout
    assert len(load(out)) == 7
    assert max(map(len, told.splitlines()[:-1])) <= 80
    assert told.splitlines()[-1].startswith("7 pods over 30 min in ")
    asked = run("trace", "import", "audit", AUDIT, "--out", out, "--format", "json").stdout
    counts = {
        one["what"]: (one["fate"], one["number"]) for one in map(json.loads, asked.splitlines())
    }
    assert counts["host-network pods: they take no address"] == ("dropped", 1)
    assert counts["pods in the trace"] == ("kept", 7)


def test_what_cannot_be_written_is_told_before_anything_is_read(tmp_path: Path) -> None:
    """A slip in the output's name costs no hour of reading, and no input is written over."""
    log = tmp_path / "log.csv"
    log.write_bytes(AUDIT.read_bytes())
    missing = tmp_path / "missing"
    for out, reason in (
        (tmp_path / "trace.json", "unknown suffix"),
        (missing / "trace.csv", "no such folder"),
        (log, "would be written over"),
    ):
        with pytest.raises(ValueError, match=reason):
            run("trace", "import", "audit", log, missing, "--out", out)
    with pytest.raises(ValueError, match="no such file"):
        run("trace", "import", "audit", log, missing, "--out", tmp_path / "trace.csv")
    with pytest.raises(ValueError, match="--out FILE"):
        run("trace", "import", "audit", log)
    with pytest.raises(ValueError, match="name the files"):
        run("trace", "import", "audit", "--out", tmp_path / "trace.csv")
    assert log.read_bytes() == AUDIT.read_bytes()
    assert names_in(tmp_path) == ["log.csv"]


def test_a_broken_file_costs_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """Exit 2, one line with file and line number, and an older trace is still there."""
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(AUDIT.read_bytes()[:-40])
    last = AUDIT.read_bytes().count(b"\n")
    out = tmp_path / "trace.csv"
    out.write_text("older")
    code, told, wrong = finished("audit", AUDIT, broken, "--out", out)
    assert (code, told) == (2, "")
    why = "the file ends in the middle of this record (allowed: JSON)"
    assert wrong.splitlines() == [f"warmbench: {broken}, line {last}: {why}"]
    assert out.read_text() == "older"
    assert names_in(tmp_path) == ["broken.jsonl", "trace.csv"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a file ends with 130, one line, and no output."""
    pipe, out = tmp_path / "log.jsonl", tmp_path / "trace.csv"
    os.mkfifo(pipe)
    process = started("audit", pipe, "--out", out)
    with opened_by(process, pipe) as log:
        log.write(AUDIT.read_bytes())
        log.flush()
        process.send_signal(signal.SIGINT)
        told, wrong = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "")
    assert wrong == "warmbench: interrupted; nothing half-written is left\n"
    assert names_in(tmp_path) == ["log.jsonl"]


def test_a_pipe_is_read_as_a_file_is(tmp_path: Path) -> None:
    """What another program writes can be imported without a file between."""
    pipe, out = tmp_path / "log.jsonl", tmp_path / "trace.csv"
    os.mkfifo(pipe)
    process = started("audit", pipe, "--out", out)
    with opened_by(process, pipe) as log:
        log.write(AUDIT.read_bytes())
    assert process.wait(timeout=60) == 0
    process.communicate()
    assert len(load(out)) == 7


def peak_mib(*words: object) -> float:
    """Return the most memory an import held; the figure of a process of its own."""
    told = (
        "import resource, sys\n"
        "from sim.cli import main\n"
        "sys.argv = ['warmbench', 'trace', 'import', *sys.argv[1:]]\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run(  # noqa: S603 - as above
        [sys.executable, "-c", told, *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.splitlines()[-1]) / 1024


def test_memory_follows_pods_and_not_bytes(tmp_path: Path) -> None:
    """Ten times the bytes about as many pods cost no more memory."""
    sizes = []
    for others in (0, 40):
        log = tmp_path / f"{others}.jsonl"
        with log.open("w") as file:
            for line, _ in islice(lines(Log(others_a_pod=others)), 5 * 500 * (1 + others // 5)):
                file.write(line)
        sizes.append((log.stat().st_size, peak_mib("audit", log, "--out", tmp_path / "x.csv")))
    (small, small_mib), (large, large_mib) = sizes
    assert large > 7 * small
    assert large_mib < small_mib + 16


def test_a_file_that_unpacks_without_end_is_refused_early(tmp_path: Path) -> None:
    """A small file of one endless line is refused before it fills the memory."""
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        file.write(b'{"a":"')
        for _ in range(400):
            file.write(b"x" * (1 << 20))
    assert bomb.stat().st_size < 1 << 22
    out = tmp_path / "x.csv"
    code, _, wrong = finished("audit", bomb, "--out", out)
    assert code == 2
    assert "a value of more than 16,777,216 characters" in wrong
    assert peak_mib("audit", bomb, "--out", out) < 400
