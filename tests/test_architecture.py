"""The shape of the code, as tests: who imports whom, how long things are, what nobody calls."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cni", "sim", "instance_limits")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# What may import a third-party package; anything not listed may import none.
ALLOWED = {
    "aiohttp": ["cni/daemon/*.py", "sim/lab/*.py"],
    "boto3": ["cni/cloud/ec2.py", "instance_limits/refresh.py"],
    "botocore": ["cni/cloud/ec2.py", "instance_limits/refresh.py"],
    "distributed": ["sim/executor.py"],
    "jinja2": ["sim/page.py", "sim/report.py"],
    "markupsafe": ["sim/page.py", "sim/report.py"],
    "matplotlib": ["sim/report.py"],
    "moto": ["sim/lab/*.py"],
    "numpy": ["sim/*.py", "sim/sources/*.py"],
    "pandas": [
        "sim/calibrate.py",
        "sim/churn.py",
        "sim/cli_sweep.py",
        "sim/fleet_tables.py",
        "sim/fragments.py",
        "sim/journals.py",
        "sim/metrics.py",
        "sim/pools.py",
        "sim/nodes.py",
        "sim/questions.py",
        "sim/recommend.py",
        "sim/regress.py",
        "sim/report.py",
        "sim/side_by_side.py",
        "sim/sources/*.py",
        "sim/starts.py",
        "sim/sweep.py",
        "sim/trace.py",
    ],
    "prometheus_client": ["cni/daemon/metrics.py"],
    "pyarrow": ["sim/store.py", "sim/trace.py", "sim/sources/*.py"],
    "pyroute2": ["cni/network/messages.py", "sim/lab/*.py"],
    "pytest": ["sim/pytest_plugin.py"],
    "rich": ["sim/cli*.py", "sim/commands/*.py"],
    "simpy": [
        "sim/cloud.py",
        "sim/autoscaler.py",
        "sim/fleet.py",
        "sim/launch.py",
        "sim/rollout.py",
        "sim/start_up.py",
        "sim/world.py",
        "sim/kubelet.py",
        "sim/node.py",
        "sim/one_node.py",
        "sim/simulation.py",
    ],
    "structlog": ["cni/daemon/*.py"],
    "typer": ["sim/cli*.py", "sim/commands/*.py"],
}

# The allocator decides with the standard library's data types, and nothing that can perform.
ALLOCATOR_MAY_IMPORT = {
    "bisect",
    "collections",
    "contextlib",  # suppress() alone: it performs nothing.
    "dataclasses",
    "enum",
    "functools",
    "heapq",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "types",
    "typing",
}

PRINTS = ("sim/cli*.py", "sim/commands/*.py")
READS_ENVIRONMENT = ("cni/daemon/__main__.py", "cni/plugin/__main__.py", "sim/cli*.py")
# refresh.py dates what it asked of EC2, and daemon/clock.py is the daemon's clock.
READS_CLOCK = ("cni/daemon/*.py", "instance_limits/refresh.py", "sim/cli*.py", "sim/lab/*.py")
CLOCKS = {
    *(f"time.{name}" for name in ("time", "time_ns", "monotonic", "perf_counter", "sleep")),
    *(f"{base}.{name}" for base in ("datetime", "date") for name in ("now", "today", "utcnow")),
    *(f"datetime.{base}.{name}" for base in ("datetime", "date") for name in ("now", "today")),
}
HOMELESS = {"utils", "util", "common", "helpers", "helper", "core", "lib", "misc"}

FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 600


# One violation for each contract: the file it is planted in, and the line.
PLANTED = [
    ("cni-layers", "cni/allocator/model.py", "import cni.settings"),
    ("cni-layers", "cni/cloud/calls.py", "import cni.settings"),
    ("cni-layers", "cni/stray.py", ""),
    ("sim-layers", "sim/vpc.py", "import sim.simulation"),
    ("sim-layers", "sim/record.py", "import sim.metrics"),
    ("sim-layers", "sim/stray.py", ""),
    ("pure", "cni/allocator/model.py", "import time"),
    ("pure", "cni/cloud/recipes.py", "import random"),
    ("pure-sim", "sim/vpc.py", "import time"),
    ("sim-decides", "sim/node.py", "import boto3"),
    ("cni-alone", "cni/settings.py", "import sim.scenario"),
    ("cni-alone", "instance_limits/refresh.py", "import pandas"),
    ("limits-alone", "cni/cloud/calls.py", "import instance_limits"),
    ("limits-bottom", "instance_limits/__init__.py", "import cni.settings"),
    ("edges", "cni/cloud/recipes.py", "import cni.variables"),
    ("edges", "cni/network/desired.py", "import cni.wire"),
    ("pure", "cni/wire.py", "import os"),
    ("plugin-alone", "cni/plugin/__init__.py", "import cni.spec"),
    ("sim-decides", "sim/lab/__init__.py", "import cni.daemon"),
]


def settings_of_contracts() -> list[dict[str, object]]:
    """Read the contracts from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts: list[dict[str, object]] = project["tool"]["importlinter"]["contracts"]
    return contracts


