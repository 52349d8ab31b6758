"""A node's journal tells its day, and whether today's allocator would answer the same."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cni.allocator.actions import FailureReason
from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.allocator.model import BlockKind, Instant
from sim.cli import app
from sim.replay import day_of
from tests.allocator.fake_ec2 import Driver, Fault, sandbox
from tests.allocator.test_journal import A_NODE, a_day, journaled
from tests.allocator.test_snapshot import cut_day


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every command a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def run(*words: str | Path) -> Result:
    """Run the command; what goes wrong ends as it does for a user."""
    return CliRunner().invoke(app, ["replay-journal", *map(str, words)])


def written(path: Path, lines: list[str]) -> Path:
    """Write a journal."""
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def a_journal(behaviour: Behaviour = NATIVE) -> list[str]:
    """Return the lines of a day."""
    lines: list[str] = []
    a_day(behaviour, lines.append, BlockKind.SECONDARY_IP)
    return lines


def test_a_day_is_counted() -> None:
    """ADDs served, waiting, refused and given up; DELs; actions and failures: each where it is."""
    lines: list[str] = []
    node = Driver(behaviour=NATIVE, make=journaled(lines.append), **A_NODE)
    node.run(100)
    node.add_many(*range(3))
    node.ec2.faults.append(Fault("CreateNetworkInterface", FailureReason.THROTTLED))
    node.add_many(*range(3, 40))
    at_once = len(node.served)
    node.run(120)
    waiting = [n for n in range(40) if n not in node.served]
    for number in waiting:
        node.allocator.stop_waiting(sandbox(number), Instant(node.now))
        node.allocator.stop_waiting(sandbox(number), Instant(node.now))
    node.delete_many(0, 1)
    with pytest.raises(Exception, match="pod-0"):
        node.delete(0)
    day = day_of(lines)
    assert day.segments == 1
    assert day.inputs == len(lines) - 1
    assert day.span_s == pytest.approx(120.0)
    assert (day.adds, day.served_at_once) == (40, at_once)
    assert day.waited + sum(day.refused.values()) - len(waiting) == 40 - at_once
    assert day.served_after_waiting == len(node.served) - at_once
    assert 0 < day.longest_wait_s < 20
    assert sum((+day.refused).values()) == 40 - len(node.served) > 0
    assert (day.dels, day.dels_of_nothing) == (2, 1)
    assert day.actions.total() == len(node.actions)
    assert day.failed == {"THROTTLED": 1}


@pytest.mark.parametrize("behaviour", [NATIVE, UPSTREAM])
def test_figures_of_the_pieces_add_up(behaviour: Behaviour) -> None:
    """Cut into segments, a day is the same day."""
    segments = cut_day(behaviour, BlockKind.SECONDARY_IP, 7)
    days = [day_of(segment) for segment in segments]
    whole = day_of([line for segment in segments for line in segment])
    for name in ("inputs", "adds", "served_at_once", "served_after_waiting", "dels"):
        assert sum(getattr(day, name) for day in days) == getattr(whole, name), name
    assert whole.span_s == pytest.approx(sum(day.span_s for day in days))
    assert sum((day.actions for day in days), start=whole.actions.__class__()) == whole.actions
    assert whole.segments == len(segments)


def test_the_same_answers_exit_0(tmp_path: Path) -> None:
    """Each file has its day and its verdict, within 80 columns."""
    files = [
        written(tmp_path / f"{n:08d}.jsonl", segment)
        for n, segment in enumerate(cut_day(NATIVE, BlockKind.PREFIX, 30))
    ]
    done = run(*files[:2])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines.count("Today's allocator gives the same 29 answers.") == 1
    assert lines.count("Today's allocator gives the same 30 answers.") == 1
    assert all(len(line) <= 80 for line in lines if not line.startswith(str(tmp_path)))
    told = dict(line.split(maxsplit=1) for line in lines[1:6])
    assert "served at once" in told["ADDs"]
    assert "AddBlocks" in told["actions"]


def test_another_answer_exits_1_with_both(tmp_path: Path) -> None:
    """The line, the input and both answers are shown; the figures are of the whole file."""
    lines = a_journal()
    number = next(n for n, line in enumerate(lines) if '"answer":"10.' in line)
    changed = json.loads(lines[number]) | {"answer": "192.0.2.1"}
    lines[number] = json.dumps(changed)
    path = written(tmp_path / "journal.jsonl", lines)
    done = run(path)
    assert done.exit_code == 1
    assert f"Line {number + 1} comes out differently today" in done.stdout
    assert '  journal: "192.0.2.1"' in done.stdout
    assert '  today:   "10.0.0.' in done.stdout
    (told,) = [json.loads(line) for line in run(path, "--format", "json").stdout.splitlines()]
    assert told["differs"]["line"] == number + 1
    assert told["inputs"] == len(lines) - 1


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([], "line 1: the journal is empty"),
        (["what?"], "line 1: this is not JSON"),
        (['{"format":"other","now":1}'], "line 1: this is no journal"),
        (['{"format":"warmbench-journal","version":99}'], "version 99 of the journal is not known"),
        ([*a_journal()[:3], "{", *a_journal()[3:]], "line 4: this is not JSON"),
        ([*a_journal()[:3], '{"in":"dance"}', ""], "line 4: the field"),
    ],
)
def test_what_cannot_be_read_exits_2_and_the_others_are_told(
    tmp_path: Path, lines: list[str], problem: str
) -> None:
    """One line names the file and the line; a good file beside it has its verdict all the same."""
    bad = written(tmp_path / "bad.jsonl", lines)
    good = written(tmp_path / "good.jsonl", a_journal())
    done = run(bad, good)
    assert done.exit_code == 2
    assert problem in done.stderr
    assert str(bad) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "gives the same" in done.stdout


def test_a_file_that_is_not_there_exits_2(tmp_path: Path) -> None:
    """A wrong path is bad input, and so is what is no text."""
    done = run(tmp_path / "none.jsonl")
    assert done.exit_code == 2
    assert "No such file" in done.stderr
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 9)
    done = run(tmp_path / "binary")
    assert done.exit_code == 2
    assert "this is not JSON" in done.stderr


def test_a_torn_end_is_told(tmp_path: Path) -> None:
    """What a crash cut off is no difference."""
    path = tmp_path / "torn.jsonl"
    path.write_text("\n".join(a_journal())[:-20])
    done = run(path)
    assert done.exit_code == 0
    assert "The last line is cut off" in done.stdout


def test_figures_for_programs(tmp_path: Path) -> None:
    """JSON and CSV have a row for each file and the same names."""
    path = written(tmp_path / "journal.jsonl", a_journal(UPSTREAM))
    (told,) = [json.loads(line) for line in run(path, "--format", "json").stdout.splitlines()]
    assert told["adds"] == told["served_at_once"] + told["waited"] + sum(told["refused"].values())
    assert told["differs"] is None
    (row,) = csv.DictReader(run(path, "--format", "csv").stdout.splitlines())
    assert row.keys() == told.keys()
    assert json.loads(row["actions"]) == told["actions"]
    assert row["differs"] == ""
