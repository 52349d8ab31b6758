"""The CI gate: today's figures of a suite of scenarios against a stored baseline.

Every run is exact: the same code gives the same figures on every machine, so a difference is a
change of the code (or of the suite), never noise. How a suite is written stands in
`sim/suite.py`, with the figures and which way each is better.

The gate closes where a figure got worse beyond its tolerance, where a run broke what must
always hold, and where suite and baseline do not have the same scenarios and figures: a gate
that quietly lost a scenario is open. Better figures are told, and pass.

Figures by the wall clock (`sim/wall_clock.py`) are apart: they are not exact, and are compared
only where somebody measured them.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np

from sim.file_entry import is_number
from sim.metrics import UnbalancedBooksError, summarise
from sim.record import RunRecord
from sim.scenario import ScenarioError
from sim.simulation import run
from sim.sources.pods import near
from sim.suite import APIS, FIGURES, Case, Suite, SuiteError
from sim.wall_clock import WALL_CLOCK_FIGURES

DIGITS = 6
NEGLIGIBLE = 1.5 * 10**-DIGITS
"""Figures are stored with six digits behind the point. The last bit of a logarithm differs
between processors, which can turn the rounding of the last digit, and nothing else."""

Figures = Mapping[str, float | None]
Status = Literal["worse", "better", "new", "gone", "broken"]
WHOLE_RUN = "(all)"
"""Stands for the figure where a change is of a whole scenario."""
WALL_CLOCK = "wall-clock"
"""Stands for the scenario of figures by the wall clock; a scenario's name ends in a behaviour."""
WALL_CLOCK_TOLERANCE = 0.5
"""How much of a ratio may be lost. Runs on quiet and busy machines stay within a tenth of each
other (benchmarks/README.md), and a step that takes twice as long is caught."""


class BrokenRunError(Exception):
    """A run of which no figure can be believed: something that must always hold did not."""


@dataclass(frozen=True, slots=True)
class Change:
    """A figure that differs from its baseline; None stands for a figure that is not there."""

    case: str
    figure: str
    baseline: float | None
    today: float | None
    status: Status
    told: str = ""
    """What the numbers cannot say."""

    @property
    def difference(self) -> float | None:
        """Today's figure less the baseline's."""
        if self.baseline is None or self.today is None:
            return None
        return round(self.today - self.baseline, DIGITS)


@dataclass(frozen=True, slots=True)
class Baseline:
    """Stored figures by case, which version of warmbench made them, and of which suite."""

    figures: Mapping[str, Figures] = field(default_factory=dict)
    warmbench: str = ""
    suite: str = ""
    wall_clock: Figures | None = None


@dataclass(frozen=True, slots=True)
class Today:
    """What was measured: figures by case, or why there are none; and seconds it took, by case."""

    figures: Mapping[str, Figures | BrokenRunError]
    wall_clock: Figures | None = None
    took_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def whole(self) -> Mapping[str, Figures] | None:
        """The figures, where every run has some that can be held."""
        figures = {n: one for n, one in self.figures.items() if not isinstance(one, BrokenRunError)}
        return figures if len(figures) == len(self.figures) else None


# Figures.


def measure_all(
    suite: Suite,
    *,
    progress: Callable[[int], None] = lambda _: None,
    clock: Callable[[], float] = lambda: 0.0,
) -> Today:
    """Run all cases; a broken run is a result too, and the others stand.

    `progress` hears how many pods have arrived, of all cases. Raises SuiteError.
    """
    figures: dict[str, Figures | BrokenRunError] = {}
    took_s: dict[str, float] = {}
    before = 0
    for case in suite.cases:
        started = clock()
        try:
            figures[case.name] = measure(case, _from(before, progress))
        except BrokenRunError as error:
            figures[case.name] = error
        except ValueError as error:
            raise SuiteError(f"{suite.path}: {error}") from error
        took_s[case.name] = clock() - started
        before += len(case.pods)
        progress(before)
    return Today(figures, took_s=took_s)


def _from(before: int, progress: Callable[[int], None]) -> Callable[[int], None]:
    """Count a run's pods on top of those of the runs before it."""
    return lambda pod: progress(before + pod)