def lint_imports(folder: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the tree in `folder`, on all contracts or on the named ones."""
    # A process of its own: grimp would find modules that this one has imported already.
    chosen = [f"--contract={contract}" for contract in contracts]
    run = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", run, "--no-cache", "--no-logo", *chosen]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603


def modules() -> list[str]:
    """List our Python files, as paths from the root with slashes."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*.py")
    )


@cache
def tree_of(module: str) -> ast.Module:
    """Parse one of our files."""
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


def imports_of(module: str) -> Iterator[tuple[str, int]]:
    """List the first part of each name that a file imports anywhere in it, with its line."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module.split(".")[0], node.lineno


def names_of(module: str) -> Iterator[tuple[str, int]]:
    """List each dotted name that a file reads or imports (`os.environ`, `print`), with its line."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        if isinstance(node, (ast.Attribute, ast.Name)):
            yield ast.unparse(node), node.lineno


def is_one_of(module: str, patterns: tuple[str, ...] | list[str]) -> bool:
    """Tell whether a path matches one of the patterns, folder by folder."""
    path = PurePosixPath(module)
    return any(
        len(path.parts) == len(PurePosixPath(pattern).parts) and path.match(pattern)
        for pattern in patterns
    )


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    """Copy the code and its contracts to where they can be broken."""
    for module in modules():
        (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / module, tmp_path / module)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_import_contract_is_kept() -> None:
    """Who may import whom is written in pyproject.toml and holds."""
    linted = lint_imports(ROOT)

    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize(("contract", "module", "line"), PLANTED)
def test_a_planted_violation_is_caught(
    copied_tree: Path, contract: str, module: str, line: str
) -> None:
    """A contract that nothing can break would protect nothing."""
    with (copied_tree / module).open("a", encoding="utf-8") as planted:
        planted.write(f"\n{line}\n")

    linted = lint_imports(copied_tree, contract)

    assert linted.returncode == 1, linted.stdout + linted.stderr
    assert "BROKEN" in linted.stdout
    assert (
        module.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".") in linted.stdout
    )


def test_every_contract_has_a_planted_violation() -> None:
    """Whoever adds a contract proves it."""
    assert {contract for contract, _, _ in PLANTED} == {
        contract["id"] for contract in settings_of_contracts()
    }


