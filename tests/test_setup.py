"""Setting up: what make says where it cannot, and what CI makes of skipped root tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.node import box, containerd, podman

ROOT = Path(__file__).parents[1]

ROOT_TESTS = """
import pytest

@pytest.mark.root
def test_that_lacks_something_in_its_body():
    pytest.skip("no nft here")

@pytest.mark.root
@pytest.mark.skipif(True, reason="no such kernel")
def test_that_lacks_something_from_the_start():
    pass

@pytest.mark.root
@pytest.mark.xfail(strict=True)
def test_that_is_known_to_fail():
    assert False

def test_that_may_be_skipped():
    pytest.skip("no shared folder here")
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("interpreter", "said"),
    [
        ("exit 1", "there is no"),
        ('[ "$1" = -V ] && echo Python 3.9.2 || exit 1', "is Python 3.9.2"),
        ('case "$2" in *ensurepip*) exit 1;; esac', "apt-get install python3-venv"),
    ],
    ids=["missing", "too old", "no venv"],
)
def test_make_says_in_one_line_which_python_it_needs(
    tmp_path: Path, interpreter: str, said: str
) -> None:
    """Whoever lacks Python 3.11 or venv is told so before anything is installed."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    if said != "there is no":
        python.write_text(f"#!/bin/sh\n{interpreter}\n", encoding="utf-8")
        python.chmod(0o755)

    made = subprocess.run(  # noqa: S603, a stand-in of ours
        ["make", "demo", f"PYTHON={python}"],  # noqa: S607, make is where the user has it
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    first, *rest = made.stderr.splitlines()
    assert made.returncode != 0
    assert said in first
    assert all(line.startswith("make") for line in rest)
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("promised", "outcome"),
    [("1", "1 failed, 1 skipped, 1 xfailed, 1 error"), ("", "3 skipped, 1 xfailed")],
    ids=["in CI", "elsewhere"],
)
def test_a_skipped_root_test_fails_only_where_it_was_promised_to_run(
    tmp_path: Path, promised: str, outcome: str
) -> None:
    """With WARMBENCH_REQUIRE_ROOT=1 a skip of a `root` test is a failure with its reason."""
    if os.geteuid() != 0:
        outcome = outcome.replace("1 failed, 1 skipped, 1 xfailed, 1 error", "1 skipped, 3 errors")
        outcome = outcome.replace("3 skipped, 1 xfailed", "4 skipped")
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_root.py").write_text(ROOT_TESTS, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = root\n", encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=os.environ | {"WARMBENCH_REQUIRE_ROOT": promised},
        capture_output=True,
        text=True,
        check=False,
    )

    assert outcome in done.stdout.splitlines()[-1]
    assert ("skipped although" in done.stdout) == bool(promised)


def test_ci_installs_every_program_that_root_tests_start() -> None:
    """A program that CI lacks would skip root tests, and there a skip is a failure."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    listed = script.split("<<'WANTED'\n")[1].split("WANTED\n")[0].splitlines()
    wanted = {line.split()[0] for line in listed}

    assert all(len(line.split()) == 2 for line in listed)
    assert {*box.PROGRAMS, *containerd.PROGRAMS, *podman.PROGRAMS, "ip"} <= wanted
