"""What a runtime really sends to a plug-in: a wrapper between them writes down each call."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A call is a folder, named so that folders sort by time; it counts once its exit code is there.
WRAPPER = """\
#!/bin/sh
call=$(mktemp -d {calls}/"$(date +%s.%N)".XXXXXX)
env --null >"$call/environment"
cat >"$call/stdin"
{program} <"$call/stdin" >"$call/stdout"
code=$?
cat "$call/stdout"
echo $code >"$call/writing"
mv "$call/writing" "$call/exit"
exit $code
"""


@dataclass(frozen=True, slots=True)
class PluginCall:
    """One execution of a plug-in: what it was given, and how it ended."""

    environment: Mapping[str, str]
    stdin: Mapping[str, Any]
    stdout: str
    exit_code: int

    @property
    def command(self) -> str:
        """ADD, DEL, CHECK, VERSION."""
        return self.environment["CNI_COMMAND"]

    @property
    def container_id(self) -> str:
        """The sandbox it is about."""
        return self.environment["CNI_CONTAINERID"]

    @property
    def netns(self) -> str:
        """The path of the sandbox's namespace; empty once it is gone."""
        return self.environment.get("CNI_NETNS", "")

    @property
    def args(self) -> dict[str, str]:
        """CNI_ARGS, in the order in which they came."""
        pairs = self.environment.get("CNI_ARGS", "").split(";")
        return dict(pair.split("=", 1) for pair in pairs if pair)

    @property
    def error(self) -> dict[str, Any]:
        """The error that it printed: `code`, `msg`, `details`."""
        assert self.exit_code != 0
        said: dict[str, Any] = json.loads(self.stdout)
        return said


class Recorder:
    """Writes a wrapper for `program` to `folder / "plugin"`, to be installed in its place."""

    def __init__(self, program: Path, folder: Path) -> None:
        folder.mkdir()
        self._calls = folder / "calls"
        self._calls.mkdir()
        self.plugin = folder / "plugin"
        text = WRAPPER.format(
            calls=shlex.quote(str(self._calls)), program=shlex.quote(str(program))
        )
        self.plugin.write_text(text, encoding="utf-8")
        self.plugin.chmod(0o755)

    def calls(self) -> tuple[PluginCall, ...]:
        """List the calls that have ended, in the order in which they began."""
        ended = sorted(folder for folder in self._calls.iterdir() if (folder / "exit").exists())
        return tuple(read_call(folder) for folder in ended)


def read_call(folder: Path) -> PluginCall:
    """Read what the wrapper wrote of one call."""
    variables = (folder / "environment").read_text(encoding="utf-8").split("\0")
    stdin = (folder / "stdin").read_text(encoding="utf-8")
    return PluginCall(
        environment=dict(variable.split("=", 1) for variable in variables if variable),
        stdin=json.loads(stdin) if stdin else {},
        stdout=(folder / "stdout").read_text(encoding="utf-8"),
        exit_code=int((folder / "exit").read_text(encoding="ascii")),
    )