def measure(case: Case, progress: Callable[[int], None] | None = None) -> Figures:
    """Run a case and return its figures by name; None where a run has no such figure.

    Raises SuiteError for a scenario that cannot be run, BrokenRunError for a run that broke.
    """
    try:
        record = run(case.scenario, case.pods, progress=progress)
        summary = summarise(record)
    except ScenarioError as error:
        raise SuiteError(f"{case.name}: {error}") from error
    except (AssertionError, UnbalancedBooksError) as error:
        raise BrokenRunError(" ".join(str(error).split()) or type(error).__name__) from error
    first, last = _instants(record)
    calls = summary.ec2_calls
    figures: dict[str, float | None] = {
        "first_address_s": first,
        "last_address_s": last,
        "wait_s.p50": summary.wait_s.p50,
        "wait_s.p90": summary.wait_s.p90,
        "wait_s.p99": summary.wait_s.p99,
        "wait_s.max": summary.wait_s.max,
        "served": summary.served,
        "served_at_once": summary.at_once_of_all,
        "refused_adds": sum(summary.refusals.values()),
        "refused_pods": summary.refused_pods,
        "addresses.held.mean": summary.addresses.held.mean,
        "addresses.held.max": summary.addresses.held.max,
        "addresses.taken.mean": summary.taken_mean,
        "ec2_calls.mutating": calls.mutating,
        "ec2_calls.throttled": calls.throttled,
    }
    assert tuple(figures) == tuple(FIGURES)
    figures |= {f"ec2_calls.{api}": count for api, count in sorted(calls.by_api.items())}
    return {name: None if value is None else round(value, 6) for name, value in figures.items()}


def _instants(record: RunRecord) -> tuple[float | None, float | None]:
    """Return seconds from the first ADD to the first and to the last address handed out."""
    demanded = record.pods["added_at"] >= 0.0
    served = record.pods["served_at"][demanded]
    if not np.isfinite(served).any():
        return None, None
    start = float(record.pods["added_at"][demanded].min())
    return float(np.nanmin(served)) - start, float(np.nanmax(served)) - start


# Baselines.


def baseline_beside(suite: Path) -> Path:
    """Return where a suite's baseline is, unless told otherwise."""
    return suite.with_name(f"{suite.stem}.baseline.json")


def load_baseline(path: Path) -> Baseline:
    """Read a baseline; raises SuiteError where there is none, or the file is something else."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        # `items` refuses lists, of which `dict` would make something.
        figures = {case: dict(values.items()) for case, values in stored["figures"].items()}
        wall_clock = dict(stored["wall_clock"].items()) if "wall_clock" in stored else None
        found = Baseline(figures, str(stored["warmbench"]), str(stored["suite"]), wall_clock)
    except FileNotFoundError:
        raise SuiteError(f"{path}: there is no baseline yet: make it with --update") from None
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _no_baseline(path, f"{type(error).__name__}: {error}") from None
    for case, values in {**figures, WALL_CLOCK: wall_clock or {}}.items():
        for name in (case, *values):
            if not name.isprintable():
                raise _no_baseline(path, f"{name!a} is no name")
        for figure, value in values.items():
            if value is not None and not is_number(value):
                raise _no_baseline(path, f"{case}: {figure} is {value!r}, not a number")
    return found


def _no_baseline(path: Path, why: str) -> SuiteError:
    """Name the way out; nothing is overwritten that was never a baseline."""
    return SuiteError(f"{path}: not a baseline ({why}): remove it and make it with --update")


def save_baseline(
    path: Path,
    figures: Mapping[str, Figures],
    suite: Suite,
    wall_clock: Figures | None = None,
) -> bool:
    """Write a baseline, one figure a line, all of it or nothing; return whether it is news."""
    stored: dict[str, object] = {
        "warmbench": this_version(),
        "suite": suite.digest,
        "figures": figures,
    }
    if wall_clock is not None:
        stored["wall_clock"] = wall_clock
    text = json.dumps(stored, indent=1, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_whole(path, text)
    return True


def write_whole(path: Path, text: str) -> None:
    """Write a file, all of it or nothing: an interrupt leaves what was there, and no draft."""
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def this_version() -> str:
    """Return warmbench's version, as it is installed."""
    try:
        return version("warmbench")
    except PackageNotFoundError:
        return "not installed"


# Comparing.


