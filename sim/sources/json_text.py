"""Read JSON of any size, one record after another, and name the line where something is wrong.

`open_text` gives a file as text, unpacked where it is gzip, a MiB at a time. `JsonText` decodes
one value after another from it. `records` gives the records of a file in whatever way they are
laid out: one a line, one after another over many lines, or as the items of a list inside one
large object, as HTTP APIs answer. No more than one value is in memory at a time, and none may be
larger than VALUE_MAX, so that a file without line ends, or a small file that unpacks to
terabytes, is refused and not swallowed.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from sim.sources.pods import TraceError
from sim.sources.strict_csv import GZIP_MAGIC, missing

Json = Any
"""What `json` reads: nothing is known of it before it is looked at."""

CHUNK_BYTES = 1 << 20
VALUE_MAX = 1 << 24
"""Characters of one value. The API server writes audit events of 10 MiB at most, etcd objects of
1.5 MiB; a Prometheus series has 11,000 samples at most, that is 0.3 MiB."""
WHOLE_MAX = 1 << 20
"""Characters up to which a value is decoded at once rather than field by field."""

CUT_OFF = "the file ends in the middle of this record"

_BLANK = re.compile(r"[ \t\r\n]*")
_NUMBERS_END = re.compile(r"\.|[eE][+-]?")
_PREFIX_MAX = 1 << 10
"""Characters that a time and the name of a log stream may have."""
_NEAR_END = 16
"""A literal or an escape that the end of the buffer cuts is reported this far before it at most."""


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


class CutOffError(TraceError):
    """The file ends in the middle of a value."""


def located(err: TraceError, file: str, line: int | None = None) -> TraceError:
    """Return a refusal with the place where it happened, unless it names one already."""
    if err.file is not None:
        return err
    return TraceError(
        err.reason,
        file=file,
        line=line if err.line is None else err.line,
        row=err.row,
        field=err.field,
        value=err.value,
        allowed=err.allowed,
    )


@contextmanager
def open_bytes(path: Path, advance: Callable[[int], None]) -> Iterator[Iterator[bytes]]:
    """Open a file, unpacked where it is gzip, as chunks of bytes; `advance` hears what was read.

    What it hears is bytes of the file itself, packed ones where it is packed. Raises TraceError
    if the file is missing (with names like it), a folder, unreadable or damaged.
    """
    file = str(path)
    try:
        raw = path.open("rb")
    except FileNotFoundError:
        raise TraceError(missing(path), file=file) from None
    except IsADirectoryError:
        raise TraceError("is a folder", file=file, allowed="a file") from None
    except (OSError, ValueError) as err:
        reason = f"cannot be read: {getattr(err, 'strerror', None) or err}"
        raise TraceError(reason, file=file) from None
    with raw:
        yield _chunks(raw, file, advance)


def _chunks(raw: BinaryIO, file: str, advance: Callable[[int], None]) -> Iterator[bytes]:
    # A pipe has no position and cannot look ahead by seeking; `peek` of the buffer can.
    head: bytes = raw.peek(2)[:2]  # type: ignore[attr-defined]
    packed = gzip.GzipFile(fileobj=raw) if head == GZIP_MAGIC else None
    seekable = raw.seekable()
    done = 0
    while True:
        try:
            chunk = (packed or raw).read(CHUNK_BYTES)
        except EOFError:
            raise TraceError("damaged gzip: the file is cut off", file=file) from None
        except (gzip.BadGzipFile, zlib.error) as err:
            raise TraceError(f"damaged gzip: {err}", file=file) from None
        except OSError as err:
            raise TraceError(f"cannot be read: {err.strerror or err}", file=file) from None
        at = raw.tell() if seekable else done
        advance(at - done)
        done = at
        if not chunk:
            return
        yield chunk


class JsonText:
    """The text of one file, decoded value by value; raises TraceError with file and line."""

    def __init__(self, chunks: Iterator[bytes], file: str) -> None:
        """Read nothing yet."""
        self.file = file
        self._chunks = chunks
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False
        self._line = 1
        """Of the position `_counted`."""
        self._counted = 0
        self._lines_read = 0
        self._dropped = 0

    @property
    def position(self) -> int:
        """How many characters have been stepped over."""
        return self._dropped + self._at

    @property
    def line(self) -> int:
        """The line of the next value, from 1."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _fill(self, at_least: int = 1) -> bool:
        """Read on by so many characters; False where nothing is left to read."""
        if self._ended:
            return False
        line = self.line
        parts = [self._text[self._at :]]
        got = 0
        while got < at_least and not self._ended:
            chunk = next(self._chunks, b"")
            self._ended = not chunk
            try:
                text = self._decoder.decode(chunk, final=self._ended)
            except UnicodeDecodeError as err:
                read = self._lines_read + err.object.count(b"\n", 0, err.start)
                reason = f"not UTF-8: byte 0x{err.object[err.start]:02x}"
                raise TraceError(
                    reason, file=self.file, line=read + 1, allowed="UTF-8 text"
                ) from None
            self._lines_read += text.count("\n")
            parts.append(text)
            got += len(text)
        self._dropped += self._at
        self._text, self._at, self._counted, self._line = "".join(parts), 0, 0, line
        return got > 0

    def peek(self) -> str:
        """Return the next character that is not blank, or nothing at the end of the file."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            assert blank is not None  # It may be empty, but it matches.
            self._at = blank.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def skip(self, pattern: re.Pattern[str]) -> bool:
        """Step over what a pattern matches here; False where it does not."""
        if len(self._text) - self._at < _PREFIX_MAX:
            self._fill(_PREFIX_MAX)
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found is not None

    def punctuation(self, allowed: str) -> str:
        """Step over one of these characters and return it."""
        found = self.peek()
        if not found or found not in allowed:
            if not found or self._is_number_cut_off():
                raise CutOffError(CUT_OFF, file=self.file, line=self.line, allowed="JSON")
            self.refuse(" or ".join(f"'{one}'" for one in allowed) + " is missing")
        self._at += 1
        return found

    def _is_number_cut_off(self) -> bool:
        """Say whether the file ends in the middle of a number, of which the rest stands here."""
        if len(self._text) - self._at < _NEAR_END:
            self._fill(_NEAR_END)
        rest = self._text[self._at :]
        return self._ended and _NUMBERS_END.fullmatch(rest) is not None

    def refuse(self, reason: str) -> NoReturn:
        """Refuse what stands here, with its first characters."""
        value = self._text[self._at : self._at + 60].split("\n", 1)[0] or None
        raise TraceError(reason, file=self.file, line=self.line, value=value, allowed="JSON")

    def whole(self) -> tuple[bool, Json]:
        """Return True and the next value, or False where it is too large to be had at once."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError):
                pass
            else:
                if end < len(self._text) or self._ended:
                    self._at = end
                    return True, value
            if len(self._text) - self._at >= WHOLE_MAX or not self._fill():
                return False, None

    def value(self) -> Json:
        """Return the next value, whatever it takes to have all of it."""
        while True:
            problem, at, cut = "", self._at, True
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as err:
                problem, at = err.msg, err.pos
                cut = _may_go_on(problem, self._text, at)
            except RecursionError:
                self.refuse("nested too deeply")
            except ValueError as err:
                self.refuse(str(err).split(";", maxsplit=1)[0])
            else:
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            pending = len(self._text) - self._at
            if cut and pending > VALUE_MAX:
                self.refuse(f"a value of more than {VALUE_MAX:,} characters")
            if not (cut and self._fill(pending)):
                self._refuse_value(problem, at, cut=cut and _is_cut_off(problem, self._text, at))

    def _refuse_value(self, problem: str, at: int, *, cut: bool) -> NoReturn:
        line = self.line
        if cut:
            raise CutOffError(CUT_OFF, file=self.file, line=line, allowed="JSON")
        found = line + self._text.count("\n", self._at, at)
        where = "" if found == line else f", found in line {found}"
        reason = f"not JSON: {problem}{where}"
        raise TraceError(reason, file=self.file, line=line, allowed="JSON")


