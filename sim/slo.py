"""What pods are promised, as limits on the figures of a run: `p99_wait<=1s,refused<=0.1%`."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sim.sources.pods import near
from sim.tables import number, seconds, share

FIGURE_OF: Mapping[str, tuple[str, str]] = {
    "mean_wait": ("wait_mean_s", "s"),
    "p50_wait": ("wait_p50_s", "s"),
    "p90_wait": ("wait_p90_s", "s"),
    "p99_wait": ("wait_p99_s", "s"),
    "max_wait": ("wait_max_s", "s"),
    "refused": ("refused_share", "%"),
    "throttled": ("throttled_share", "%"),
    "taken": ("taken_max", ""),
}
"""What can be limited: the figure of a cell, and its unit. `refused` is the share of pods refused
at first, `throttled` that of EC2 calls, `taken` the most addresses taken at once."""

DEFAULT = "p99_wait<=1s,refused<=0.1%,throttled<=1%"

_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_TERM = re.compile(r"\s*([a-z0-9_]+)\s*<=\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|h|%)?\s*")


class SloError(ValueError):
    """A promise that cannot be read; the message says where, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that one figure may be: seconds, a share, or a count, by `unit`."""

    name: str
    most: float

    @property
    def figure(self) -> str:
        """The figure of a cell that is limited."""
        return FIGURE_OF[self.name][0]

    def excess(self, figures: Mapping[str, float]) -> float:
        """Return by how much of itself the limit is exceeded; 0 where it is kept.

        A figure that a run does not have (no pod asked) breaks no promise.

        >>> Limit("p99_wait", 2.0).excess({"wait_p99_s": 3.0})
        0.5
        """
        value = figures[self.figure]
        if math.isnan(value) or value <= self.most:
            return 0.0
        return (value - self.most) / self.most if self.most else math.inf

    def told(self, value: float) -> str:
        """Write a value of the figure with its unit."""
        unit = FIGURE_OF[self.name][1]
        return seconds(value) if unit == "s" else share(value) if unit == "%" else number(value)

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.name} at most {self.told(self.most)}"


def parse_slo(text: str) -> tuple[Limit, ...]:
    """Read limits from text; raises SloError.

    >>> [str(limit) for limit in parse_slo("p99_wait<=500ms, refused<=0.1%")]
    ['p99_wait at most 500 ms', 'refused at most 0.1 %']
    """
    limits: dict[str, Limit] = {}
    for term in text.split(","):
        found = _TERM.fullmatch(term)
        if found is None:
            raise SloError(
                f'--slo "{term.strip()}": write NAME<=VALUE with commas, such as {DEFAULT}'
            )
        name, value, unit = found[1], float(found[2]), found[3]
        if name not in FIGURE_OF:
            hint = near(name, FIGURE_OF) or f"; known are {', '.join(FIGURE_OF)}"
            raise SloError(f'--slo "{name}": nothing of that name can be limited{hint}')
        if name in limits:
            raise SloError(f'--slo "{name}": limited twice')
        limits[name] = Limit(name, _value(name, value, unit))
    return tuple(limits.values())


def _value(name: str, value: float, unit: str | None) -> float:
    wanted = FIGURE_OF[name][1]
    if wanted == "s" and unit in _SECONDS:
        return value * _SECONDS[unit]
    if wanted == "%" and (unit == "%" or unit is None):
        of_one = value / 100.0 if unit else value
        if of_one <= 1.0:
            return of_one
        raise SloError(f'--slo "{name}": a share is 0% to 100%, or 0 to 1')
    if not wanted and unit is None:
        return value
    allowed = {"s": "a time with ms, s, min or h", "%": "a share, such as 0.1%", "": "a count"}
    raise SloError(f'--slo "{name}": wanted is {allowed[wanted]}')
