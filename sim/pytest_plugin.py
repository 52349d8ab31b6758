"""A fixture that holds a suite of scenarios to its baseline, for tests of your own.

In the `conftest.py` beside your tests:

    from sim.pytest_plugin import warmbench_suite

and in a test:

    def test_churn(warmbench_suite):
        warmbench_suite("suite.toml")

It does what `warmbench regress` does, and fails with the same table. It is no entry point of
pytest, on purpose: then every run of pytest beside an installed warmbench would import it, and
a project with a folder `sim` of its own would find the wrong one. Nothing slow is imported until
a test holds a suite.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sim.regress import Change


@dataclass(frozen=True, slots=True)
class SuiteHolder:
    """Holds suites to their baselines; a path that is not absolute begins at `folder`."""

    folder: Path

    def __call__(
        self,
        suite: str | Path,
        *,
        baseline: str | Path | None = None,
        tolerance: Mapping[str, float] | None = None,
    ) -> "tuple[Change, ...]":
        """Run a suite and fail the test where `warmbench regress` would exit with 1 or 2.

        `baseline` is SUITE.baseline.json beside the suite unless named; `tolerance` stands in
        for the suite's own, by figure. Returns what differs and is better.
        """
        __tracebackhide__ = True
        from sim.suite import SuiteError

        path = self.folder / suite
        try:
            changes, told = _judged(path, baseline and self.folder / baseline, tolerance or {})
        except SuiteError as error:
            pytest.fail(f"warmbench: {error}", pytrace=False)
        if told:
            pytest.fail(told, pytrace=False)
        return changes


def _judged(
    path: Path, baseline: Path | str | None, tolerance: Mapping[str, float]
) -> "tuple[tuple[Change, ...], str]":
    """Return what differs, and what a test fails with where something got worse."""
    from sim import regress, regress_report, suite

    held = Path(baseline) if baseline else regress.baseline_beside(path)
    given = regress.parse_tolerances(f"{name}={share}" for name, share in tolerance.items())
    loaded = suite.load(path)
    stored = regress.load_baseline(held)
    changes = regress.compare(loaded.cases, regress.measure_all(loaded), stored, given)
    if not regress.fails(changes):
        return tuple(changes), ""
    accept = regress_report.accepting(path, Path(baseline) if baseline else None)
    lines = [
        f"{path.name}: {regress_report.counted(changes)}",
        "",
        regress_report.text(changes),
        "",
        *(f"warning: {line}" for line in regress.differs_else(loaded, stored, held)),
        f"if that is meant, accept it: {accept}",
    ]
    return tuple(changes), "\n".join(lines)


@pytest.fixture
def warmbench_suite(request: pytest.FixtureRequest) -> SuiteHolder:
    """Hold a suite of scenarios, named from the test's own folder, to its baseline."""
    return SuiteHolder(request.path.parent)
