"""Look into JSON that nobody vouches for: what is there, of the type it must have, or a refusal.

Every function takes the record and the names that lead to a field. A field that is missing or
null gives the empty value of its type; one of another type raises TraceError with the field's
path, to which the reader of the file adds file and line.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import NoReturn

from sim.sources.json_text import Json
from sim.sources.pods import TraceError, is_plain

NAME_MAX = 253
"""Characters of a Kubernetes name at most, by its API conventions."""
_YEAR_2000 = 946_684_800.0
_YEAR_2200 = 7_258_118_400.0

_SUFFIXES = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    **{f"{letter}i": 1024.0 ** (power + 1) for power, letter in enumerate("KMGTPE")},
}
_QUANTITY_MAX = 1e15


def refuse(path: tuple[str | int, ...], value: Json, reason: str, allowed: str) -> NoReturn:
    """Refuse one field of a record."""
    shown = value if isinstance(value, str) else repr(value)[:60]
    field = ".".join(str(part) for part in path)
    raise TraceError(reason, field=field, value=shown, allowed=allowed)


def field(one: Json, *path: str) -> Json:
    """Return what stands at a path, or None where nothing does."""
    for depth, name in enumerate(path):
        if one is None:
            return None
        if not isinstance(one, dict):
            refuse(path[:depth], one, "not an object", "a JSON object")
        one = one.get(name)
    return one


def text(one: Json, *path: str) -> str:
    """Return a text, or an empty one."""
    value = field(one, *path)
    if value is None:
        return ""
    if not isinstance(value, str):
        refuse(path, value, "not a text", "a JSON string")
    return value


def name(one: Json, *path: str) -> str:
    """Return a name as Kubernetes has them: one visible line; or an empty one."""
    value = text(one, *path)
    if value and (len(value) > NAME_MAX or not is_plain(value) or not value.strip()):
        refuse(path, value, "not a name", f"up to {NAME_MAX} characters, no control characters")
    return value


def flag(one: Json, *path: str) -> bool | None:
    """Return true or false, or None."""
    value = field(one, *path)
    if value is None or isinstance(value, bool):
        return value
    refuse(path, value, "neither true nor false", "true or false")


def items(one: Json, *path: str) -> list[Json]:
    """Return a list, or an empty one."""
    value = field(one, *path)
    if value is None:
        return []
    if not isinstance(value, list):
        refuse(path, value, "not a list", "a JSON list")
    return value


def number(one: Json, *path: str) -> float:
    """Return a finite number, also one that is written as a text; nan where there is none."""
    value = field(one, *path)
    if value is None:
        return math.nan
    return as_number(value, *path)


def as_number(value: Json, *path: str) -> float:
    """Return a value as a finite number."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        refuse(path, value, "not a number", "a finite number")
    return found


def unix_time(seconds: float, value: Json, *path: str) -> float:
    """Return seconds since 1970, if they can be the time of a pod at all."""
    if not _YEAR_2000 <= seconds <= _YEAR_2200:
        refuse(path, value, "not a time", "a time between the years 2000 and 2200")
    return seconds


def instant(one: Json, *path: str) -> float:
    """Return a time as Kubernetes writes it, as seconds since 1970; nan where there is none."""
    value = field(one, *path)
    if value is None or value == "":
        return math.nan
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp()
    except (TypeError, ValueError, OverflowError):
        refuse(path, value, "not a time", "a time such as 2026-01-31T12:00:00Z")
    return unix_time(seconds, value, *path)


def quantity(value: Json, *path: str) -> float:
    """Return a Kubernetes quantity, such as 100m, 1.5 or 2Gi, as a number.

    >>> quantity("1500m"), quantity("2Gi"), quantity("1e3"), quantity(2)
    (1.5, 2147483648.0, 1000.0, 2.0)
    """
    if isinstance(value, str):
        digits = value.rstrip("numkMGTPEi")
        factor = _SUFFIXES.get(value[len(digits) :])
        if factor is None or not digits or digits[-1] not in "0123456789.":
            refuse(path, value, "not a quantity", "a quantity such as 100m or 2Gi")
        found = as_number(digits, *path) * factor
    else:
        found = as_number(value, *path)
    if not 0 <= found <= _QUANTITY_MAX:
        refuse(path, value, "not a quantity", f"from 0 to {_QUANTITY_MAX:g}")
    return found
