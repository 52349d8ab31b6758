"""One table of a TOML file: gives checked values, and refuses others by place, key and value."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from sim.sources.pods import near

SHOWN, NUMBER_MAX = 60, 1e15


class ScenarioFileError(ValueError):
    """A file that cannot be used; the message says where and what is allowed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The values of a table that stands at `where`; other keys than `keys` are refused."""

    where: str
    values: Mapping[str, Any]
    keys: Sequence[str]

    def __post_init__(self) -> None:
        """Refuse what is no table, or has other keys; raises ScenarioFileError."""
        if not isinstance(self.values, dict):
            raise ScenarioFileError(f"{self.where}: {shown(self.values)}: allowed is a table")
        for key in self.values:
            if key not in self.keys:
                hint = near(key, self.keys) or f"; known are {', '.join(self.keys)}"
                raise ScenarioFileError(f"{self.where}: unknown key {shown(key)}{hint}")

    def refuse(self, key: str, allowed: str) -> NoReturn:
        """Raise ScenarioFileError for the value at `key`."""
        if key not in self.values:
            raise ScenarioFileError(f"{self.where}: {key} is missing: allowed is {allowed}")
        raise ScenarioFileError(
            f"{self.where}: {key} = {shown(self.values[key])}: allowed is {allowed}"
        )

    def text(self, key: str) -> str:
        """Return a name that must be there: one line, nothing invisible."""
        value = self.values.get(key)
        if not is_plain(value):
            self.refuse(key, f"a text of 1 to {SHOWN} printable characters")
        return str(value)

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """Return one of the words allowed; the first where it is not there."""
        value = self.values.get(key, allowed[0])
        if value not in allowed:
            self.refuse(key, " or ".join(allowed))
        return str(value)

    def words(self, key: str, allowed: Sequence[str] = ()) -> tuple[str, ...]:
        """Return a list of names, each once; an empty one where it is not there."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(is_plain(word) for word in value):
            self.refuse(key, 'a list of names, ["NAME", …]')
        if allowed and not set(value) <= set(allowed):
            self.refuse(key, f"a list of {', '.join(allowed)}")
        return tuple(dict.fromkeys(map(str, value)))

    def whole(self, key: str, *, default: int | None, least: int, most: int) -> int:
        """Return a whole number within bounds; one without a default must be there."""
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(key, f"a whole number from {least} to {most:,}")
        return value

    def number(self, key: str, *, default: float | None, least: float, most: float) -> float:
        """Return a number within bounds; one without a default must be there."""
        value = self.values.get(key, default)
        if not is_number(value) or not least <= value <= most:
            self.refuse(key, f"a number from {least:g} to {most:g}")
        return float(value)

    def flag(self, key: str) -> bool:
        """Return true or false; false where it is not there."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            self.refuse(key, "true or false")
        return value

    def table(self, key: str) -> Mapping[str, Any]:
        """Return a table; an empty one where it is not there."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            self.refuse(key, "a table, { KEY = VALUE, … }")
        return value

    def tables(self, key: str, keys: Sequence[str]) -> list["Entry"]:
        """Return a list of tables, at least one, each named by its own name or its number."""
        listed = self.values.get(key)
        if not isinstance(listed, list) or not listed:
            self.refuse(key, "a list of tables, at least one")
        return [
            Entry(f"{self.where}: {key} {name_or(one, number)}", one, keys)
            for number, one in enumerate(listed, start=1)
        ]

    def setting(self, name: str, value: object) -> str:
        """Return a setting as an environment variable would hold it."""
        if isinstance(value, bool):
            return str(value).lower()
        if not isinstance(value, int | str):
            self.refuse("settings", f"for {name} a text, a whole number, or true or false")
        return str(value)

    @contextmanager
    def telling(self, key: str) -> Iterator[None]:
        """Say where what others refuse stands."""
        where = f"{self.where}: {key}" if key else self.where
        try:
            yield
        except ScenarioFileError:
            raise
        except OSError as error:
            raise ScenarioFileError(f"{where}: {error.filename}: {error.strerror}") from None
        except (ValueError, LookupError) as error:
            raise ScenarioFileError(f"{where}: {one_line(error)}") from None


def name_or(values: object, number: int) -> str:
    """Return the name a table gives itself, or its number."""
    name = values.get("name") if isinstance(values, dict) else None
    return str(name) if is_plain(name) else str(number)


def is_number(value: object) -> bool:
    """Whether it is a number that makes sense as a figure: no truth value, nan or infinity.

    >>> is_number(0.5), is_number(True), is_number(float("nan")), is_number(10**400)
    (True, False, False, False)
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= NUMBER_MAX  # type: ignore[arg-type]


def is_plain(text: object) -> bool:
    """Whether it is a text for one cell of a table."""
    return isinstance(text, str) and 0 < len(text.strip()) <= SHOWN and text.isprintable()


def shown(value: object) -> str:
    """Write a value as it could stand in the file, on one line, cut where it is long."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def one_line(error: Exception) -> str:
    """Return an error's text; a LookupError's is its argument, for `str` would quote it."""
    text = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
    return "; ".join(text.splitlines()) or type(error).__name__
