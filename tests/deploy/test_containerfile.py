"""Containerfile: what can be told of it without a container engine."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from cni.daemon.install import PLUGIN, SHIPPED, STOCK
from tests.deploy.manifests import DEPLOY, ROOT, VERSION

TEXT = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Distributions that are imported by another name, or that come with another.
MODULES = {"prometheus-client": {"prometheus_client"}, "boto3": {"boto3", "botocore"}}


def instructions() -> list[list[str]]:
    """Read the file into words, one list for each instruction; comments and line ends joined."""
    lines = [line for line in TEXT.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line.strip()]


def copied_from_the_tree() -> set[str]:
    """Name what COPY takes from the build context."""
    copies = [words[1:] for words in instructions() if words[0] == "COPY"]
    return {path for words in copies if not words[0].startswith("--from") for path in words[:-1]}


def test_every_instruction_is_one() -> None:
    """A line that lost its continuation would begin with something else."""
    known = {"ARG", "COPY", "ENTRYPOINT", "ENV", "FROM", "LABEL", "RUN", "WORKDIR"}

    assert {words[0] for words in instructions()} == known


def test_every_path_that_is_copied_exists() -> None:
    """A build fails late; the tree is here to look at."""
    missing = {path for path in copied_from_the_tree() if not (ROOT / path).exists()}

    assert missing == set()


def test_the_wheel_can_be_built_from_what_is_copied() -> None:
    """pyproject.toml, what it refers to, and every package of it."""
    project = PROJECT["project"]
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    needed = {"pyproject.toml", project["readme"], *project["license-files"], *packages}

    assert needed <= copied_from_the_tree()


def test_the_base_is_named_once_and_the_version_is_the_projects() -> None:
    """All stages are Debian 12, so that the environment's Python exists where it is copied to."""
    bases = [words[1] for words in instructions() if words[0] == "FROM"]
    arguments = dict(words[1].split("=") for words in instructions() if words[0] == "ARG")

    assert bases == ["${BASE}"] * 3
    assert arguments == {
        "BASE": "docker.io/library/debian:bookworm-slim",
        "VERSION": VERSION,
    }
    assert f"-t registry.example.com/aws-node:{VERSION} ." in TEXT


def test_the_plugins_lie_where_the_init_container_looks() -> None:
    """Ours and each stock one go into one folder, and that to the path in the code."""
    copies = {tuple(words[1:]) for words in instructions() if words[0] == "COPY"}
    (made,) = (words for words in instructions() if words[:3] == ["RUN", "mkdir", "/plugins"])

    assert ("--from=plugins", "/plugins/", f"{SHIPPED}/") in copies
    assert made[made.index("-o") + 1] == f"/plugins/{PLUGIN}"
    assert {f"/usr/lib/cni/{name}" for name in STOCK} <= set(made)
    assert {"-std=c11", "-static", "-Wall", "-Wextra", "-Werror"} <= set(made)


def test_the_entry_point_is_a_script_of_the_project() -> None:
    """It lies in the environment that is copied to where it was made, and PATH begins there."""
    (entry,) = (words[1:] for words in instructions() if words[0] == "ENTRYPOINT")
    (variables,) = (words[1:] for words in instructions() if words[0] == "ENV")
    path = dict(word.split("=", 1) for word in variables)["PATH"]

    assert entry == ["[aws-k8s-agent]"]
    assert "aws-k8s-agent" in PROJECT["project"]["scripts"]
    assert path.split(":")[0] == "/opt/aws-node/bin"
    assert ["COPY", "--from=daemon", "/opt/aws-node/", "/opt/aws-node/"] in instructions()


def test_the_requirements_are_those_of_the_extra() -> None:
    """The one-liner that reads them from pyproject.toml prints the extra `node`, line by line."""
    (program,) = re.findall(r"python3 -c '([^']+)'", TEXT)

    said = subprocess.run(  # noqa: S603, our own interpreter
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert said.stdout.splitlines() == PROJECT["project"]["optional-dependencies"]["node"]


def test_a_node_imports_nothing_but_the_extra() -> None:
    """The wheel goes in without its own requirements: the daemon must not miss one of them."""
    wanted = PROJECT["project"]["optional-dependencies"]["node"]
    names = {re.split(r"[<>=!\[ ]", text)[0] for text in wanted}
    known = {module for name in names for module in MODULES.get(name, {name})}
    known |= sys.stdlib_module_names | {"cni", "instance_limits"}

    strays = {
        f"{path.relative_to(ROOT)}: {module}"
        for folder in ("cni", "instance_limits")
        for path in (ROOT / folder).rglob("*.py")
        for module in imports_of(path)
        if module not in known
    }

    assert strays == set()


def imports_of(path: Path) -> set[str]:
    """Name the top-level modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.split(".")[0])
    return found
