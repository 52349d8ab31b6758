"""The CI gate: today's figures of a suite of scenarios against a stored baseline.

Every run is exact: the same code gives the same figures on every machine, so a difference is a
change of the code (or of the suite), never noise. How a suite is written stands in
`sim/suite.py`, with the figures and which way each is better.

The gate closes where a figure got worse beyond its tolerance, where a run broke what must
always hold, and where suite and baseline do not have the same scenarios and figures: a gate
that quietly lost a scenario is open. Better figures are told, and pass.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
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
from sim.suite import FIGURES, Case, Suite, SuiteError

DIGITS = 6
NEGLIGIBLE = 1.5 * 10**-DIGITS
"""Figures are stored with six digits behind the point. The last bit of a logarithm differs
between processors, which can turn the rounding of the last digit, and nothing else."""

Figures = Mapping[str, float | None]
Status = Literal["worse", "better", "new", "gone", "broken"]
WHOLE_RUN = "(all)"
"""Stands for the figure where a change is of a whole scenario."""


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


# Figures.


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
        figures = {str(case): dict(values) for case, values in stored["figures"].items()}
        found = Baseline(figures, str(stored["warmbench"]), str(stored["suite"]))
    except FileNotFoundError:
        raise SuiteError(f"{path}: there is no baseline yet: make it with --update") from None
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _no_baseline(path, f"{type(error).__name__}: {error}") from None
    for case, values in found.figures.items():
        for figure, value in values.items():
            if value is not None and not is_number(value):
                raise _no_baseline(path, f"{case}: {figure} is {value!r}, not a number")
    return found


def _no_baseline(path: Path, why: str) -> SuiteError:
    """Name the way out; nothing is overwritten that was never a baseline."""
    return SuiteError(f"{path}: not a baseline ({why}): remove it and make it with --update")


def save_baseline(path: Path, figures: Mapping[str, Figures], suite: Suite) -> bool:
    """Write a baseline, one figure a line, all of it or nothing; return whether it is news."""
    stored = {"warmbench": this_version(), "suite": suite.digest, "figures": figures}
    text = json.dumps(stored, indent=1, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return True


def this_version() -> str:
    """Return warmbench's version, as it is installed."""
    try:
        return version("warmbench")
    except PackageNotFoundError:
        return "not installed"


# Comparing.


def compare(
    cases: Sequence[Case],
    today: Mapping[str, Figures | BrokenRunError],
    baseline: Mapping[str, Figures],
) -> list[Change]:
    """Return what differs beyond tolerance, in the order of the suite and of its figures."""
    changes: list[Change] = []
    for case in cases:
        old, new = baseline.get(case.name), today[case.name]
        if isinstance(new, BrokenRunError):
            changes.append(Change(case.name, WHOLE_RUN, None, None, "broken", str(new)))
        elif old is None:
            told = "in the suite, not in the baseline"
            changes.append(Change(case.name, WHOLE_RUN, None, None, "new", told))
        else:
            changes += _changes(case, old, new)
    names = {case.name for case in cases}
    told = "in the baseline, not in the suite"
    changes += [
        Change(name, WHOLE_RUN, None, None, "gone", told) for name in baseline if name not in names
    ]
    return changes


def _changes(case: Case, old: Figures, new: Figures) -> list[Change]:
    changes = []
    for figure in dict.fromkeys([*new, *old]):
        # An API that is not called at all has no row: that is none, not unknown.
        none = 0 if figure.startswith("ec2_calls.") else None
        was, is_now = old.get(figure, none), new.get(figure, none)
        status = _status(figure, was, is_now, case.tolerance.get(figure, 0))
        if status is not None:
            changes.append(Change(case.name, figure, was, is_now, status))
    return changes


def _status(figure: str, old: float | None, new: float | None, tolerance: float) -> Status | None:
    """Judge one figure; `tolerance` is a share of the old one, so of 0 nothing may be lost."""
    if old is None or new is None:
        return None if old is new else "new" if old is None else "gone"
    if abs(new - old) <= max(tolerance * abs(old), NEGLIGIBLE):
        return None
    return "better" if (new > old) == FIGURES.get(figure, False) else "worse"


def fails(changes: Sequence[Change]) -> bool:
    """Whether the gate closes: anything but better figures."""
    return any(change.status != "better" for change in changes)
