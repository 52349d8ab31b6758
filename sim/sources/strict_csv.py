"""Read CSV columns fast, and name the line where something is wrong.

pyarrow reads a clean file at tens of megabytes a second but cannot say which line it dislikes.
So there are two readers: the fast one converts whole columns and looks for anything amiss with
vectorised checks; only if it finds something, the slow one walks the file line by line to name
the first fault. A file is taken whole or refused whole.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.sources.pods import TraceError, is_plain, near

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GZIP_MAGIC = b"\x1f\x8b"
# Ten digits only: \d alone would take those of every script, which the fast reader does not.
_NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INFINITE = re.compile(r"-?inf(inity)?", re.IGNORECASE)
_WHOLE = re.compile(r"-?\d+", re.ASCII)
_WHOLE_MAX = 2**63 - 1


class Kind(Enum):
    """What a column holds; the value says what is allowed."""

    NAME = "a name, each given once"
    TEXT = "text without control characters"
    INSTANT = "seconds, 0 or more"
    INSTANT_OR_BLANK = "seconds, 0 or more, or blank"
    LIFE = "seconds above 0, or blank: outlives the trace"
    NUMBER = "a number, 0 or more"
    WHOLE = "a whole number, 0 or more"
    ID = "a whole number, or blank"
    IGNORED = "anything"


NUMBERS = frozenset({Kind.INSTANT, Kind.INSTANT_OR_BLANK, Kind.LIFE, Kind.NUMBER})
BLANK = frozenset({Kind.INSTANT_OR_BLANK, Kind.LIFE, Kind.TEXT, Kind.ID, Kind.IGNORED})
TEXTS = frozenset({Kind.NAME, Kind.TEXT})


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a format."""

    name: str
    kind: Kind
    required: bool = True


def read_bytes(path: Path) -> bytes:
    """Return what a file holds, unpacked where it is gzip.

    Raises TraceError if it is missing (with names like it), a folder, unreadable or damaged.
    """
    file = str(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TraceError(missing(path), file=file) from None
    except IsADirectoryError:
        reason = "is a folder"
        raise TraceError(reason, file=file, allowed="a file") from None
    except (OSError, ValueError) as err:
        reason = f"cannot be read: {getattr(err, 'strerror', None) or err}"
        raise TraceError(reason, file=file) from None
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as err:
        reason = f"damaged gzip: {err}"
        raise TraceError(reason, file=file) from None


def missing(path: Path) -> str:
    """Say that a file is missing, with the name beside it that is most like it."""
    try:
        beside = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f"no such file; the folder {path.parent} is missing as well"
    return "no such file" + near(path.name, beside)


def check_text(data: bytes, file: str) -> None:
    """Raise TraceError, with the line, unless the bytes are UTF-8 text without NUL."""
    at = data.find(b"\0")
    if at >= 0:
        reason = f"NUL byte at offset {at}"
        raise TraceError(reason, file=file, line=data.count(b"\n", 0, at) + 1, allowed="text")
    if not data.isascii():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as err:
            line = data.count(b"\n", 0, err.start) + 1
            reason = f"not UTF-8: byte 0x{data[err.start]:02x} at offset {err.start}"
            raise TraceError(reason, file=file, line=line, allowed="UTF-8 text") from None


@dataclass(frozen=True, slots=True)
class CsvText:
    """The table inside a text: bytes from `start`, where `lines_before` lines came earlier."""

    file: str
    data: bytes
    start: int
    lines_before: int

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Give each record, the header first, with the number of its last line.

        Blank lines are left out. Raises TraceError where the text is not CSV.
        """
        raw = io.BytesIO(self.data)
        raw.seek(self.start)
        rows = csv.reader(io.TextIOWrapper(raw, "utf-8", newline=""), strict=True)
        try:
            for record in rows:
                if record:
                    yield self.lines_before + rows.line_num, record
        except csv.Error as err:
            line = self.lines_before + rows.line_num
            raise TraceError(str(err), file=self.file, line=line, allowed="CSV") from None

    def line_of(self, row: int) -> int:
        """Return the line of a row, counted from 0 without the header."""
        for number, (line, _) in enumerate(self.records()):
            if number == row + 1:
                return line
        raise IndexError(row)

    def refuse(self, row: int, field: str, value: str, reason: str, allowed: str) -> TraceError:
        """Return the refusal of one value in a row, counted from 0 without the header."""
        line = self.line_of(row)
        return TraceError(
            reason, file=self.file, line=line, field=field, value=value, allowed=allowed
        )


def header_of(text: CsvText) -> list[str]:
    """Return the names of the columns; raise TraceError if there is no header."""
    for _, record in text.records():
        return record
    reason = "no header line" if text.lines_before else "the file is empty"
    raise TraceError(reason, file=text.file)


def check_header(header: Sequence[str], columns: Sequence[Column], file: str, line: int) -> None:
    """Raise TraceError for a column that is unknown, there twice, or missing."""
    known = [column.name for column in columns]
    allowed = ", ".join(known)
    for field in header:
        if field not in known:
            reason = "unknown column" + near(field, [name for name in known if name not in header])
            raise TraceError(reason, file=file, line=line, field=field, allowed=allowed)
        if header.count(field) > 1:
            reason = "the column is there twice"
            raise TraceError(reason, file=file, line=line, field=field)
    for column in columns:
        if column.required and column.name not in header:
            reason = "the column is missing"
            raise TraceError(reason, file=file, line=line, field=column.name, allowed=allowed)


def read_columns(text: CsvText, columns: Sequence[Column]) -> dict[str, Any]:
    """Return the pyarrow arrays of all columns present, except those that are ignored.

    Texts are strings, numbers are float64, whole numbers int64; blanks are null. Raises
    TraceError with line, field, value and reason for the first thing wrong in the file.
    """
    header_line, header = next(text.records(), (0, header_of(text)))
    check_header(header, columns, text.file, header_line)
    wanted = [c for c in columns if c.name in header and c.kind is not Kind.IGNORED]
    try:
        table = _read_fast(text, header, wanted, header_line - text.lines_before)
    except ValueError as err:
        raise _first_fault(text, columns, header, str(err)) from None
    if table is None or table.num_rows == 0:
        reason = "no pods"
        raise TraceError(reason, file=text.file, line=header_line, allowed="a row for each pod")
    arrays = {column.name: table.column(column.name).combine_chunks() for column in wanted}
    for column in wanted:
        if not is_clean(arrays[column.name], column.kind):
            raise _first_fault(text, columns, header, f"{column.name}: {column.kind.value}")
    return arrays


def _read_fast(
    text: CsvText, header: Sequence[str], wanted: Sequence[Column], header_lines: int
) -> Any:  # noqa: ANN401 - pyarrow has no types.
    """Return the table, or None if nothing follows the header; ValueError if it is amiss."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    types = {
        c.name: pa.float64()
        if c.kind in NUMBERS
        else pa.string()
        if c.kind in TEXTS
        else pa.int64()
        for c in wanted
    }
    start = text.start
    for _ in range(header_lines):
        start = text.data.find(b"\n", start) + 1
        if start == 0:
            return None
    body = pa.py_buffer(text.data).slice(start)
    if not text.data[start : start + 4096].strip() and not text.data[start:].strip():
        return None
    return arrow_csv.read_csv(
        pa.BufferReader(body),
        read_options=arrow_csv.ReadOptions(column_names=list(header), block_size=1 << 24),
        convert_options=arrow_csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=[""],
            strings_can_be_null=False,
        ),
    )


