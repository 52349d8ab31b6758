"""Suites of scenarios: a TOML file from which every run is made before the first one starts.

A suite lists `[[scenario]]` tables, and nothing else. Each runs once for each behaviour it names:

    [[scenario]]
    name = "rolling-restart"            # unique in the suite
    behaviours = ["native", "upstream"] # default: ["native"]
    instance = "m5.large"               # or max_enis = 3 and ips_per_eni = 10
    nodes = 10                          # default 1
    subnets = ["10.0.0.0/22"]           # or { cidr = "10.0.0.0/22", used = 0.4 }: a share or a
                                        # count of addresses that others hold
    settings = { WARM_IP_TARGET = 2, MINIMUM_IP_TARGET = 10 }   # default: the plug-in's own
    trace = { shape = "rolling-restart", pods = 100 }           # `warmbench trace generate`
                                        # lists shapes; or { file = "pods.csv" }, looked for
                                        # beside the suite
    seed = 1                            # of everything random; default 0
    cold = true                         # daemons start at zero; default false: long before
    max_pods = 29                       # the kubelet's; default: EKS's own for the type
    ignore_requests = true              # place by max-pods alone; default false
    tolerance = { "wait_s.p99" = 0.05 } # share of the baseline's figure that may be lost before
                                        # it counts, by the name of the figure (FIGURES, or
                                        # "ec2_calls." and the name of an API); default 0: exact

What cannot be used is refused whole, in one line with file, scenario, key, value and what is
allowed.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args

from cni.allocator.behaviour import PRESETS
from cni.cloud.calls import Call, Pause, ReadMetadata
from cni.settings import parse_assignments
from sim import node_type, trace
from sim.node_type import NodeType
from sim.scenario import Scenario, SubnetPlan, scenario_for
from sim.sources.pods import near
from sim.sources.shapes import generate
from sim.trace import Trace

FIGURES: Mapping[str, bool] = {
    "first_address_s": False,
    "last_address_s": False,
    "wait_s.p50": False,
    "wait_s.p90": False,
    "wait_s.p99": False,
    "wait_s.max": False,
    "served": True,
    "served_at_once": True,
    "refused_adds": False,
    "refused_pods": False,
    "addresses.held.mean": False,
    "addresses.held.max": False,
    "addresses.taken.mean": False,
    "ec2_calls.mutating": False,
    "ec2_calls.throttled": False,
}
"""The figures of every run, and whether more is better; of `ec2_calls.API` less is better.

first_address_s and last_address_s run from the first ADD of all; wait_s from each pod's own.
served counts pods, served_at_once is the share of all pods that found an address at their first
ADD. addresses.held leaves ENI primaries out, addresses.taken counts them in.
"""

APIS = tuple(sorted(call.api for call in get_args(Call) if call not in (ReadMetadata, Pause)))
"""EC2's APIs that a run may call; each is a figure where it was called."""

KEYS = (
    "name",
    "behaviours",
    "instance",
    "max_enis",
    "ips_per_eni",
    "nodes",
    "subnets",
    "settings",
    "trace",
    "seed",
    "cold",
    "max_pods",
    "ignore_requests",
    "tolerance",
)

NODES_MAX, PODS_PER_NODE_MAX, SEED_MAX = 1_000_000, 100_000, 10**12
_SHOWN, _NUMBER_MAX = 60, 1e15


class SuiteError(ValueError):
    """A suite or a baseline that cannot be used; the message says where and what is allowed."""


@dataclass(frozen=True, slots=True)
class Case:
    """One scenario of a suite under one behaviour, ready to run; `name` tells both."""

    name: str
    scenario: Scenario
    pods: Trace
    tolerance: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Suite:
    """All cases of a suite, in its order, and a digest of all that it says.

    Equal digests: the same scenarios on the same pods. Comments and layout do not count, what
    trace files hold does.
    """

    path: Path
    cases: tuple[Case, ...]
    digest: str