def _may_go_on(problem: str, text: str, at: int) -> bool:
    """Say whether what JSON stumbles over may be the end of the buffer."""
    if problem.startswith("Invalid control"):
        return False
    return at + _NEAR_END >= len(text) or problem.startswith("Unterminated")


def _is_cut_off(problem: str, text: str, at: int) -> bool:
    """Say whether what JSON stumbles over is the end of the file."""
    rest = text[at:].strip()
    begun = any(literal.startswith(rest) for literal in ("true", "false", "null", "-"))
    begun = begun or _NUMBERS_END.fullmatch(rest) is not None
    return begun or problem.startswith("Unterminated") or "escape" in problem


@dataclass(frozen=True, slots=True)
class Layout:
    """Where records may hide: items of the list called one of `lists`, also inside `under`."""

    lists: Collection[str]
    under: str = ""
    prefix: re.Pattern[str] | None = None
    """What may stand before a record, such as the time that a log adds."""


def records(text: JsonText, layout: Layout) -> Iterator[tuple[int, Json]]:
    """Give each record of a file with the line where it begins.

    A record is any value that is not a list and has none of the layout's lists in it.
    """
    while found := text.peek():
        line = text.line
        if found == "[":
            yield from _items(text)
        elif found == "{":
            is_whole, value = text.whole()
            if is_whole:
                yield from _spread(value, line, layout)
            else:
                yield from _fields(text, line, layout, depth=0)
        elif layout.prefix is None or not text.skip(layout.prefix):
            text.refuse("no JSON object begins here")


def _spread(value: Json, line: int, layout: Layout) -> Iterator[tuple[int, Json]]:
    """Give the items of the list inside a value, or the value."""
    inner = value.get(layout.under) if layout.under else None
    for one in (value, inner):
        if isinstance(one, dict):
            for name in layout.lists:
                if isinstance(one.get(name), list):
                    yield from ((line, item) for item in one[name])
                    return
    yield line, value


def _items(text: JsonText) -> Iterator[tuple[int, Json]]:
    """Give the items of the list that begins here."""
    text.punctuation("[")
    if text.peek() == "]":
        text.punctuation("]")
        return
    while True:
        text.peek()
        line = text.line
        yield line, text.value()
        if text.punctuation(",]") == "]":
            return


def _fields(text: JsonText, line: int, layout: Layout, depth: int) -> Iterator[tuple[int, Json]]:
    """Read an object field by field, since it is too large to be had at once, or broken."""
    rest: dict[str, Json] = {}
    room = VALUE_MAX
    is_listed = False
    text.punctuation("{")
    while text.peek() != "}" or rest:
        name = text.value()
        if not isinstance(name, str):
            text.refuse("a field has no name")
        text.punctuation(":")
        opens = text.peek()
        if opens == "[" and name in layout.lists:
            is_listed = True
            yield from _items(text)
        elif opens == "{" and layout.under and name == layout.under and depth == 0:
            is_listed = True
            yield from _fields(text, text.line, layout, depth + 1)
        else:
            before = text.position
            rest[name] = text.value()
            room -= text.position - before
            if room < 0:
                text.refuse(f"a record of more than {VALUE_MAX:,} characters")
        if text.punctuation(",}") == "}":
            break
    else:
        text.punctuation("}")
    if not is_listed:
        yield line, rest
