"""What a lab is to be: a value that can be checked before anything is made, and written down."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from ipaddress import IPv4Network
from pathlib import Path

from sim.lab.fabric import check_vpc
from sim.node_type import named
from sim.subnet import parse_subnet

RUN_DIR = Path("/run/warmbench-lab")
DEFAULT_NAME = "lab"
PLAN, STATE, SOCKET, LOG = "plan.json", "state.json", "lab.sock", "server.log"
"""The files by which a lab in the background is known, in its folder."""

NODES_MAX = 16
SOCKET_PATH_MAX = 107
"""unix(7): sun_path less its NUL."""

_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")


@dataclass(frozen=True, slots=True)
class LabPlan:
    """What `Lab` builds.

    `latency` multiplies EC2's latencies, 0 is at once. `settings` are the daemon's environment
    variables. `plugin` is "python", "c" or the path of an executable, `daemon` the words that
    start a daemon. Raises ValueError or LookupError in one line for what cannot be.
    """

    name: str = DEFAULT_NAME
    run_dir: Path = RUN_DIR
    nodes: int = 1
    instance: str = "m5.large"
    vpc_cidrs: tuple[str, ...] = ("10.0.0.0/16",)
    subnet: str = "10.0.0.0/20"
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)
    latency: float = 1.0
    plugin: str = "python"
    daemon: tuple[str, ...] = (sys.executable, "-m", "cni.daemon")
    ready_timeout_s: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without a machine."""
        check_name(self.name)
        if not 1 <= self.nodes <= NODES_MAX:
            raise ValueError(f"{self.nodes} nodes: allowed are 1 to {NODES_MAX}")
        if not 0 <= self.latency <= 100:  # noqa: PLR2004 - beyond, every call would time out
            raise ValueError(f"latency {self.latency:g}: allowed is a factor from 0 to 100")
        for cidr in (*self.vpc_cidrs, self.subnet):
            parse_subnet(cidr)
        check_vpc(map(IPv4Network, self.vpc_cidrs), [IPv4Network(self.subnet)])
        named(self.instance)
        longest = self.directory / f"node-{self.nodes}" / "state" / "cni.sock"
        if len(str(longest)) > SOCKET_PATH_MAX:
            raise ValueError(
                f"{self.run_dir}: too long, as {longest} would have more than {SOCKET_PATH_MAX}"
                " characters; choose a shorter folder"
            )

    @property
    def directory(self) -> Path:
        """Where everything of this lab is kept."""
        return self.run_dir / self.name

    @property
    def prefix(self) -> str:
        """What the names of all its namespaces begin with."""
        return prefix_of(self.name)

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(asdict(self) | {"run_dir": str(self.run_dir)})

    @classmethod
    def from_json(cls, text: str) -> "LabPlan":
        """Read what `to_json` wrote; ValueError where it is something else."""
        told = json.loads(text)
        if not isinstance(told, dict) or set(told) != {one.name for one in fields(cls)}:
            raise ValueError("not a lab's plan: take the lab down and up again")
        for name in ("vpc_cidrs", "daemon"):
            told[name] = tuple(told[name])
        return cls(**told | {"run_dir": Path(told["run_dir"])})


def check_name(name: str) -> None:
    """Raise ValueError unless a lab may have this name.

    A dash would let the namespaces of lab "a-b" be taken for those of lab "a".
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r}: up to 12 of a-z and 0-9, a letter first")


def prefix_of(name: str) -> str:
    """Return what the namespaces of a lab begin with."""
    return f"wb-{name}-"
