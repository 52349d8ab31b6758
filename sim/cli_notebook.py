"""The command that copies the notebooks to where they can be changed, and opens them."""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from sim import cli_options as opt

INSTALL = "pip install 'warmbench[notebook]'"

Folder = Annotated[
    Path, typer.Argument(help="Where the copies go; made where it is missing.", metavar="FOLDER")
]
Listed = Annotated[bool, typer.Option("--list", help="List the notebooks, and do nothing else.")]
CopyOnly = Annotated[bool, typer.Option("--copy-only", help="Copy, and start nothing.")]
Force = Annotated[
    bool, typer.Option("--force", help="Overwrite notebooks of these names that differ.")
]
NoBrowser = Annotated[
    bool, typer.Option("--no-browser", help="Print the address to open, and open no browser.")
]
Port = Annotated[
    int | None,
    typer.Option("--port", help="Port to serve on; default: Jupyter's own.", min=1, max=65535),
]
Handed = Annotated[
    list[str] | None,
    typer.Option(
        "--jupyter",
        help="An option for JupyterLab, such as --jupyter=--allow-root; repeatable.",
        metavar="OPTION",
    ),
]


def notebook(
    folder: Folder = Path("warmbench-notebooks"),
    listed: Listed = False,
    copy_only: CopyOnly = False,
    force: Force = False,
    no_browser: NoBrowser = False,
    port: Port = None,
    jupyter: Handed = None,
) -> None:
    """Copy the notebooks, open them in JupyterLab.

    A notebook that is in the folder already stays as it is: it may be yours by now.
    """
    if listed:
        rows = [(path.stem, title_of(path)) for path in shipped()]
        opt.print_rows(rows, ("notebook", "what it is about"), opt.Format.TABLE)
        return
    if not copy_only and find_spec("jupyterlab") is None:
        raise ValueError(f"JupyterLab is not installed: {INSTALL}; or copy alone: --copy-only")
    _copy(folder, force=force)
    if not copy_only:
        given = ["--no-browser"] if no_browser else []
        given += [] if port is None else [f"--port={port}"]
        _open(folder, [*given, *(jupyter or ())])


def shipped() -> list[Path]:
    """Return the notebooks by their numbers; LookupError where the installation has none."""
    package = Path(str(files("sim")))
    # A wheel carries them in the package; in a working copy they lie beside it.
    for place in (package / "notebooks", package.parent / "notebooks"):
        found = sorted(place.glob("[0-9]*.ipynb"))
        if found:
            return found
    raise LookupError("this installation has no notebooks: install warmbench from its wheel")


def title_of(path: Path) -> str:
    """Return the heading of a notebook."""
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]
    return "".join(first).splitlines()[0].removeprefix("# ")


def _copy(folder: Path, *, force: bool) -> None:
    """Copy what is missing, and with `force` what differs; each file appears whole or not."""
    copied, kept = [], []
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as name:
        for path in shipped():
            target, content = folder / path.name, path.read_bytes()
            if target.exists() and not force:
                if target.read_bytes() != content:
                    kept.append(path.name)
                continue
            draft = Path(name) / path.name
            draft.write_bytes(content)
            draft.replace(target)
            copied.append(path.name)
    what = f"{len(copied)} notebooks copied into" if copied else "no notebook is missing in"
    typer.echo(f"{what} {folder}")
    if kept:
        typer.echo(f"kept as they are, since they differ (--force overwrites): {', '.join(kept)}")


def _open(folder: Path, given: Sequence[str]) -> None:
    """Become JupyterLab: Ctrl-C and the exit code are its own from here."""
    words = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder.resolve()}", *given]
    sys.stdout.flush()
    os.execv(words[0], words)  # noqa: S606 - our own interpreter, and no shell
