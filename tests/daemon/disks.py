"""Disks that fail when a test says so."""

import errno
import os
from collections import Counter, deque
from pathlib import Path

from cni.daemon.disk import Disk


class FaultyDisk(Disk):
    """The real disk, until a fault comes: faults of one operation come in the order given."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, deque[int]] = {}
        self.room: int | None = None
        """Bytes left for writes; None: no end of them."""
        self.at_most: int | None = None
        """Bytes that one write takes at most."""

    def fail(self, operation: str, number: int = errno.EIO, times: int = 1) -> None:
        """Let the next calls of an operation fail; 0 lets one through."""
        self.faults.setdefault(operation, deque()).extend([number] * times)

    def _meet(self, operation: str) -> None:
        self.calls[operation] += 1
        faults = self.faults.get(operation)
        number = faults.popleft() if faults else 0
        if number:
            raise OSError(number, os.strerror(number))

    def open(self, path: Path, flags: int) -> int:
        self._meet("open")
        return super().open(path, flags)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._meet("write")
        if self.at_most is not None:
            data = data[: self.at_most]
        if self.room is not None:
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[: self.room]
            self.room -= len(data)
        return super().write(fd, data)

    def fdatasync(self, fd: int) -> None:
        self._meet("fdatasync")
        super().fdatasync(fd)

    def fsync(self, fd: int) -> None:
        self._meet("fsync")
        super().fsync(fd)

    def truncate(self, fd: int, size: int) -> None:
        self._meet("truncate")
        super().truncate(fd, size)

    def replace(self, source: Path, target: Path) -> None:
        self._meet("replace")
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self._meet("unlink")
        super().unlink(path)


class Killed(BaseException):
    """The process is no more."""


class LethalDisk(FaultyDisk):
    """A disk on which the process dies at its n-th operation, half-way through a write."""

    def __init__(self, operations: int) -> None:
        super().__init__()
        self.operations = operations

    def _meet(self, operation: str) -> None:
        super()._meet(operation)
        self.operations -= 1
        if self.operations < 0:
            raise Killed

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.operations == 0:
            os.write(fd, data[: len(data) // 2])
        return super().write(fd, data)
