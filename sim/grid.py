"""Which runs a sweep makes: axes laid across each other, and settings listed one by one.

An axis is a name and its values as a person types them. Names in capitals are variables of the
plug-in; the others are those in `AXES`. Every value is read before anything runs, so that a slip
costs no time. What only the combination rules out (prefixes on a type that takes none) makes a
cell with a problem in place of a scenario: the others stand.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from cni.allocator.behaviour import PRESETS
from cni.settings import Settings, parse_assignments
from sim.node_type import NodeType
from sim.scenario import Scenario, ScenarioError, SubnetPlan

AXES = ("instance", "behaviour", "subnet", "nodes", "max-pods", "seed")
"""Axes that are no settings, in the order in which a sweep's rows are sorted."""

CELLS_MAX = 1_000_000
"""More cells in one sweep are most likely a slip."""

_RANGE = re.compile(r"(\d+)\.\.(\d+)(?:/(\d+))?")


class GridError(ValueError):
    """Axes that cannot be used; the message says which, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a setting is tried: everything of a run that is no setting, by its axes."""

    node_type: NodeType
    behaviour: str
    subnets: tuple[SubnetPlan, ...]
    nodes: int
    max_pods: int | None
    seed: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep: its place, its setting in words, and the scenario or why there is none.

    `setting` holds the variables given, as `KEY=VALUE` words; "default" where none is.
    """

    setting: str
    place: Place
    scenario: Scenario | None
    problem: str = ""


Maker = Callable[[Place, Settings], Scenario]
"""Makes the scenario of a cell; raises ScenarioError where the two do not go together."""


def values_of(text: str) -> tuple[str, ...]:
    """Read the values of an axis: with commas, and ranges of whole numbers; each value once.

    >>> values_of("1,2,5..7,10..20/5")
    ('1', '2', '5', '6', '7', '10', '15', '20')
    """
    values: list[str] = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            values.append(part.strip())
            continue
        first, last, step = int(found[1]), int(found[2]), int(found[3] or 1)
        if first > last or step == 0 or last - first > CELLS_MAX:
            raise GridError(f"{part}: a range is FIRST..LAST or FIRST..LAST/STEP, upwards")
        values += map(str, range(first, last + 1, step))
    return tuple(dict.fromkeys(values))


def axis_of(text: str) -> tuple[str, tuple[str, ...]]:
    """Read NAME=VALUE,VALUE,…; raises GridError.

    >>> axis_of("WARM_IP_TARGET=1,2")
    ('WARM_IP_TARGET', ('1', '2'))
    """
    name, equals, rest = text.partition("=")
    if not equals or not rest or not name:
        raise GridError(f"--grid {text}: write NAME=VALUE,VALUE,…, such as WARM_IP_TARGET=1,2,5")
    if name not in AXES and name != name.upper():
        raise GridError(
            f"--grid {name}: allowed are variables of the plug-in and {', '.join(AXES)}"
        )
    if name == "subnet":
        # A subnet's own text may hold a comma; values are parted by blanks there.
        return name, tuple(dict.fromkeys(rest.split()))
    return name, values_of(rest)


def settings_in(
    grid: Mapping[str, Sequence[str]], listed: Sequence[Sequence[str]], fixed: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """Return the settings of a sweep as KEY=VALUE words: those of the grid, then those listed.

    A value that is empty leaves its variable unset. `fixed` holds in all of them.

    >>> settings_in({"WARM_IP_TARGET": ["", "5"]}, [["WARM_ENI_TARGET=2"]], [])
    ((), ('WARM_IP_TARGET=5',), ('WARM_ENI_TARGET=2',))
    """
    found: list[tuple[str, ...]] = []
    if grid or not listed:
        for values in product(*grid.values()):
            pairs = zip(grid, values, strict=True)
            found.append((*fixed, *(f"{name}={value}" for name, value in pairs if value)))
    found += [(*fixed, *one) for one in listed]
    return tuple(dict.fromkeys(found))


def cells(
    settings: Sequence[Sequence[str]], places: Sequence[Place], make: Maker
) -> tuple[Cell, ...]:
    """Make all cells: every setting in every place, in this order.

    Raises GridError for more than CELLS_MAX, SettingsError for a variable or value that no
    daemon of that behaviour takes.
    """
    count = len(settings) * len(places)
    if not 0 < count <= CELLS_MAX:
        raise GridError(f"{count:,} cells: allowed are 1 to {CELLS_MAX:,}")
    return tuple(_cells(settings, places, make))


def _cells(
    settings: Sequence[Sequence[str]], places: Sequence[Place], make: Maker
) -> Iterator[Cell]:
    for pairs in settings:
        read = {
            name: parse_assignments(pairs, lenient=name == "upstream")
            for name in dict.fromkeys(place.behaviour for place in places)
        }
        label = " ".join(pairs) or "default"
        for place in places:
            try:
                yield Cell(label, place, make(place, read[place.behaviour]))
            except ScenarioError as error:
                yield Cell(label, place, None, str(error))


def behaviour_of(text: str) -> str:
    """Check the name of a behaviour; raises GridError."""
    if text not in PRESETS:
        raise GridError(f"behaviour {text}: allowed are {', '.join(PRESETS)}")
    return text


def whole(name: str, text: str, least: int = 0) -> int:
    """Read a whole number of an axis; raises GridError."""
    if not text.isdecimal() or int(text) < least:
        raise GridError(f"{name}={text}: allowed are whole numbers from {least}")
    return int(text)
