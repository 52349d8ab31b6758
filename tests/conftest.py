"""What every test shares: how tests that need root are skipped, and when that is a failure."""

import os
from collections.abc import Generator
from typing import Any

import pytest

REQUIRE_ROOT = "WARMBENCH_REQUIRE_ROOT"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `root` where we are not root; other needs a test checks itself."""
    if item.get_closest_marker("root") is not None and os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a `root` test into a failure where CI promises that all of them run."""
    report = yield
    required = os.environ.get(REQUIRE_ROOT) == "1"
    if required and report.skipped and item.get_closest_marker("root") is not None:
        # An expected failure is reported as a skip too, and stays one.
        if hasattr(report, "wasxfail"):
            return report
        report.outcome = "failed"
        report.longrepr = f"skipped although {REQUIRE_ROOT}=1: {reason_of(call)}"
    return report


def reason_of(call: pytest.CallInfo[Any]) -> str:
    """Tell why a test was skipped, in its own words."""
    return str(call.excinfo.value) if call.excinfo is not None else "no reason given"
