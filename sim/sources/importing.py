"""What every importer is, and how each walks through its files.

An importer is a name, a how-to with the commands that export the data, and a function that makes
an `Imported` of files. Files are read one after another, record by record; what is kept of them
grows with the number of pods, not with the size of the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.sources.json_text import Json, JsonText, Layout, located, open_bytes, records
from sim.sources.lives import Choices, Fate, Imported, Tally
from sim.sources.pods import TraceError
from sim.sources.strict_csv import missing

Advance = Callable[[int], None]
"""Hears how many more bytes of the files were read."""


Read = Callable[[Sequence[Path], Choices, Advance], Imported]
"""Makes a trace of files, or raises TraceError with file and line."""


@dataclass(frozen=True, slots=True)
class Importer:
    """One format."""

    name: str
    summary: str
    how_to: str
    """How to get such files, with the commands, and what is guessed."""
    read: Read


def read_each(
    paths: Sequence[Path],
    layout: Layout,
    advance: Advance,
    tally: Tally,
    take: Callable[[Json], None],
) -> None:
    """Hand every record of the files to `take`, and count them; its refusals get their place."""
    total = 0
    for path in paths:
        before = total
        with open_bytes(path, advance) as chunks:
            text = JsonText(chunks, str(path))
            for line, record in records(text, layout):
                try:
                    take(record)
                except TraceError as err:
                    raise located(err, text.file, line) from None
                total += 1
        if total == before:
            tally.add(Fate.DROPPED, "files without a record")
    if not total:
        raise TraceError("no records", file=str(paths[0]), allowed="JSON records")
    tally.add(Fate.READ, "records", total)


def only_one(paths: Sequence[Path], choices: Choices) -> Path:
    """Return the one file that a published trace is; TraceError for more, or what it cannot do."""
    if len(paths) > 1:
        reason = "a published trace is one file; import each, then look at them together"
        raise TraceError(reason, file=str(paths[1]))
    no_drop(paths[0], choices)
    return paths[0]


def no_drop(path: Path, choices: Choices) -> None:
    """Refuse patterns of names for a trace whose pods have none."""
    if choices.drop:
        raise TraceError("the pods of this trace have no names to drop them by", file=str(path))


def origin_of(paths: Sequence[Path]) -> str:
    """Return the name a trace gets: the file's, or the first one's and how many more."""
    more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
    return f"{paths[0].name}{more}"


def size_of(paths: Sequence[Path]) -> int:
    """Return the bytes of files together, pipes counting nothing; TraceError if one is missing.

    Whoever is about to read for minutes hears at once of a slip in the last name.
    """
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            raise TraceError(missing(path), file=str(path)) from None
        except (OSError, ValueError) as err:
            reason = f"cannot be read: {getattr(err, 'strerror', None) or err}"
            raise TraceError(reason, file=str(path)) from None
    return total


def is_same(path: Path, other: Path) -> bool:
    """Say whether two paths are one file."""
    return path.exists() and other.exists() and path.samefile(other)
