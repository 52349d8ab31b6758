"""The file operations behind the daemon's files, one method each, so that a test can break any.

Everything blocks; whoever may not wait calls from a worker thread.
"""

import os
from pathlib import Path


class Disk:
    """The real disk: each method is the system call of its name and raises OSError."""

    def open(self, path: Path, flags: int) -> int:
        """Open for this process alone, readable by its user alone where it makes the file."""
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write some of the bytes; return how many."""
        return os.write(fd, data)

    def fdatasync(self, fd: int) -> None:
        """Wait until the file's bytes are on the disk."""
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """Wait until the file, or the folder, is on the disk with its names and times."""
        os.fsync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Cut a file."""
        os.ftruncate(fd, size)

    def replace(self, source: Path, target: Path) -> None:
        """Give a file the name of another, which is gone then."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Take a file's name away; a name that is not there is no error."""
        path.unlink(missing_ok=True)

    def close(self, fd: int) -> None:
        """Close a file."""
        os.close(fd)

    # Made of the above.

    def write_all(self, fd: int, data: bytes) -> None:
        """Write all of the bytes: a disk that runs full takes some before it refuses."""
        written = self.write(fd, data)
        while written < len(data):
            written += self.write(fd, memoryview(data)[written:])

    def sync_folder(self, folder: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        fd = self.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.fsync(fd)
        finally:
            self.close(fd)
