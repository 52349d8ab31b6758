"""Notebooks are tests: executed from the start, they give the tables they were committed with.

Run as a script, this file executes all notebooks and writes their outputs into place:

    .venv-dev/bin/python tests/test_notebooks.py

Pictures are not compared: a newer matplotlib draws other pixels. That they are there, is.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TIME_LIMIT_S = 120
"""For one notebook: several times what it takes, so that it only ends what hangs."""
MOST_BYTES = 600_000

Notebook = dict[str, Any]

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def execute(source: Path, target: Path, scratch: Path) -> None:
    """Execute a notebook and write it, without what differs from run to run, to `target`."""
    import nbformat
    from nbclient import NotebookClient

    os.environ["IPYTHONDIR"] = str(scratch / "ipython")  # No history, no profile of the user's.
    os.environ["PYTHONPATH"] = str(ROOT)
    notebook = nbformat.read(source, as_version=4)
    place = {"metadata": {"path": str(scratch)}}
    client = NotebookClient(notebook, timeout=TIME_LIMIT_S, resources=place)
    client.record_timing = False
    client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {}
    nbformat.write(notebook, target)


def code_cells(notebook: Notebook) -> list[Notebook]:
    """Return the cells that are executed."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def texts(notebook: Notebook) -> list[list[str]]:
    """Return what each code cell shows as text; what stands for a picture says nothing."""
    shown = []
    for cell in code_cells(notebook):
        found = []
        for output in cell["outputs"]:
            data = output.get("data", {})
            # What is put into words says more than the name of its class.
            plain = data.get("text/markdown", data.get("text/plain", ""))
            text = output.get("text", "" if "image/png" in data else plain)
            found.append(f"{output['output_type']}: {''.join(text)}")
        shown.append(found)
    return shown


def test_gives_what_it_was_committed_with(path: Path, tmp_path: Path) -> None:
    """Executed in an empty folder, every table is as committed, and no cell fails."""
    made = tmp_path / path.name
    command = [sys.executable, __file__, str(path), str(made)]
    done = subprocess.run(  # noqa: S603 - our own interpreter on our own file
        command, capture_output=True, text=True, timeout=TIME_LIMIT_S + 60, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    now, then = (json.loads(file.read_text(encoding="utf-8")) for file in (made, path))
    sources = [cell["source"] for cell in code_cells(then)]
    assert len(texts(now)) == len(texts(then))
    for source, new, old in zip(sources, texts(now), texts(then), strict=True):
        assert new == old, f"another output of\n{''.join(source)}"


def test_is_committed_with_its_outputs(path: Path) -> None:
    """Whoever reads it on the web sees tables and plots, in the order of the cells."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    tables = [output for output in outputs if "text/html" in output.get("data", {})]
    assert len(pictures) >= 3
    assert len(tables) >= 3
    assert not [output for output in outputs if output["output_type"] in {"error", "stream"}]
    assert path.stat().st_size < MOST_BYTES


def test_is_prose_and_calls(path: Path) -> None:
    """It has no logic of its own: nothing is defined, and nothing branches or loops by line."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in code_cells(notebook):
        for line in "".join(cell["source"]).splitlines():
            word = line.split(" ", 1)[0].rstrip(":")
            assert word not in {"def", "class", "if", "while", "try", "lambda"}, line


def test_what_it_tells_to_do_can_be_done(path: Path) -> None:
    """The notebooks it points to exist, and so does every command and option that it names."""
    from typer.main import get_command

    from sim.cli import app

    notebook = json.loads(path.read_text(encoding="utf-8"))
    prose = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    text = "\n".join("".join(cell["source"]) for cell in prose)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        # A copy in a user's folder has nothing beside it but the other notebooks.
        assert link.startswith("https://") or (path.parent / link).is_file(), link
    for told in re.findall(r"`warmbench ([^`]+)`", text):
        words, command = told.split(), get_command(app)
        while hasattr(command, "commands"):
            assert words[0] in command.commands, told
            command = command.commands[words.pop(0)]
            if not words:
                break
        known = {option for one in command.params for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= known, told


def main(arguments: list[str]) -> None:
    """Execute one notebook into a file, or all of them into place."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        if arguments:
            source, target = map(Path, arguments)
            execute(source, target, Path(scratch))
        for path in () if arguments else NOTEBOOKS:
            execute(path, path, Path(scratch))


if __name__ == "__main__":
    main(sys.argv[1:])