def parse_tolerances(texts: Iterable[str]) -> dict[str, float]:
    """Read tolerances for a whole run, each FIGURE=SHARE; raises SuiteError.

    >>> parse_tolerances(["wait_s.p99=0.05"])
    {'wait_s.p99': 0.05}
    """
    known = (*FIGURES, *(f"ec2_calls.{api}" for api in APIS), *WALL_CLOCK_FIGURES)
    tolerances: dict[str, float] = {}
    for text in texts:
        figure, _, share = text.partition("=")
        if figure not in known:
            hint = near(figure, known) or f"; known are {', '.join(known)}"
            raise SuiteError(f"tolerance {text}: unknown figure{hint}")
        try:
            tolerances[figure] = float(share)
        except ValueError:
            tolerances[figure] = -1.0
        if not 0 <= tolerances[figure] <= 1:
            raise SuiteError(
                f"tolerance {text}: allowed is {figure}=SHARE, a share of the baseline's figure"
                " from 0 to 1"
            )
    return tolerances


def compare(
    cases: Sequence[Case],
    today: Today,
    baseline: Baseline,
    tolerance: Mapping[str, float] | None = None,
) -> list[Change]:
    """Return what differs beyond tolerance, in the order of the suite and of its figures.

    A `tolerance` by figure stands in for the suite's own, in every case. Figures by the wall
    clock are compared where they were measured today.
    """
    given = tolerance or {}
    changes: list[Change] = []
    for case in cases:
        old, new = baseline.figures.get(case.name), today.figures[case.name]
        if isinstance(new, BrokenRunError):
            changes.append(Change(case.name, WHOLE_RUN, None, None, "broken", str(new)))
        elif old is None:
            told = "in the suite, not in the baseline"
            changes.append(Change(case.name, WHOLE_RUN, None, None, "new", told))
        else:
            changes += _changes(case.name, old, new, {**case.tolerance, **given})
    names = {case.name for case in cases}
    told = "in the baseline, not in the suite"
    changes += [
        Change(name, WHOLE_RUN, None, None, "gone", told)
        for name in baseline.figures
        if name not in names
    ]
    return changes + _wall_clock_changes(today.wall_clock, baseline.wall_clock, given)


def _wall_clock_changes(
    today: Figures | None, baseline: Figures | None, given: Mapping[str, float]
) -> list[Change]:
    """Compare ratios that were measured today; without, the baseline's wait for another day."""
    if today is None:
        return []
    if baseline is None:
        told = "measured today, not in the baseline"
        return [Change(WALL_CLOCK, WHOLE_RUN, None, None, "new", told)]
    tolerance = dict.fromkeys(WALL_CLOCK_FIGURES, WALL_CLOCK_TOLERANCE) | dict(given)
    return _changes(WALL_CLOCK, baseline, today, tolerance)


def _changes(case: str, old: Figures, new: Figures, tolerance: Mapping[str, float]) -> list[Change]:
    changes = []
    for figure in dict.fromkeys([*new, *old]):
        # An API that is not called at all has no row: that is none, not unknown.
        none = 0 if figure.startswith("ec2_calls.") else None
        was, is_now = old.get(figure, none), new.get(figure, none)
        status = _status(figure, was, is_now, tolerance.get(figure, 0))
        if status is not None:
            changes.append(Change(case, figure, was, is_now, status))
    return changes


def _status(figure: str, old: float | None, new: float | None, tolerance: float) -> Status | None:
    """Judge one figure; `tolerance` is a share of the old one, so of 0 nothing may be lost."""
    if old is None or new is None:
        return None if old is new else "new" if old is None else "gone"
    if abs(new - old) <= max(tolerance * abs(old), NEGLIGIBLE):
        return None
    return "better" if (new > old) == FIGURES.get(figure, False) else "worse"


def differs_else(suite: Suite, baseline: Baseline, path: Path) -> list[str]:
    """Say what else differs than the code's figures: the suite, or warmbench itself."""
    told = []
    if baseline.suite != suite.digest:
        told.append(f"{suite.path} or a trace it names has changed since {path} was made")
    if baseline.warmbench != this_version():
        told.append(f"{path} is of warmbench {baseline.warmbench}, this is {this_version()}")
    return told


def fails(changes: Sequence[Change]) -> bool:
    """Whether the gate closes: anything but better figures."""
    return any(change.status != "better" for change in changes)
