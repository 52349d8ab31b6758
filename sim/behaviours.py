"""Both behaviours on the scenarios of a suite: waiting, addresses and mutating EC2 calls.

`native` is to be worse on one of the three axes at most, and is to make no more mutating calls;
where it does not, that is an exception, told with its figures (DESIGN: "Two behaviours, one
allocator").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sim.regress import BrokenRunError, Figures, Today
from sim.tables import MINUS, NONE, NOTABLE, number, seconds

BOTH = ("upstream", "native")
AXES: Mapping[str, str] = {
    "wait, p99": "wait_s.p99",
    "refused ADDs": "refused_adds",
    "addresses taken": "addresses.taken.mean",
    "mutating calls": "ec2_calls.mutating",
}
"""What is compared, and its figure; waiting shows in two of them."""

WAITING = ("wait, p99", "refused ADDs")


@dataclass(frozen=True, slots=True)
class Axis:
    """One figure of both behaviours in one scenario; None where a run has none."""

    name: str
    upstream: float | None
    native: float | None

    @property
    def verdict(self) -> int:
        """Return 1 where native is better, -1 where it is worse, by more than NOTABLE; else 0."""
        if self.upstream is None or self.native is None:
            return 0
        more = self.native - self.upstream
        if abs(more) <= NOTABLE * abs(self.upstream):
            return 0
        return -1 if more > 0 else 1

    @property
    def told(self) -> tuple[str, str, str]:
        """Write both figures, and by how much of upstream's the native one differs."""
        write = seconds if self.name.startswith("wait") else number
        if self.upstream is None or self.native is None:
            return NONE, NONE, NONE
        return write(self.upstream), write(self.native), _change(self.upstream, self.native)


@dataclass(frozen=True, slots=True)
class Pair:
    """One scenario under both behaviours."""

    name: str
    axes: tuple[Axis, ...]

    @property
    def worse(self) -> tuple[str, ...]:
        """Name what native does worse; of waiting, only where neither figure is better."""
        waits = [axis.verdict for axis in self.axes if axis.name in WAITING]
        found = [axis.name for axis in self.axes if axis.verdict < 0 and axis.name not in WAITING]
        return ("waiting", *found) if min(waits) < 0 and max(waits) <= 0 else tuple(found)

    @property
    def exception(self) -> bool:
        """Whether native is worse on two axes at once, or makes more mutating calls."""
        return len(self.worse) > 1 or "mutating calls" in self.worse


def _change(upstream: float, native: float) -> str:
    if upstream == native:
        return "same"
    if not upstream:
        return NONE
    per_cent = 100.0 * (native - upstream) / upstream
    return f"{'+' if per_cent > 0 else MINUS}{abs(per_cent):,.0f} %"


def pairs(today: Today) -> list[Pair]:
    """Return what was measured of a suite under both behaviours; raises BrokenRunError."""
    for error in today.figures.values():
        if isinstance(error, BrokenRunError):
            raise error
    figures = {n: one for n, one in today.figures.items() if not isinstance(one, BrokenRunError)}
    names = dict.fromkeys(name.rpartition(" (")[0] for name in figures)
    return [Pair(name, _axes(*(figures[f"{name} ({one})"] for one in BOTH))) for name in names]


def _axes(upstream: Figures, native: Figures) -> tuple[Axis, ...]:
    return tuple(Axis(name, upstream[key], native[key]) for name, key in AXES.items())


def verdict(found: Sequence[Pair]) -> list[str]:
    """Say in lines how native stands, exceptions with their figures."""
    lines = []
    for name in AXES:
        better = sum(axis.verdict > 0 for pair in found for axis in pair.axes if axis.name == name)
        worse = sum(axis.verdict < 0 for pair in found for axis in pair.axes if axis.name == name)
        alike = len(found) - better - worse
        lines.append(f"{name}: native is better in {better}, alike in {alike}, worse in {worse}")
    for pair in found:
        if pair.exception:
            told = "; ".join(
                f"{axis.name} {axis.told[1]} against {axis.told[0]}"
                for axis in pair.axes
                if axis.verdict
            )
            lines.append(f"exception: {pair.name}: {told}")
    return lines
