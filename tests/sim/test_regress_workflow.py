"""The workflow that users copy: it parses, its options exist, and its steps do what they say."""

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import typer
import yaml

from sim import cli, regress
from sim import suite as suites

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "deploy" / "ci" / "github-actions.yml"
SMALL = """
[[scenario]]
name = "small"
max_enis = 3
ips_per_eni = 4
subnets = ["10.0.0.0/24"]
cold = true
trace = { shape = "scale", pods = 6, ramp_s = 0, hold_s = 200, rest_s = 60, repeats = 1 }
"""


def workflow() -> dict[Any, Any]:
    """Parse the workflow; YAML 1.1 takes the key `on` for a truth value."""
    parsed: dict[Any, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    return parsed


def steps() -> list[dict[str, Any]]:
    """Return the steps of its one job."""
    ((_, job),) = workflow()["jobs"].items()
    found: list[dict[str, Any]] = job["steps"]
    return found


def words_of(command: str) -> list[str]:
    """Return the words after `warmbench` up to what the shell keeps for itself."""
    words = shlex.split(command)
    ends = [n for n, word in enumerate(words) if word in ("|", "2>&1", ";", "&&")]
    return words[1 : min(ends, default=len(words))]


def test_it_is_a_workflow_of_pinned_actions() -> None:
    """It starts on pull requests, reads and no more, and each step runs or uses something."""
    parsed = workflow()
    assert "pull_request" in parsed[True]
    assert parsed["permissions"] == {"contents": "read"}
    for step in steps():
        assert ("run" in step) != ("uses" in step), step
        assert "@v" in step.get("uses", "@v"), step


def test_every_option_in_it_exists() -> None:
    """Each warmbench command of a step is one, with options that it takes."""
    lines = [line for step in steps() for line in step.get("run", "").splitlines()]
    commands = [words_of(line) for line in lines if line.startswith("warmbench ")]
    assert commands
    group = typer.main.get_command(cli.app)
    for words in commands:
        command = group.commands[words[0]]  # type: ignore[attr-defined]
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, words


def test_it_installs_this_version() -> None:
    """A baseline of another version may hold other figures."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (install,) = [step["run"] for step in steps() if "pip install" in step.get("run", "")]
    assert f"{project['name']}=={project['version']}" in install


@pytest.mark.parametrize(("factor", "code"), [(1, 0), (0.5, 1)])
def test_its_steps_fail_and_tell_where_a_figure_got_worse(
    tmp_path: Path, factor: float, code: int
) -> None:
    """Run as GitHub runs them: the pipe keeps the exit code, the summary gets the table."""
    path = tmp_path / "suite.toml"
    path.write_text(SMALL)
    loaded = suites.load(path)
    figures = {case.name: dict(regress.measure(case)) for case in loaded.cases}
    figures["small (native)"]["wait_s.max"] *= factor  # type: ignore[operator]
    regress.save_baseline(regress.baseline_beside(path), figures, loaded)
    program = tmp_path / "bin" / "warmbench"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m sim.cli "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        **workflow()["env"],
    }
    codes = [
        subprocess.run(  # noqa: S603 - our own workflow
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],  # noqa: S607
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
        ).returncode
        for step in steps()
        if step.get("shell") == "bash"
    ]
    assert codes == [code, 0]
    summary = (tmp_path / "summary.md").read_text()
    assert ("wait_s.max" in summary) == (code == 1)
    assert ("as in suite.baseline.json" in summary) == (code == 0)
    written = ET.fromstring((tmp_path / "regress.xml").read_text())  # noqa: S314 - written above
    assert written.attrib["failures"] == str(code)
