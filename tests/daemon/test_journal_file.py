"""The journal on disk is bounded, replays piece by piece, and never gets in anybody's way."""

import errno
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cni.allocator.behaviour import NATIVE, UPSTREAM, Behaviour
from cni.allocator.journal import Journaled, Start, replay
from cni.allocator.model import BlockKind, Instant
from cni.daemon import journal_file as module
from cni.daemon.journal_file import JournalFile
from tests.allocator.fake_ec2 import Driver, sandbox
from tests.allocator.test_journal import A_NODE, played
from tests.daemon.disks import FaultyDisk

MIB = 1 << 20


class Node:
    """An allocator, its journal on disk, and what the journal tells."""

    def __init__(
        self,
        folder: Path,
        bytes_total_max: int = MIB,
        behaviour: Behaviour = NATIVE,
        kind: BlockKind = BlockKind.SECONDARY_IP,
    ) -> None:
        self.told: list[str] = []
        self.disk = FaultyDisk()
        self.journal = JournalFile(
            folder, bytes_total_max, unix=lambda: 1.7e9, tell=self.told.append, disk=self.disk
        )
        self.driver = Driver(behaviour=behaviour, kind=kind, make=self.make, **A_NODE)

    def make(self, **given: Any) -> Journaled:
        allocator = Journaled(Start(**given), self.journal.write)
        self.journal.snapshot_by(allocator.snapshot)
        return allocator

    def churn(self, lines: int, each: Callable[[], None] = lambda: None) -> None:
        """Let a pod come and go so often that this many lines are written."""
        self.driver.run(self.driver.now + 1000.0)
        for _ in range(lines // 2):
            each()
            self.driver.allocator.assign(sandbox(-1), Instant(self.driver.now))
            self.driver.allocator.release(sandbox(-1), Instant(self.driver.now))
            self.driver.now += 40.0


def segments(folder: Path) -> list[Path]:
    """Return the segments in a folder, oldest first."""
    return sorted(folder.iterdir())


def lines_of(path: Path) -> list[str]:
    """Return the lines of a segment, none of them torn."""
    text = path.read_text()
    assert text.endswith("\n")
    return text.splitlines()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let segments be short, so that a day makes many."""
    monkeypatch.setattr(module, "LINES_MIN", 5)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", BlockKind)
@pytest.mark.parametrize("behaviour", [NATIVE, UPSTREAM])
def test_every_segment_replays_alone(tmp_path: Path, behaviour: Behaviour, kind: BlockKind) -> None:
    """Whichever segment somebody picks, today's allocator gives its answers."""
    node = Node(tmp_path, 100_000, behaviour, kind)
    played(node.driver)
    node.journal.close()
    found = segments(tmp_path)
    assert len(found) >= 3
    for path in found:
        report = replay(lines_of(path))
        assert report.mismatch is None
        assert report.inputs >= 5 or path == found[-1]
    assert node.told == []


@pytest.mark.usefixtures("small")
def test_the_oldest_go_and_the_rest_is_whole(tmp_path: Path) -> None:
    """At every instant the journal fits its bound, a line more or less, and ends with the last."""
    total = 60_000
    node = Node(tmp_path, total)
    sizes = []
    node.churn(3000, lambda: sizes.append(sum(path.stat().st_size for path in segments(tmp_path))))
    assert max(sizes) <= total + 300
    assert min(sizes[1000:]) >= total // 2
    found = segments(tmp_path)
    assert int(found[0].name[:8]) > 10
    numbers = [int(path.name[:8]) for path in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    last = json.loads(lines_of(found[-1])[-1])
    assert last["now"] in (node.driver.now, node.driver.now - 40.0)


def test_files_are_for_their_user_alone_and_named_by_time(tmp_path: Path) -> None:
    """A journal names pods; the name of a segment says when it was opened."""
    Node(tmp_path / "journal").journal.close()
    (path,) = segments(tmp_path / "journal")
    assert path.name == "00000001-20231114T221320Z.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_restart_opens_a_new_segment_and_keeps_the_old(tmp_path: Path) -> None:
    """A life begins with its own header; other files in the folder are left alone."""
    Node(tmp_path).journal.close()
    (tmp_path / "notes.txt").write_text("mine")
    Node(tmp_path).journal.close()
    names = [path.name[:8] for path in segments(tmp_path)]
    assert names == ["00000001", "00000002", "notes.tx"]


def test_nothing_is_written_where_nothing_is_kept(tmp_path: Path) -> None:
    """WARMBENCH_JOURNAL_MIB=0 leaves no trace."""
    node = Node(tmp_path / "journal", 0)
    node.churn(10)
    assert not (tmp_path / "journal").exists()
    assert node.journal.dropped == 0


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    """The daemon does not notice; what is on disk replays; the journal goes on after a gap."""
    node = Node(tmp_path)
    node.churn(50)
    node.disk.room = 100
    node.churn(1000)
    assert node.told == [f"the journal in {tmp_path} drops lines: No space left on device"]
    assert node.journal.dropped >= 995
    node.disk.room = None
    node.churn(2000)
    node.journal.close()
    found = segments(tmp_path)
    reports = [replay(lines_of(path)) for path in found]
    assert {report.mismatch for report in reports} == {None}
    assert reports[0].inputs >= 50
    assert sum(report.inputs for report in reports) + node.journal.dropped >= 3050
    dropped = f"{node.journal.dropped} lines were dropped"
    assert node.told[1:] == [f"the journal goes on in {found[1]}; {dropped}"]


def test_the_disk_is_not_tried_for_every_line(tmp_path: Path) -> None:
    """A snapshot for each pod on a full disk would cost more than the journal is worth."""
    node = Node(tmp_path)
    node.disk.room = 0
    before = node.disk.calls["open"]
    node.churn(20_000)
    assert node.disk.calls["open"] - before < 10


@pytest.mark.parametrize("operation", ["open", "write", "unlink", "truncate"])
@pytest.mark.usefixtures("small")
def test_whatever_fails_nothing_is_raised(tmp_path: Path, operation: str) -> None:
    """One failure of any operation costs some lines at most, and all that is there replays."""
    node = Node(tmp_path, 60_000)
    node.churn(3000)
    node.disk.fail(operation, errno.EIO)
    if operation == "truncate":
        node.disk.fail("write", errno.EIO)
    node.churn(3000)
    node.journal.close()
    assert node.journal.dropped <= 2 * module.TRY_AGAIN_AFTER
    for path in segments(tmp_path):
        assert replay(lines_of(path)).mismatch is None
    assert len(node.told) == 2


def test_a_start_that_cannot_write_goes_on_later(tmp_path: Path) -> None:
    """A daemon that comes up on a full disk has its journal once there is room."""
    (tmp_path / "journal").write_text("in the folder's place")
    node = Node(tmp_path / "journal")
    node.churn(10)
    assert "drops lines: File exists" in node.told[0]
    (tmp_path / "journal").unlink()
    node.churn(1000)
    (path,) = segments(tmp_path / "journal")
    assert replay(lines_of(path)).mismatch is None


def test_a_snapshot_that_breaks_stops_nobody(tmp_path: Path) -> None:
    """A defect of ours is told in the log; pods get their addresses."""
    node = Node(tmp_path)

    def broken() -> str:
        raise ZeroDivisionError("a defect")

    node.journal.snapshot_by(broken)
    node.disk.fail("write", errno.ENOSPC)
    node.churn(1000)
    assert node.journal.dropped > 900
    assert len(node.told) == 1
