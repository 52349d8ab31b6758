"""The plug-ins under test: the Python one, and the C one plain and with sanitizers."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.fake_daemon import Client

PLUGIN = Path(__file__).parents[2] / "cni" / "plugin"
SANITIZED = (
    *("-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-g"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)


def c_plugin(folder: Path, *, sanitized: bool) -> Path:
    """Compile the C plug-in by `make plugin`, or with sanitizers, without a word of warning."""
    for tool in ("cc", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs a C compiler and make: {tool} is not installed")
    plugin = folder / "aws-cni"
    command = ["make", "--silent", "-C", str(PLUGIN.parents[1]), "plugin", f"PLUGIN_OUT={plugin}"]
    if sanitized:
        command = ["cc", *SANITIZED, "-o", str(plugin), str(PLUGIN / "aws-cni.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603, ours
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return plugin


@pytest.fixture(
    scope="session",
    params=[
        "python",
        pytest.param("c", marks=pytest.mark.root),
        pytest.param("c-sanitized", marks=pytest.mark.root),
    ],
)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """Give each plug-in in turn, installed alone in a folder under its name."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param != "python":
        sanitized = request.param == "c-sanitized"
        return Client((str(c_plugin(folder, sanitized=sanitized)),))
    plugin = folder / "aws-cni"
    shutil.copy(PLUGIN / "__main__.py", plugin)
    # The interpreter of the tests, with the flags of the first line.
    return Client((sys.executable, "-ISE", str(plugin)))
