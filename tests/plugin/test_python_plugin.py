"""What holds for the Python plug-in alone: what it imports, and the text it keeps for trouble."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cni import wire
from cni.plugin import __main__ as plugin
from cni.spec.result import version_json
from tests.plugin.fake_daemon import ADD, Client, FakeDaemon, answering

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cni" / "plugin" / "__main__.py"
MAY_IMPORT = {"_socket", "posix", "sys"}
FUNCTION_LINES_MAX = 60


def unfolded() -> str:
    """Return the file with the text for trouble as code, for tools that read code."""
    text = FILE.read_text(encoding="utf-8")
    before, rest = text.split("IN_TROUBLE = r'''\n")
    inside, after = rest.split("'''\n")
    return f'{before}IN_TROUBLE = ""\n\n{inside}\n{after}'


def test_it_imports_three_modules() -> None:
    """Neither the file nor its text for trouble names a module that costs time to import."""
    names = set()
    for node in ast.walk(ast.parse(unfolded())):
        assert not isinstance(node, ast.ImportFrom)
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}

    assert names == MAY_IMPORT


@pytest.mark.parametrize("command", ["ADD", "DEL", "VERSION"])
def test_running_it_loads_nothing_more(tmp_path: Path, command: str) -> None:
    """From its first line to its exit, trouble and all, no module is loaded but `_socket`."""
    watched = (
        "import posix, sys; before = set(sys.modules)\n"
        f"code = compile(open({str(FILE)!r}).read(), 'aws-cni', 'exec')\n"
        "def leave(code): print('\\n', *sorted(set(sys.modules) - before)); sys.exit(code)\n"
        "posix._exit = leave\n"
        "exec(code, {'__name__': '__main__'})\n"
    )
    watcher = Client((sys.executable, "-ISE", "-c", watched))

    done = watcher.run(tmp_path, {**ADD, b"CNI_COMMAND": command.encode()})

    assert set(done.stdout.decode().splitlines()[-1].split()) <= {"_socket"}


def test_the_import_times_name_nothing_slow(tmp_path: Path) -> None:
    """What Python itself says it imported holds none of the modules that cost milliseconds."""
    command = [sys.executable, "-ISE", "-X", "importtime", str(FILE)]
    environment = Client(()).environment(tmp_path, ADD)

    done = subprocess.run(  # noqa: S603, our own program
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )

    imported = {line.rpartition(b"|")[2].strip().decode() for line in done.stderr.splitlines()}
    assert "posix" in imported
    assert not imported & {"collections", "enum", "json", "os", "re", "socket", "struct", "typing"}


def test_what_it_holds_twice_is_the_same() -> None:
    """The constants that stand in for imports are those of the modules they repeat."""
    assert version_json() == plugin.VERSION_ANSWER
    assert wire.REQUEST_BYTES_MAX == wire.REPLY_BYTES_MAX == plugin.BYTES_MAX
    assert wire.VARIABLES_MAX == plugin.VARIABLES_MAX
    assert wire.encode_request({}, b"").startswith(plugin.ASKS)
    assert wire.encode_reply(0, b"").startswith(plugin.ANSWERS)


@given(
    st.dictionaries(
        st.one_of(st.binary(), st.binary().map(lambda name: b"CNI_" + name)),
        st.binary(),
        max_size=70,
    ),
    st.binary(),
)
@example({b"CNI_%d" % n: b"" for n in range(65)}, b"")
@example({b"CNI_ARGS": b"x" * (1 << 19)}, b"x" * (1 << 19))
def test_both_speak_the_same_frame(environ: dict[bytes, bytes], stdin: bytes) -> None:
    """For the same input the plug-in and `wire` write the same bytes, or refuse both."""
    sent = {name: value for name, value in environ.items() if name.startswith(b"CNI_")}
    try:
        expected = wire.encode_request(sent, stdin)
    except ValueError:
        with pytest.raises(ValueError, match=r"variables|request"):
            plugin.request(environ, stdin)
    else:
        assert plugin.request(environ, stdin) == expected


def test_the_text_for_trouble_is_linted(tmp_path: Path) -> None:
    """Code in a text meets the rules of all other code: ruff, formatting, mypy, length."""
    text = unfolded()
    shadow = tmp_path / "unfolded.py"
    shadow.write_text(text, encoding="utf-8")
    name = str(FILE.relative_to(ROOT))
    ruff = [sys.executable, "-m", "ruff"]
    mypy = [sys.executable, "-m", "mypy", f"--cache-dir={os.devnull}"]
    commands = [
        [*ruff, "check", "--no-cache", "--ignore=EXE", f"--stdin-filename={name}", "-"],
        [*ruff, "format", "--no-cache", "--check", f"--stdin-filename={name}", "-"],
        [*mypy, "--shadow-file", name, str(shadow), name],
    ]

    for command in commands:
        done = subprocess.run(  # noqa: S603, our own tools
            command, cwd=ROOT, input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, node.name


@pytest.mark.root
def test_it_runs_alone_under_its_name(tmp_path: Path) -> None:
    """One executable file, copied anywhere, runs by its first line."""
    if not Path("/usr/bin/python3").exists():
        pytest.skip("needs /usr/bin/python3")
    installed = tmp_path / "aws-cni"
    shutil.copy(FILE, installed)

    with FakeDaemon(tmp_path, answering(0, b"{}")):
        done = Client((str(installed),)).run(tmp_path)

    assert os.access(FILE, os.X_OK)
    assert (done.returncode, done.stdout) == (0, b"{}")
