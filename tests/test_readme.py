"""The README is a test: its commands run, its outputs are real, its Python works.

Run as a script, this file runs the commands and writes their outputs into the README:

    .venv-dev/bin/python tests/test_readme.py
"""

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cni.allocator.behaviour import UPSTREAM
from cni.settings import Settings
from sim.node_type import named
from sim.sweep import holdings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
EXAMPLES = "sim/examples"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> list[str]:
    """Return the fenced blocks of these languages."""
    return [text for language, text in FENCED.findall(_readme()) if language in languages]


def steps(block: str) -> list[tuple[str, str]]:
    """Return a console block as pairs of a command (as written) and what stands under it."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines(keepends=True):
        continued = found and not found[-1][1] and found[-1][0].endswith("\\\n")
        if line.startswith("$ "):
            found.append((line, ""))
        elif continued:
            found[-1] = (found[-1][0] + line, "")
        else:
            assert found, f"output before any command: {line}"
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def words_of(command: str) -> list[str]:
    """Return what the shell would make of a command, as written on the page."""
    return shlex.split(command.removeprefix("$ ").replace("\\\n", " "), comments=True)


def play(command: str, place: Path) -> str:
    """Run a warmbench command in `place`; return what it prints, without trailing blanks."""
    words = words_of(command)
    assert words[0] == "warmbench", command
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(  # noqa: S603 - our own interpreter and command
        # -P: the folder `sim` in `place` holds the example alone.
        [sys.executable, "-P", "-m", "sim.cli", *words[1:]],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{command}{done.stderr}"
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def furnish(place: Path) -> Path:
    """Put the example and the suite where the commands look for them."""
    shutil.copytree(ROOT / EXAMPLES, place / EXAMPLES)
    (place / "benchmarks").mkdir()
    for file in (ROOT / "benchmarks").glob("suite.*"):
        shutil.copy(file, place / "benchmarks")
    return place


def make_targets() -> set[str]:
    """Return what make can make, by its own list."""
    return set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def _readme() -> str:
    return README.read_text(encoding="utf-8")


def test_commands_run_and_outputs_are_real(tmp_path: Path) -> None:
    """Each command succeeds, in the page's order, and prints what stands under it."""
    furnish(tmp_path)
    played = 0
    for block in blocks("console"):
        for command, shown in steps(block):
            printed = play(command, tmp_path)
            assert not shown or printed == shown, command
            played += 1
    assert played >= 8


def test_make_targets_exist() -> None:
    """What the page tells to make can be made."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [words_of(line) for line in lines]
    assert commands
    for words in commands:
        assert words[0] == "make", words
        assert set(words[1:]) <= make_targets()


def test_the_sample_is_the_demo() -> None:
    """The first command shown is the one that `make demo` runs, less its folder."""
    recipe = re.search(r"warmbench (compare(?:.*\\\n)*.*)", (ROOT / "Makefile").read_text("utf-8"))
    assert recipe is not None
    demo = shlex.split(recipe[1].replace("\\\n", " ").replace("$(DEMO_OUT)", "x"))
    first, _ = steps(blocks("console")[0])[0]
    assert demo == [*words_of(first)[1:], "--out", "x"]


def test_python_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session in Python gives what it shows."""
    monkeypatch.chdir(ROOT)
    sessions = blocks("pycon", "python")
    assert sessions
    for number, session in enumerate(sessions):
        assert ">>>" in session
        parsed = doctest.DocTestParser().get_doctest(session, {}, f"README {number}", "README", 0)
        failed, tried = doctest.DocTestRunner().run(parsed)
        assert tried
        assert not failed


def node_table() -> list[str]:
    """Return the rows of the table of m4.4xlarge as the page must show them."""
    targets = {str(warm): Settings(warm_ip_target=warm) for warm in (0, 5, 20)}
    frame = holdings([named("m4.4xlarge")], targets, [0, 50, 100, 204], behaviour=UPSTREAM)
    rows = []
    for pods, group in frame.groupby("pods"):
        cells = [
            f"{row.enis}: {row.addresses} + {row.enis} = {row.taken}" for row in group.itertuples()
        ]
        rows.append(" | ".join((f"| {pods}", *cells)) + " |")
    return rows


def test_the_table_is_real() -> None:
    """The table of m4.4xlarge shows today's figures."""
    assert "\n".join(node_table()) in _readme()
    assert node_table()[0].startswith("| 0 | 1: 29 + 1 = 30 |")
    assert "| 8: 232 + 8 = 240 |" in node_table()[-1]


def test_links_lead_somewhere() -> None:
    """Files and sections that the page points to exist."""
    text = _readme()
    anchors = {
        head.lower().replace(" ", "-") for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in anchors
        elif not link.startswith("https://"):
            assert (ROOT / link).exists(), link


def main() -> None:
    """Write today's outputs under the commands of the README, and today's table."""
    with tempfile.TemporaryDirectory() as name:
        place = furnish(Path(name))

        def rewritten(fenced: re.Match[str]) -> str:
            if fenced[1] != "console":
                return fenced[0]
            body = ""
            for command, shown in steps(fenced[2]):
                printed = play(command, place)
                body += command + (printed if shown else "")
            return f"```console\n{body}```"

        text = FENCED.sub(rewritten, _readme())
    table = re.compile(r"(?:^\| \d+ \| \d+: .*\n)+", re.MULTILINE)
    rows = "".join(f"{row}\n" for row in node_table())
    README.write_text(table.sub(lambda _: rows, text), encoding="utf-8")


if __name__ == "__main__":
    main()
