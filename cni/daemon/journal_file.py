"""The allocator's journal on disk: segments of bounded size, of which the oldest are deleted.

Every segment opens with a header that holds all that the allocator is made from, a life's begin
or a snapshot, so that it replays alone. Nothing is synced and nothing is ever raised: a journal
is for people who want to know what happened, and no reason for a pod to wait or for a daemon to
stop. A line that cannot be written is dropped, with all that follow until a new segment can be
opened by a snapshot: a segment with a gap would replay to other answers.
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cni.daemon.disk import Disk

SEGMENTS = 8
"""The whole is about so many segments; a longer one would take more of the past with it."""

HEADERS = 4
"""A segment is at least so many times as long as its header, lest snapshots be all there is."""

LINES_MIN = 100
"""Lines of a segment before the next is opened, however long they are."""

TRY_AGAIN_AFTER = 100
"""Lines that are dropped before the disk is tried again; the number doubles each time …"""

TRY_AGAIN_MAX = 10_000
"""… up to this one."""

_NAME = re.compile(r"(\d{8,})-\d{8}T\d{6}Z\.jsonl")
_HEADER = '{"format":'


class JournalFile:
    """Where a journaled allocator writes; one for each daemon, on its event loop."""

    def __init__(
        self,
        folder: Path,
        bytes_total_max: int,
        *,
        unix: Callable[[], float],
        tell: Callable[[str], None],
        disk: Disk | None = None,
    ) -> None:
        """Keep up to `bytes_total_max` in `folder` (0: nothing, and write nothing).

        `unix` is the wall clock, for the names of segments; `tell` gets lines for the log.
        """
        self.dropped = 0
        """Lines that could not be written, so far."""
        self._folder = folder
        self._bytes_total_max = bytes_total_max
        self._unix = unix
        self._tell = tell
        self._disk = disk or Disk()
        self._snapshot: Callable[[], str] | None = None
        self._past: list[tuple[Path, int]] | None = None
        """Segments that are closed, oldest first, with their sizes; None before the first look."""
        self._number = 0
        self._fd = -1
        self._path = folder
        self._size = 0
        self._size_max = 0
        self._lines = 0
        self._failing = False
        self._gap = 0
        self._skip = 0
        self._pause = TRY_AGAIN_AFTER

    def snapshot_by(self, snapshot: Callable[[], str]) -> None:
        """Take `Journaled.snapshot`, which opens every segment after the first."""
        self._snapshot = snapshot

    def write(self, line: str) -> None:
        """Write a line, given without its line feed; a header opens a segment. Never raises."""
        if not self._bytes_total_max:
            return
        lost = 1
        try:
            if line.startswith(_HEADER):
                self._open(line)
            elif self._fd >= 0:
                self._put(line)
                lost = 0
                self._lines += 1
                if self._size >= self._size_max and self._lines >= LINES_MIN and self._snapshot:
                    self._open(self._snapshot())
            elif self._skip > 0 or self._snapshot is None:
                self._skip -= 1
                self._count(lost)
            else:
                # The snapshot holds what this line did, not the line.
                self._count(lost)
                lost = 0
                self._open(self._snapshot())
        except Exception as error:  # noqa: BLE001 - not even a snapshot's defect may stop a pod
            self._count(lost)
            self._fail(error)

    def close(self) -> None:
        """End the segment."""
        if self._fd >= 0:
            with suppress(OSError):
                self._disk.close(self._fd)
            if self._past is not None:
                self._past.append((self._path, self._size))
            self._fd = -1

    # How.

    def _put(self, line: str) -> None:
        data = f"{line}\n".encode()
        try:
            self._disk.write_all(self._fd, data)
        except OSError:
            with suppress(OSError):
                self._disk.truncate(self._fd, self._size)
            raise
        self._size += len(data)

    def _open(self, header: str) -> None:
        """Close the segment and open the next, deleting as many old ones as it needs room."""
        self.close()
        if self._past is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._past = self._found()
        total = self._bytes_total_max
        size_max = max(total // SEGMENTS, min(HEADERS * len(header), total // 2))
        while self._past and sum(size for _, size in self._past) + size_max > total:
            oldest, _ = self._past.pop(0)
            self._disk.unlink(oldest)
        self._number += 1
        opened_at = datetime.fromtimestamp(self._unix(), UTC)
        path = self._folder / f"{self._number:08d}-{opened_at:%Y%m%dT%H%M%SZ}.jsonl"
        self._fd = self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        self._path, self._size, self._size_max, self._lines = path, 0, size_max, 0
        self._put(header)
        if self._failing:
            self._tell(f"the journal goes on in {path}; {self._gap} lines were dropped")
        self._failing = False
        self._gap = self._skip = 0
        self._pause = TRY_AGAIN_AFTER

    def _found(self) -> list[tuple[Path, int]]:
        """Return the segments of earlier lives, oldest first; the next number follows theirs."""
        found = []
        for path in self._folder.iterdir():
            name = _NAME.fullmatch(path.name)
            if name is not None:
                self._number = max(self._number, int(name[1]))
                found.append((int(name[1]), path, path.stat().st_size))
        return [(path, size) for _, path, size in sorted(found)]

    def _count(self, lost: int) -> None:
        self.dropped += lost
        self._gap += lost

    def _fail(self, error: Exception) -> None:
        """Go over to dropping, and say so once."""
        empty = self._fd >= 0 and self._size == 0
        self.close()
        if empty and self._past:
            # Not even its header went in.
            self._past.pop()
            with suppress(OSError):
                self._disk.unlink(self._path)
        self._skip = self._pause
        self._pause = min(self._pause * 2, TRY_AGAIN_MAX)
        if not self._failing:
            self._failing = True
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            self._tell(f"the journal in {self._folder} drops lines: {reason}")