def is_clean(array: Any, kind: Kind) -> bool:  # noqa: ANN401 - pyarrow has no types.
    """Say whether every value of a pyarrow array is one that its column may hold."""
    if array.null_count and kind not in BLANK:
        return False
    if kind in TEXTS:
        return _is_clean_text(array, kind)
    if kind is Kind.ID:
        return True
    values = array.drop_null().to_numpy(zero_copy_only=False)
    if kind is Kind.LIFE:
        return bool((values > 0).all())
    return bool((np.isfinite(values) & (values >= 0)).all())


def _is_clean_text(array: Any, kind: Kind) -> bool:  # noqa: ANN401 - pyarrow has no types.
    import pyarrow.compute as pc

    if pc.any(pc.match_substring_regex(array, r"[\x00-\x1f\x7f]")).as_py():
        return False
    if kind is Kind.TEXT:
        return True
    blank = pc.any(pc.equal(pc.utf8_trim_whitespace(array), "")).as_py()
    return not blank and bool(pc.count_distinct(array).as_py() == len(array))


def _first_fault(
    text: CsvText, columns: Sequence[Column], header: Sequence[str], fallback: str
) -> TraceError:
    """Walk the file line by line and return the first fault, or one made of `fallback`."""
    by_name = {column.name: column for column in columns}
    lines_of: dict[str, int] = {}
    records = text.records()
    next(records)
    for line, record in records:
        if len(record) != len(header):
            reason = f"{len(record)} values in the line, {len(header)} in the header"
            return TraceError(reason, file=text.file, line=line, field=_last(header, record))
        for field, value in zip(header, record, strict=True):
            kind = by_name[field].kind
            reason = fault_of(value, kind)
            if not reason and kind is Kind.NAME:
                first = lines_of.setdefault(value, line)
                reason = "" if first == line else f"given twice, first in line {first}"
            if reason:
                return TraceError(
                    reason, file=text.file, line=line, field=field, value=value, allowed=kind.value
                )
    # The two readers disagree: the fast one is the stricter, and its word is better than none.
    return TraceError(fallback.split("\n", 1)[0], file=text.file)


def _last(header: Sequence[str], record: Sequence[str]) -> str:
    """Return the column at which a line of another width goes astray."""
    return header[min(len(record), len(header) - 1)]


def fault_of(value: str, kind: Kind) -> str:
    """Return what is wrong with one value of a line, or nothing."""
    if kind is Kind.IGNORED:
        return ""
    if kind in TEXTS:
        if kind is Kind.NAME and not value.strip():
            return "blank"
        return "" if is_plain(value) else "control characters"
    text = value.strip(" \t")
    if not text:
        return "only white space" if value else "" if kind in BLANK else "blank"
    if kind in {Kind.WHOLE, Kind.ID}:
        return _whole_fault(text.removeprefix("-") if kind is Kind.ID else text)
    return _number_fault(text, kind)


def _whole_fault(text: str) -> str:
    if not _WHOLE.fullmatch(text):
        return "not a whole number"
    if len(text) > 20 or int(text) > _WHOLE_MAX:  # noqa: PLR2004 - longer than any int64.
        return "too large"
    return "negative" if int(text) < 0 else ""


def _number_fault(text: str, kind: Kind) -> str:
    if text.lower() in {"nan", "-nan"}:
        return "not a number (nan)"
    if not _NUMBER.fullmatch(text) and not _INFINITE.fullmatch(text):
        return "not a number"
    number = float(text)
    if number < 0:
        return "negative"
    if kind is Kind.LIFE:
        return "a life of 0 s" if number == 0 else ""
    return "" if math.isfinite(number) else "infinite"
