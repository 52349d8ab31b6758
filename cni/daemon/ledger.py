"""The ledger on disk: who holds which address is written and synced before any reply.

Appends that come while a sync is under way wait for it and then go together, in one write and
one sync (group commit), so that a hundred pods at once cost a few syncs. All disk work is done
by one worker thread; the event loop never blocks.

What is in memory is what is on disk. A write that fails is cut off again; after a sync that
fails nobody knows what is on disk, since the kernel may have dropped the pages and the next sync
would succeed without them (https://wiki.postgresql.org/wiki/Fsync_Errors), so the file is written
anew. Either is done at once where the disk lets us, and otherwise before the next append. The
file is also written anew once more lines in it are dead than live, by a draft beside it that is
synced and renamed.
"""

import asyncio
import errno
import fcntl
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from cni.allocator.model import SandboxKey
from cni.daemon.disk import Disk
from cni.daemon.holdings import (
    PROBLEMS_MAX,
    Book,
    Entry,
    Holding,
    Recovered,
    Release,
    entry_line,
    header_line,
    read_ledger,
)
from cni.daemon.worker import Worker

__all__ = ["Holding", "Ledger", "LedgerError", "Recovered"]

DEAD_LINES_MIN = 1000
"""A file is not worth writing anew for fewer dead lines than this."""

_ADVICE = {
    errno.ENOSPC: "free space there; the next command tries again",
    errno.EDQUOT: "raise the quota; the next command tries again",
    errno.EROFS: "mount it writable; the next command tries again",
    errno.EIO: "the disk fails, see the kernel's log; the next command tries again",
    errno.ENOENT: "make the folder again; the next command tries again",
    errno.EACCES: "run the daemon as root",
    errno.EPERM: "run the daemon as root",
}


_Waiting = tuple[Entry, bytes, asyncio.Future[None]]
"""What waits to be written: an entry, its line, and who wants to hear of it."""


class LedgerError(Exception):
    """The ledger cannot be read, or an entry could not be put on disk; one line for people."""

    def __init__(self, text: str, number: int = 0) -> None:
        """Say it; `number` is the errno, where there is one."""
        super().__init__(text)
        self.errno = number


class _File:
    """The file of a ledger: synced appends that leave all of an entry, or nothing. Blocking."""

    def __init__(self, path: Path, disk: Disk) -> None:
        """Open nothing yet: the first `rewrite` makes the file."""
        self.path = path
        self.rewrite_due = True
        """Whether the file is not what it should be, or not there at all."""
        self.rewrites = 0
        self.syncs = 0
        self._draft = path.with_name(f"{path.name}.new")
        self._disk = disk
        self._fd = -1
        self._size = 0
        self._cut_due = False

    def append(self, data: bytes, whole: Callable[[], bytes]) -> None:
        """Put lines on disk, after all of `whole` where the file must be made anew."""
        disk = self._disk
        if self._fd >= 0 and os.fstat(self._fd).st_nlink == 0:
            # Somebody removed the file: what is appended to it would be lost with the process.
            self.rewrite_due = True
        if self.rewrite_due:
            self.rewrite(whole())
        elif self._cut_due:
            self._cut()
        self._cut_due = True
        try:
            disk.write_all(self._fd, data)
            self.rewrite_due = True
            disk.fdatasync(self._fd)
        except OSError:
            with suppress(OSError):
                self._cut()
            raise
        self.rewrite_due = self._cut_due = False
        self.syncs += 1
        self._size += len(data)

    def _cut(self) -> None:
        """Take away what a failed append left, lest a restart believe it."""
        self._disk.truncate(self._fd, self._size)
        self._cut_due = False

    def rewrite(self, data: bytes) -> None:
        """Put a whole file in the place of the old one; OSError leaves the old one."""
        disk = self._disk
        disk.unlink(self._draft)
        fd = disk.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        try:
            disk.write_all(fd, data)
            disk.fsync(fd)
            disk.replace(self._draft, self.path)
        except OSError:
            disk.close(fd)
            with suppress(OSError):
                disk.unlink(self._draft)
            raise
        self.close()
        self._fd, self._size, self._cut_due = fd, len(data), False
        self.rewrite_due = True
        disk.sync_folder(self.path.parent)
        self.rewrite_due = False
        self.rewrites += 1

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            with suppress(OSError):
                self._disk.close(self._fd)
            self._fd = -1


