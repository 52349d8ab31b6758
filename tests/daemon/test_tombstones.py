"""What the plug-in left while no daemon ran is found once, whatever else lies beside it."""

import errno
import os
from pathlib import Path

import pytest

from cni.daemon import tombstones as module
from cni.daemon.tombstones import Spool, Tombstone, read_tombstones, remove_tombstones
from tests.daemon.disks import FaultyDisk


def bury(folder: Path, name: str, body: bytes = b"DEL", at: int = 0) -> Path:
    """Leave a tombstone as the plug-in does."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(body)
    os.utime(path, ns=(at, at))
    return path


def test_a_spool_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """A fresh node has none."""
    assert read_tombstones(tmp_path / "none") == Spool()


def test_tombstones_are_read_oldest_first_and_removed_when_done(tmp_path: Path) -> None:
    """Each is there until somebody says that it was done; drafts are passed over."""
    late = bury(tmp_path, "a:eth0", b"late\0\xff", at=2)
    early = bury(tmp_path, "b:eth0", b"early", at=1)
    draft = bury(tmp_path, ".1234", b"ea")
    spool = read_tombstones(tmp_path)
    assert spool == Spool((Tombstone(early, b"early"), Tombstone(late, b"late\0\xff")))
    assert read_tombstones(tmp_path) == spool
    disk = FaultyDisk()
    assert remove_tombstones(tmp_path, [early], disk) == ()
    assert disk.calls["fsync"] == 1
    assert read_tombstones(tmp_path).tombstones == (Tombstone(late, b"late\0\xff"),)
    assert draft.exists()


def test_junk_is_told_and_removed(tmp_path: Path) -> None:
    """Nothing in the spool can stop the daemon's start, and each is told once."""
    bury(tmp_path, "empty:eth0", b"")
    bury(tmp_path, "huge:eth0", b"x" * (module.BYTES_MAX + 1))
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    good = bury(tmp_path, "good:eth0")
    spool = read_tombstones(tmp_path)
    assert [one.path for one in spool.tombstones] == [good]
    assert len(spool.junk) == len(spool.problems) == 5
    assert all("is no tombstone, for it " in problem for problem in spool.problems)
    assert remove_tombstones(tmp_path, spool.junk) == ()
    assert read_tombstones(tmp_path) == Spool((Tombstone(good, b"DEL"),))


@pytest.mark.root
def test_what_another_user_wrote_is_not_believed(tmp_path: Path) -> None:
    """Else whoever can write there could take any pod's network away."""
    os.chown(bury(tmp_path, "a:eth0"), 65534, 65534)
    spool = read_tombstones(tmp_path)
    assert spool.tombstones == ()
    assert "user 65534 wrote it" in spool.problems[0]


def test_a_number_without_end_is_read_in_parts(tmp_path: Path) -> None:
    """A start takes bounded memory; the rest comes with the next call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TOMBSTONES_MAX", 3)
        for number in range(5):
            bury(tmp_path, f"{number}:eth0")
        spool = read_tombstones(tmp_path)
        assert len(spool.tombstones) == 3
        assert "holds 5 tombstones: 3 are read now" in spool.problems[0]
        remove_tombstones(tmp_path, [one.path for one in spool.tombstones])
        assert len(read_tombstones(tmp_path).tombstones) == 2


def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    """The others are removed all the same; what is gone already is no problem."""
    first, second = bury(tmp_path, "a:eth0"), bury(tmp_path, "b:eth0")
    disk = FaultyDisk()
    disk.fail("unlink", errno.EROFS)
    disk.fail("fsync", errno.EIO)
    stuck, unsynced = remove_tombstones(tmp_path, [first, second, tmp_path / "gone:eth0"], disk)
    assert stuck == f"cannot remove the tombstone {first}: Read-only file system"
    assert unsynced == f"cannot sync {tmp_path}: Input/output error"
    assert first.exists()
    assert not second.exists()


def test_a_spool_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A file in the folder's place stops nothing."""
    (tmp_path / "tombstones").write_bytes(b"")
    spool = read_tombstones(tmp_path / "tombstones")
    assert spool.tombstones == ()
    assert "Not a directory" in spool.problems[0]