def test_no_contract_leaves_out_a_module_that_exists() -> None:
    """What waits in a comment of a contract is switched on with the module it names."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    waiting = set(re.findall(r'^ +# "([a-z0-9_.]+)",$', text, re.MULTILINE))
    written = [
        name
        for name in sorted(waiting)
        if (ROOT / name.replace(".", "/")).is_dir()
        or (ROOT / f"{name.replace('.', '/')}.py").is_file()
    ]

    assert not written, f"uncomment in pyproject.toml: {', '.join(written)}"


def test_packages_that_hold_pure_modules_import_nothing() -> None:
    """To import a pure module is to run the `__init__` above it."""
    for module in ("cni/__init__.py", "cni/cloud/__init__.py", "sim/__init__.py"):
        assert list(imports_of(module)) == [], module


def test_third_party_packages_are_imported_only_where_they_belong() -> None:
    """The list of who may import what is ALLOWED, and nothing else is installed for us."""
    ours = {*PACKAGES, *sys.stdlib_module_names}
    strays = [
        f"{module}:{line} imports {name}"
        for module in modules()
        for name, line in imports_of(module)
        if name not in ours and not is_one_of(module, ALLOWED.get(name, []))
    ]

    assert strays == []


def test_the_allocator_imports_data_types_only() -> None:
    """What decides cannot perform, not even by the standard library."""
    strays = [
        f"{module}:{line} imports {name}"
        for module in modules()
        if module.startswith("cni/allocator/")
        for name, line in imports_of(module)
        if name not in {*ALLOCATOR_MAY_IMPORT, "cni", "__future__"}
    ]

    assert strays == []


@pytest.mark.parametrize(
    ("names", "where"),
    [
        ({"print"}, PRINTS),
        ({"os.environ", "os.environb", "os.getenv"}, READS_ENVIRONMENT),
        (CLOCKS, READS_CLOCK),
    ],
    ids=["print", "environment", "clock"],
)
def test_banned_names_are_read_at_the_entry_points_only(
    names: set[str], where: tuple[str, ...]
) -> None:
    """Printing, the environment and real time belong to whoever starts the program."""
    strays = [
        f"{module}:{line} reads {name}"
        for module in modules()
        if not is_one_of(module, where)
        for name, line in names_of(module)
        if name in names
    ]

    assert strays == []


def test_every_random_number_comes_from_a_seed() -> None:
    """The shared generator of `random`, and numpy's without a seed, would end repeatable runs."""
    strays = [
        f"{module}:{node.lineno} calls {ast.unparse(node)}"
        for module in modules()
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call) and is_unseeded(node)
    ]

    assert strays == []


def is_unseeded(call: ast.Call) -> bool:
    """Tell whether a call draws from, or makes, a generator that has no seed."""
    module, _, name = ast.unparse(call.func).rpartition(".")
    if module not in ("random", "np.random", "numpy.random"):
        return False
    # A generator, its state or its seed: `Random(seed)`, `default_rng(seed)`, `PCG64(seed)`.
    makes = name[0].isupper() or name == "default_rng"
    return not (makes and (call.args or call.keywords))


def test_functions_are_short_enough_to_read_at_once() -> None:
    """No function has more than 60 lines, its docstring included."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = [
        f"{module}:{node.lineno} {node.name} has {lines} lines"
        for module in modules()
        for node in ast.walk(tree_of(module))
        if isinstance(node, functions)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]

    assert long == []


def test_files_are_short_enough_to_know_whole() -> None:
    """No file of ours has more than 600 lines; tests and data may."""
    lengths = {module: len((ROOT / module).read_text().splitlines()) for module in modules()}

    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX} == {}


def test_no_folder_or_file_is_named_for_having_no_name() -> None:
    """A function without a home is a missing word."""
    homeless = [
        module
        for module in modules()
        if HOMELESS & set(PurePosixPath(module).with_suffix("").parts)
    ]

    assert homeless == []


@pytest.mark.skipif(not (ROOT / "sim" / "cli.py").exists(), reason="sim/cli.py is not written yet")
def test_help_imports_nothing_slow() -> None:
    """`warmbench --help` answers without pandas, matplotlib or boto3."""
    code = (
        "import sys\n"
        "from sim.cli import main\n"
        "sys.argv = ['warmbench', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "slow = {'pandas', 'matplotlib', 'boto3'} & set(sys.modules)\n"
        "sys.exit(f'imports {sorted(slow)}' if slow else 0)\n"
    )

    done = subprocess.run(  # noqa: S603, our own interpreter
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_wheel_installs_three_packages_and_their_data(tmp_path: Path) -> None:
    """What a user installs is cni, sim and instance_limits, with every file they read."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)  # noqa: S603, as above
    (wheel,) = tmp_path.glob("*.whl")

    names = {PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()}

    tops = {name.parts[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    ours = {
        PurePosixPath(path.relative_to(ROOT).as_posix())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    # The notebooks lie beside the packages, and travel in one of them.
    ours |= {PurePosixPath("sim/notebooks", path.name) for path in NOTEBOOKS}
    assert {name for name in names if name.parts[0] in PACKAGES} == ours
    assert PurePosixPath("instance_limits/limits.csv") in names
