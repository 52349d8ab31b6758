"""DELs that came while no daemon answered: the plug-in left each as a file in a spool folder.

A file holds the body of the request as the plug-in would have sent it, and has a name of
`container:interface`. Names that begin with a point are drafts and are passed over: a plug-in
writes one and then renames it, and the next plug-in of that process ID removes what a killed one
left. The folder is for this user alone, so what another user put there is not believed.
"""

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cni.daemon.disk import Disk

TOMBSTONES_MAX = 10_000
"""So many are read at once; a node has a few hundred pods, so more is the work of a defect."""

BYTES_MAX = 1 << 20
"""A request's body is never longer (`wire.REQUEST_BYTES_MAX`)."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A DEL to be done: where it stands, and the body of its request."""

    path: Path
    body: bytes


@dataclass(frozen=True, slots=True)
class Spool:
    """What a spool holds: tombstones, the oldest first; what is none; and lines for the log.

    `junk` is to be removed like the rest, so that it is told once.
    """

    tombstones: tuple[Tombstone, ...] = ()
    junk: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()


def read_tombstones(folder: Path) -> Spool:
    """Read what the plug-in left; a folder that is not there is empty. Blocks.

    Removes nothing: whoever has done the DELs calls `remove_tombstones`. Where there are more
    than TOMBSTONES_MAX, the rest comes with the next call.
    """
    found: list[tuple[int, Tombstone]] = []
    junk: list[Path] = []
    problems: list[str] = []
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return Spool()
    except OSError as error:
        return Spool(problems=(f"cannot read the tombstones in {folder}: {error.strerror}",))
    if len(paths) > TOMBSTONES_MAX:
        problems.append(f"{folder} holds {len(paths)} tombstones: {TOMBSTONES_MAX} are read now")
    for path in paths[:TOMBSTONES_MAX]:
        try:
            found.append(_read(path))
        except FileNotFoundError:
            continue
        except ValueError as error:
            junk.append(path)
            problems.append(f"{path} is no tombstone, for {error}: it is removed")
        except OSError as error:
            problems.append(f"cannot read the tombstone {path}: {error.strerror}")
    found.sort(key=lambda one: (one[0], one[1].path))
    return Spool(tuple(one for _, one in found), tuple(junk), tuple(problems))


def _read(path: Path) -> tuple[int, Tombstone]:
    """Return when a tombstone was written, and it; ValueError where it is none."""
    try:
        # Without O_NONBLOCK a pipe in the spool would stop the daemon's start.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ValueError("it is no file") from error
        raise
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file")
        if status.st_uid != os.geteuid():
            raise ValueError(f"user {status.st_uid} wrote it")
        if not 0 < status.st_size <= BYTES_MAX:
            raise ValueError(f"it has {status.st_size} bytes")
        with os.fdopen(fd, "rb", closefd=False) as file:
            return status.st_mtime_ns, Tombstone(path, file.read(BYTES_MAX))
    finally:
        os.close(fd)


def remove_tombstones(
    folder: Path, paths: Iterable[Path], disk: Disk | None = None
) -> tuple[str, ...]:
    """Remove what has been done, and sync the folder; return lines for the log. Blocks.

    What cannot be removed is read again at the next start: a DEL that is done twice harms nobody.
    """
    disk = disk or Disk()
    problems: list[str] = []
    removed = False
    for path in paths:
        try:
            with suppress(IsADirectoryError):
                disk.unlink(path)
                removed = True
                continue
            path.rmdir()
            removed = True
        except OSError as error:
            problems.append(f"cannot remove the tombstone {path}: {error.strerror}")
    if removed:
        try:
            disk.sync_folder(folder)
        except OSError as error:
            problems.append(f"cannot sync {folder}: {error.strerror}")
    return tuple(problems)