def load(path: Path) -> Suite:
    """Read a suite and make every scenario of it; raises SuiteError, and nothing has run then."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise SuiteError(f"{path}: not a TOML file: nested too deeply") from None
    except ValueError as error:
        raise SuiteError(f"{path}: not a TOML file: {_one_line(error)}") from None
    listed = tables.get("scenario")
    if set(tables) != {"scenario"} or not isinstance(listed, list) or not listed:
        raise SuiteError(f"{path}: a suite is a list of [[scenario]] tables, and nothing else")
    cases: list[Case] = []
    files: dict[str, str] = {}
    names: set[str] = set()
    for number, values in enumerate(listed, start=1):
        entry = _Entry(path, number, values)
        name = entry.text("name")
        if name in names:
            entry.refuse("name", "a name that no scenario before it has")
        names.add(name)
        cases += _cases(entry, name, path.parent, files)
    told = json.dumps([listed, files], sort_keys=True)
    return Suite(path, tuple(cases), hashlib.sha256(told.encode()).hexdigest()[:16])


def _cases(entry: "_Entry", name: str, folder: Path, files: dict[str, str]) -> list[Case]:
    """Make one case for each behaviour; note the digest of a trace file under its name."""
    behaviours = entry.values.get("behaviours", ["native"])
    known = isinstance(behaviours, list) and all(one in PRESETS for one in map(str, behaviours))
    if not known or not behaviours or len(set(behaviours)) != len(behaviours):
        entry.refuse("behaviours", f"a list of {', '.join(PRESETS)}, each once")
    seed = entry.whole("seed", default=0, least=0, most=SEED_MAX)
    pods = _pods(entry, folder, seed, files)
    tolerance = _tolerance(entry)
    return [
        Case(f"{name} ({behaviour})", _scenario(entry, behaviour, seed), pods, tolerance)
        for behaviour in behaviours
    ]


def _scenario(entry: "_Entry", behaviour: str, seed: int) -> Scenario:
    kind = _node_type(entry)
    pairs = [f"{key}={entry.setting(key)}" for key in entry.table("settings")]
    with entry.telling("settings"):
        settings = parse_assignments(pairs, lenient=behaviour == "upstream")
    subnets = _subnets(entry)
    nodes = entry.whole("nodes", default=1, least=1, most=NODES_MAX)
    max_pods = None
    if "max_pods" in entry.values:
        max_pods = entry.whole("max_pods", default=0, least=3, most=PODS_PER_NODE_MAX)
    with entry.telling(""):
        return scenario_for(
            kind,
            settings,
            subnets=subnets,
            behaviour=PRESETS[behaviour],
            nodes=nodes,
            max_pods=max_pods,
            seed=seed,
            ignore_requests=entry.flag("ignore_requests"),
            warm=not entry.flag("cold"),
        )


def _node_type(entry: "_Entry") -> NodeType:
    given = {"instance", "max_enis", "ips_per_eni"} & entry.values.keys()
    if given == {"instance"}:
        instance = entry.text("instance")
        with entry.telling("instance"):
            return node_type.named(instance)
    if given == {"max_enis", "ips_per_eni"}:
        return node_type.explicit(
            entry.whole("max_enis", default=0, least=1, most=128),
            entry.whole("ips_per_eni", default=0, least=2, most=256),
        )
    raise SuiteError(
        f"{entry.where}: name the node with instance, or with max_enis and ips_per_eni"
    )


def _subnets(entry: "_Entry") -> tuple[SubnetPlan, ...]:
    allowed = 'a list of "CIDR" or { cidr = "CIDR", used = SHARE_OR_COUNT }, at least one'
    listed = entry.values.get("subnets")
    if not isinstance(listed, list) or not listed:
        entry.refuse("subnets", allowed)
    plans = []
    for one in listed:
        table = one if isinstance(one, dict) else {"cidr": one}
        cidr, used = table.get("cidr"), table.get("used", 0)
        if not set(table) <= {"cidr", "used"} or not isinstance(cidr, str):
            entry.refuse("subnets", allowed)
        if not is_number(used) or used < 0 or (used >= 1 and used != int(used)):
            entry.refuse("subnets", "used from 0: a share below 1, or a whole number from 1")
        with entry.telling("subnets"):
            plans.append(SubnetPlan(cidr, float(used)))
    return tuple(plans)


def _pods(entry: "_Entry", folder: Path, seed: int, files: dict[str, str]) -> Trace:
    wanted = entry.table("trace")
    if set(wanted) == {"file"} and isinstance(wanted["file"], str):
        with entry.telling("trace"):
            path = folder / wanted["file"]
            loaded = trace.load(path)
            files[wanted["file"]] = hashlib.sha256(path.read_bytes()).hexdigest()
            return loaded
    values = {key: value for key, value in wanted.items() if key != "shape"}
    simple = all(is_number(value) or isinstance(value, str) for value in values.values())
    if not isinstance(wanted.get("shape"), str) or not simple:
        entry.refuse("trace", '{ shape = "NAME", PARAMETER = VALUE, … } or { file = "NAME" }')
    with entry.telling("trace"):
        texts = {key: str(value) for key, value in values.items()}
        return generate(str(wanted["shape"]), texts, seed=seed)


def _tolerance(entry: "_Entry") -> Mapping[str, float]:
    known = (*FIGURES, *(f"ec2_calls.{api}" for api in APIS))
    tolerance: dict[str, float] = {}
    for figure, share in entry.table("tolerance").items():
        if figure not in known:
            hint = near(figure, known) or f"; known are {', '.join(known)}"
            raise SuiteError(f"{entry.where}: tolerance: unknown figure {_shown(figure)}{hint}")
        if not is_number(share) or not 0 <= share <= 1:
            entry.refuse("tolerance", f"for {figure} a share of the baseline's figure, 0 to 1")
        tolerance[figure] = float(share)
    return tolerance


class _Entry:
    """One table of a suite: gives checked values, and refuses others by place, key and value."""

    def __init__(self, path: Path, number: int, values: object) -> None:
        """Take the n-th table of a file; raises SuiteError where it is none, or of other keys."""
        name = values.get("name") if isinstance(values, dict) else None
        self.where = f"{path}: scenario {name if _plain(name) else number}"
        if not isinstance(values, dict):
            raise SuiteError(f"{self.where}: {_shown(values)}: allowed is a [[scenario]] table")
        self.values: Mapping[str, Any] = values
        for key in values:
            if key not in KEYS:
                hint = near(key, KEYS) or f"; known are {', '.join(KEYS)}"
                raise SuiteError(f"{self.where}: unknown key {_shown(key)}{hint}")

    def refuse(self, key: str, allowed: str) -> NoReturn:
        """Raise SuiteError for the value at `key`."""
        if key not in self.values:
            raise SuiteError(f"{self.where}: {key} is missing: allowed is {allowed}")
        raise SuiteError(f"{self.where}: {key} = {_shown(self.values[key])}: allowed is {allowed}")

    def text(self, key: str) -> str:
        """Return a name that must be there: one line, nothing invisible."""
        value = self.values.get(key)
        if not _plain(value):
            self.refuse(key, f"a text of 1 to {_SHOWN} printable characters")
        return str(value)

    def whole(self, key: str, *, default: int, least: int, most: int) -> int:
        """Return a whole number within bounds."""
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(key, f"a whole number from {least} to {most:,}")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false; false where it is not there."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            self.refuse(key, "true or false")
        return value

    def table(self, key: str) -> Mapping[str, Any]:
        """Return a table; an empty one where it is not there."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            self.refuse(key, "a table, { KEY = VALUE, … }")
        return value

    def setting(self, name: str) -> str:
        """Return a setting as an environment variable would hold it."""
        value = self.values["settings"][name]
        if isinstance(value, bool):
            return str(value).lower()
        if not isinstance(value, int | str):
            self.refuse("settings", f"for {name} a text, a whole number, or true or false")
        return str(value)

    @contextmanager
    def telling(self, key: str) -> Iterator[None]:
        """Say where what others refuse stands."""
        where = f"{self.where}: {key}" if key else self.where
        try:
            yield
        except SuiteError:
            raise
        except OSError as error:
            raise SuiteError(f"{where}: {error.filename}: {error.strerror}") from None
        except (ValueError, LookupError) as error:
            raise SuiteError(f"{where}: {_one_line(error)}") from None


def is_number(value: object) -> bool:
    """Whether it is a number that makes sense as a figure: no truth value, nan or infinity.

    >>> is_number(0.5), is_number(True), is_number(float("nan")), is_number(10**400)
    (True, False, False, False)
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= _NUMBER_MAX  # type: ignore[arg-type]


def _plain(text: object) -> bool:
    """Whether it is a text for one cell of a table."""
    return isinstance(text, str) and 0 < len(text.strip()) <= _SHOWN and text.isprintable()


def _shown(value: object) -> str:
    """Write a value as it could stand in the file, on one line, cut where it is long."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _one_line(error: Exception) -> str:
    """Return an error's text; a LookupError's is its argument, for `str` would quote it."""
    text = str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error)
    return "; ".join(text.splitlines()) or type(error).__name__
