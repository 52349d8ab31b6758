"""`warmbench notebook`: copies that can be changed, and JupyterLab on them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim import cli_notebook
from sim.cli import app

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def warmbench(place: Path, *words: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `warmbench notebook` in a process of its own: it becomes another program."""
    environment = os.environ | {"PYTHONPATH": f"{path}:{ROOT}"}
    return subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "sim.cli", "notebook", *words],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def jupyter(tmp_path: Path) -> Path:
    """Make a JupyterLab that prints what it is called with."""
    place = tmp_path / "path" / "jupyterlab"
    place.mkdir(parents=True)
    (place / "__init__.py").touch()
    (place / "__main__.py").write_text("import sys; print(sys.argv[1:]); sys.exit(7)\n")
    return place.parent


def test_list_names_each_notebook_with_its_title() -> None:
    """Whoever looks for an answer sees which notebook has it."""
    result = CliRunner().invoke(app, ["notebook", "--list"])

    assert result.exit_code == 0, result.output
    for path in NOTEBOOKS:
        assert path.stem in result.stdout
    assert "What a warm pool costs" in result.stdout


def test_copies_are_those_of_the_repository(tmp_path: Path) -> None:
    """`--copy-only` needs no Jupyter and leaves the notebooks alone in the folder."""
    result = CliRunner().invoke(app, ["notebook", str(tmp_path / "mine"), "--copy-only"])

    assert result.exit_code == 0, result.output
    found = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    assert found == {path.name: path.read_bytes() for path in NOTEBOOKS}


def test_a_changed_notebook_is_overwritten_by_force_alone(tmp_path: Path) -> None:
    """What somebody has written into a copy is theirs; what is missing is copied beside it."""
    mine, missing = NOTEBOOKS[0].name, NOTEBOOKS[-1].name
    words = ["notebook", str(tmp_path), "--copy-only"]
    CliRunner().invoke(app, words)
    (tmp_path / mine).write_text("mine")
    (tmp_path / missing).unlink()

    kept = CliRunner().invoke(app, words)

    assert f"(--force overwrites): {mine}\n" in kept.output
    assert (tmp_path / mine).read_text() == "mine"
    assert (tmp_path / missing).exists()

    forced = CliRunner().invoke(app, [*words, "--force"])

    assert forced.exit_code == 0, forced.output
    assert (tmp_path / mine).read_bytes() == NOTEBOOKS[0].read_bytes()


def test_becomes_jupyterlab_on_the_folder(tmp_path: Path, jupyter: Path) -> None:
    """Options reach it, its exit code is ours, and the default folder lies where one stands."""
    options = ("--no-browser", "--port", "9000", "--jupyter=--allow-root")
    done = warmbench(tmp_path, *options, path=jupyter)

    assert done.returncode == 7, done.stderr
    folder = tmp_path / "warmbench-notebooks"
    words = [f"--ServerApp.root_dir={folder}", "--no-browser", "--port=9000", "--allow-root"]
    assert done.stdout.splitlines()[-1] == str(words)
    assert len(list(folder.iterdir())) == len(NOTEBOOKS)


def test_without_jupyterlab_one_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has been copied then, and the line is a command to paste."""
    monkeypatch.setattr(cli_notebook, "find_spec", lambda _name: None)

    result = CliRunner().invoke(app, ["notebook", str(tmp_path / "mine")])

    assert isinstance(result.exception, ValueError)
    assert "pip install 'warmbench[notebook]'" in str(result.exception)
    assert not (tmp_path / "mine").exists()


def test_an_installation_without_notebooks_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that somebody has copied out of the repository has none."""
    monkeypatch.setattr(cli_notebook, "files", lambda _name: tmp_path / "sim")

    with pytest.raises(LookupError, match="no notebooks"):
        cli_notebook.shipped()


def test_those_in_the_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel carries the notebooks in the package."""
    place = tmp_path / "sim" / "notebooks"
    place.mkdir(parents=True)
    cells = {"cells": [{"source": ["# A title\n", "\n", "text"]}]}
    (place / "01-one.ipynb").write_text(json.dumps(cells))
    monkeypatch.setattr(cli_notebook, "files", lambda _name: tmp_path / "sim")

    (found,) = cli_notebook.shipped()

    assert (found, cli_notebook.title_of(found)) == (place / "01-one.ipynb", "A title")
