"""The pytest fixture: it holds a suite, fails with the table, and costs others nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from sim import regress
from sim import suite as suites

pytest_plugins = ["pytester"]

SMALL = """
[[scenario]]
name = "small"
max_enis = 3
ips_per_eni = 4
subnets = ["10.0.0.0/24"]
cold = true
trace = { shape = "scale", pods = 6, ramp_s = 0, hold_s = 200, rest_s = 60, repeats = 1 }
"""
CONFTEST = "from sim.pytest_plugin import warmbench_suite\n"
TEST = """
def test_churn(warmbench_suite):
    better = warmbench_suite("suite.toml")
    print("better:", [change.figure for change in better])
"""
STRICT = "[pytest]\nfilterwarnings = error\naddopts = --strict-markers --strict-config\n"


def own_repository(pytester: pytest.Pytester, test: str = TEST, **factors: float) -> Path:
    """Write a user's tests in a folder of their own, with suite and baseline beside them."""
    pytester.makeini(STRICT)
    folder = pytester.mkdir("checks")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_churn.py").write_text(test)
    path = folder / "suite.toml"
    path.write_text(SMALL)
    loaded = suites.load(path)
    figures = {case.name: dict(regress.measure(case)) for case in loaded.cases}
    for figure, factor in factors.items():
        figures["small (native)"][figure.replace("__", ".")] *= factor  # type: ignore[operator]
    regress.save_baseline(regress.baseline_beside(path), figures, loaded)
    return folder


def test_a_suite_as_good_as_its_baseline_passes(pytester: pytest.Pytester) -> None:
    """The suite is looked for beside the test, wherever pytest runs, and warnings are errors."""
    own_repository(pytester)
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_what_is_worse_fails_with_the_table(pytester: pytest.Pytester) -> None:
    """No traceback of ours: scenario, figure, both numbers, and the command that accepts."""
    folder = own_repository(pytester, wait_s__max=0.5)
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "suite.toml: 1 worse",
            "small (native)",
            "*figure *baseline *today *difference *status",
            "*wait_s.max * (+100.0%) *worse",
            f"if that is meant, accept it: warmbench regress {folder / 'suite.toml'} --update",
        ]
    )
    assert "Traceback" not in result.stdout.str()
    assert "pytest_plugin.py" not in result.stdout.str()


def test_better_figures_pass_and_are_returned(pytester: pytest.Pytester) -> None:
    """A test may look at them."""
    own_repository(pytester, wait_s__max=2)
    result = pytester.runpytest("-p", "no:cacheprovider", "-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*better: ?'wait_s.max'?*"])


def test_baseline_and_tolerance_may_be_named(pytester: pytest.Pytester) -> None:
    """As with --baseline and --tolerance."""
    test = TEST.replace('"suite.toml"', '"suite.toml", baseline="own.json", tolerance=TOLERANCE')
    folder = own_repository(pytester, f"TOLERANCE = {{'wait_s.max': 1}}\n{test}", wait_s__max=0.6)
    (folder / "suite.baseline.json").rename(folder / "own.json")
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=1)
    (folder / "test_churn.py").write_text(f"TOLERANCE = {{}}\n{test}")
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*--baseline {folder / 'own.json'} --update"])


@pytest.mark.parametrize(
    ("test", "told"),
    [
        (TEST.replace("suite.toml", "none.toml"), "*none.toml: cannot be read: No such file*"),
        (TEST.replace('"suite.toml"', '"suite.toml", baseline="no.json"'), "*no baseline yet*"),
        (
            TEST.replace('"suite.toml"', '"suite.toml", tolerance={"wait_s.p9": 1}'),
            "*unknown figure; did you mean*wait_s.p9*",
        ),
    ],
)
def test_bad_input_fails_in_one_line(pytester: pytest.Pytester, test: str, told: str) -> None:
    """Without a traceback, and what to do is in it."""
    own_repository(pytester, test)
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"warmbench: {told}"])
    assert "Traceback" not in result.stdout.str()


def test_loading_it_imports_nothing_slow() -> None:
    """A project whose other tests run alone pays for pytest and a dataclass."""
    code = (
        "import sys, pytest\n"
        "import sim.pytest_plugin\n"
        "slow = {'pandas', 'numpy', 'simpy', 'matplotlib', 'rich', 'typer'} & set(sys.modules)\n"
        "slow |= {name for name in sys.modules if name.split('.')[0] in ('cni', 'sim')}\n"
        "print(sorted(slow - {'sim', 'sim.pytest_plugin', 'rich'}))\n"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