class Ledger:
    """The assignments of this node on disk; one daemon at a time, one event loop."""

    def __init__(self, file: _File, book: Book, boot_id: str, lock: int) -> None:
        """Use `open`."""
        self._file = file
        self._book = book
        self._boot_id = boot_id
        self._lock = lock
        self._lines = len(book)
        self._compact_at = 0
        self._worker = Worker("ledger")
        self._waiting: deque[_Waiting] = deque()
        self._batch: list[_Waiting] = []
        self._busy = False
        self._closed: asyncio.Future[None] | None = None

    @classmethod
    def open(
        cls, path: Path, *, boot_id: str, now_unix: float, disk: Disk | None = None
    ) -> tuple["Ledger", Recovered]:
        """Open a ledger, or start one, and say what it holds; blocks.

        Raises LedgerError where another daemon has it, it cannot be read, or it is of a newer
        version. A disk that is full is no reason: the first append tries again.
        """
        file = _File(path, disk or Disk())
        lock = -1
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _locked(path)
            data = path.read_bytes() if path.exists() else b""
            found = read_ledger(data, boot_id, now_unix)
        except (OSError, ValueError) as error:
            if lock >= 0:
                os.close(lock)
            raise _error(f"cannot open the ledger {path}", error) from error
        problems = found.problems[:PROBLEMS_MAX]
        if more := len(found.problems) - len(problems):
            problems.append(f"there are {more} more problems of this kind")
        if found.damaged:
            problems.append(_keep_damaged(path))
        ledger = cls(file, found.book, boot_id, lock)
        try:
            # Written anew, it has no torn end, no damage, no contradiction, and this boot's ID.
            file.rewrite(ledger._whole())
        except OSError as error:
            problems.append(str(_error(f"cannot write the ledger {path}", error)))
        book = found.book
        holdings = tuple(book.holdings.values())
        return ledger, Recovered(holdings, tuple(book.cooling.items()), tuple(problems))

    # Writing.

    async def assigned(self, holding: Holding) -> None:
        """Return once it is on disk that a sandbox holds an address; raises LedgerError.

        Cancelled, it may be on disk all the same: have it `released`.
        """
        await self._append(holding)

    async def released(self, sandbox: SandboxKey, address: IPv4Address, now_unix: float) -> None:
        """Return once it is on disk that a sandbox holds an address no more; raises LedgerError."""
        await self._append(Release(sandbox, address, now_unix))

    async def close(self) -> None:
        """Wait for what is under way, and let another daemon have the ledger."""
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_future()
            if not self._busy:
                self._close()
        await self._closed

    def _close(self) -> None:
        self._worker.stop()
        self._file.close()
        os.close(self._lock)
        assert self._closed is not None
        self._closed.set_result(None)

    # Looking.

    def find(self, sandbox: SandboxKey) -> Holding | None:
        """Return what a sandbox holds on disk."""
        return self._book.holdings.get(sandbox)

    def holdings(self) -> tuple[Holding, ...]:
        """Return all holdings on disk, in the order in which they were assigned."""
        return tuple(self._book.holdings.values())

    @property
    def syncs(self) -> int:
        """How often appended lines were synced."""
        return self._file.syncs

    @property
    def rewrites(self) -> int:
        """How often the file was written anew."""
        return self._file.rewrites

    # How.

    async def _append(self, entry: Entry) -> None:
        if self._closed is not None:
            raise LedgerError("the ledger is closed: the daemon is stopping")
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, entry_line(entry), done))
        if not self._busy:
            self._busy = True
            self._worker.do(self._commit, self._written)
        await done

    def _commit(self) -> None:
        """Put on disk all that waits by now; in the worker thread."""
        batch, waiting = self._batch, self._waiting
        # The loop may append meanwhile, and nobody else takes away.
        while waiting:
            batch.append(waiting.popleft())
        self._file.append(b"".join(line for _, line, _ in batch), self._whole)

    def _written(self, error: BaseException | None) -> None:
        """Tell those whose lines were written, or were not; go on."""
        for entry, _, done in self._batch:
            if error is None:
                self._book.enter(entry)
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            elif isinstance(error, OSError):
                done.set_exception(_error(f"cannot write the ledger {self._file.path}", error))
            else:
                done.set_exception(error)
        if error is None:
            self._lines += len(self._batch)
        elif not isinstance(error, OSError):
            # A defect: nobody knows how far it came.
            self._file.rewrite_due = True
        self._batch = []
        if self._compaction_is_due():
            lines = self._lines
            self._worker.do(
                lambda: self._file.rewrite(self._whole()),
                lambda error: self._compacted(error, lines),
            )
        else:
            self._go_on()

    def _whole(self) -> bytes:
        """Return the whole file as it should be."""
        self._book.forget_cold()
        lines = [header_line(self._boot_id), *self._book.lines()]
        self._lines = len(lines) - 1
        return b"".join(lines)

    def _compaction_is_due(self) -> bool:
        live = len(self._book)
        return self._lines >= max(2 * live + DEAD_LINES_MIN, self._compact_at)

    def _compacted(self, error: BaseException | None, lines: int) -> None:
        """Go on, with a short file or a long one, which serves as well."""
        self._compact_at = 0
        if error is not None:
            self._lines = lines
            # Where the disk is full, do not try each time.
            self._compact_at = 2 * lines
        self._go_on()

    def _go_on(self) -> None:
        """Write what came meanwhile; rest where nothing did."""
        if self._waiting:
            self._worker.do(self._commit, self._written)
            return
        self._busy = False
        if self._closed is not None:
            self._close()


def _locked(path: Path) -> int:
    """Keep other daemons out for as long as this process lives; return the lock's file.

    The lock is a file of its own, because the ledger's changes with each rewrite.
    """
    lock = path.with_name(f"{path.name}.lock")
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise ValueError("another daemon on this node has it: stop that one first") from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _keep_damaged(path: Path) -> str:
    """Keep a damaged ledger for whoever wants to know what happened; tell where it is."""
    kept = path.with_name(f"{path.name}.damaged")
    try:
        kept.unlink(missing_ok=True)
        kept.hardlink_to(path)
    except OSError as error:
        return f"the damaged ledger could not be kept as {kept}: {error.strerror}"
    return f"the damaged ledger is kept as {kept}"


def _error(what: str, error: OSError | ValueError) -> LedgerError:
    if isinstance(error, OSError):
        number = error.errno or 0
        advice = _ADVICE.get(number)
        text = f"{what}: {error.strerror or error}"
        return LedgerError(f"{text}: {advice}" if advice else text, number)
    return LedgerError(f"{what}: {error}")
