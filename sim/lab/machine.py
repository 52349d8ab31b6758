"""Whether this machine and this user can have a lab."""

import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec

from sim.lab.errors import MachineError
from sim.lab.namespace import PATH

PROGRAMS: Mapping[str, str] = {"ip": "iproute2", "nsenter": "util-linux"}
"""What the lab needs, and the Debian package that has it."""

PACKAGES = ("aiohttp", "boto3", "moto", "prometheus_client", "pyroute2", "structlog")
"""What the lab's EC2 and the daemon import; the extra `lab` has all of them."""


def require_machine() -> None:
    """Raise MachineError in one line unless the user is root and the programs are there."""
    if os.geteuid() != 0:
        raise MachineError("the lab makes network namespaces and needs root: run it with sudo")
    for program, package in PROGRAMS.items():
        if shutil.which(program, path=PATH) is None:
            raise MachineError(f"the program {program!r} is missing: install {package}")


def require_packages() -> None:
    """Raise MachineError in one line unless everything that a lab runs can be imported."""
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise MachineError(
            f"the lab needs {', '.join(missing)}: install warmbench with its extra `lab`,"
            " pip install 'warmbench[lab]'"
        )
