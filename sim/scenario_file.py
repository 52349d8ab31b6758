"""A scenario as a TOML table: the keys, what is allowed, and the refusal of everything else.

A file holds one scenario by itself (`warmbench replay --scenario FILE`), or a suite lists many
(`sim/suite.py`). The keys:

    name = "batch and web"              # in a suite: unique
    instance = "m5.large"               # or max_enis = 3 and ips_per_eni = 10
    nodes = 10                          # when the trace begins; default 1
    max_pods = 29                       # the kubelet's; default: EKS's own for the type
    settings = { WARM_IP_TARGET = 2 }   # default: the plug-in's own
    subnets = ["10.0.0.0/22"]           # or tables { cidr = "10.0.0.0/22", used = 0.4, zone = "a",
                                        # prefixes = ["10.0.1.0/24"], reserved = ["10.0.2.0/26"] }:
                                        # a share or a count of addresses that others hold, CIDR
                                        # reservations for prefixes and for nobody (EC2: explicit)
    trace = { shape = "steady" }        # `warmbench trace generate` lists shapes; or
                                        # { file = "pods.csv" }, looked for beside this file
    seed = 1                            # of everything random; default 0
    cold = true                         # daemons start at zero; default false: long before
    warm_up_s = 600                     # cut from the figures; default 0
    placement = "pack"                  # default "spread"
    ignore_requests = true              # place by max-pods alone; default false
    numbers = "ec2.toml"                # EC2's latencies and limits, in place of the shipped ones
    denied = ["CreateNetworkInterface"] # APIs that the nodes' role may not use

    [[fault]]                           # any number: what goes wrong with EC2
    api = "AssignPrivateIpAddresses"    # default "*": every API but ReadMetadata
    code = "InternalError"              # EC2's; and, or instead:
    delay_s = 2.0                       # added to the latency
    share = 0.01                        # of the calls; default 1
    takes_effect = true                 # the call fails after its effect, with a code that leaves
                                        # open what happened; default false
    from_s = 600                        # seconds of the trace; default 0
    until_s = 900                       # default: the end

    [[pool]]                            # several pools, in place of instance, nodes and max_pods
    name = "web"
    instance = "m5.large"
    nodes = 10
    settings = { WARM_IP_TARGET = 2 }   # beside the scenario's own, for this pool
    zones = ["a", "b"]                  # default: all
    takes = ["web-*"]                   # pods by name: these, and no others; default: all that no
                                        # other pool claims
    behaviour = "upstream"              # default: what the run is judged under
    autoscaling = { least = 2, most = 40, join_s = 60, batch_s = 10, empty_s = 300 }
    recycling = { at_s = 600, batch = 2, join_s = 60, grace_s = 30, every_s = 0 }
    spot = { per_node_hour = 0.05, notice_s = 120, join_s = 60, grace_s = 30 }
    cordons = [{ at_s = 600, nodes = 2, for_s = 300 }]
    restarts = [{ at_s = 600, batch = 2, down_s = 5, every_s = 0 }]

The last five may stand in a scenario of one pool as well. A shorter table takes the defaults of
`sim/node_pool.py`. What cannot be used is refused whole, in one line with file, scenario, key,
value and what is allowed.
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, TypeVar, get_args

from cni.allocator.behaviour import PRESETS
from cni.cloud.calls import Call, Pause, ReadMetadata
from cni.settings import parse_assignments
from sim import node_type, trace
from sim.cloud_numbers import CloudNumbers
from sim.file_entry import Entry, ScenarioFileError, is_number
from sim.node_pool import (
    Autoscaling,
    Changes,
    Cordon,
    DaemonRestart,
    NodePool,
    Recycling,
    SpotLoss,
    pool_for,
)
from sim.node_type import NodeType
from sim.scenario import FaultPlan, Scenario, SubnetPlan
from sim.scheduler import Placement
from sim.sources.shapes import generate
from sim.subnet import Reservation, ReservationType
from sim.trace import Trace

__all__ = ["KEYS", "ScenarioFileError", "ScenarioTable", "load", "read_toml"]

LIFE_KEYS = ("autoscaling", "recycling", "spot", "cordons", "restarts")
NODE_KEYS = ("instance", "max_enis", "ips_per_eni", "nodes", "max_pods")
POOL_KEYS = ("name", *NODE_KEYS, "settings", "zones", "takes", "behaviour", *LIFE_KEYS)
KEYS = (
    "name",
    *NODE_KEYS,
    "settings",
    "subnets",
    "trace",
    "seed",
    "cold",
    "warm_up_s",
    "placement",
    "ignore_requests",
    "numbers",
    "denied",
    "fault",
    "pool",
    *LIFE_KEYS,
)
TARGETS = (
    "ENABLE_PREFIX_DELEGATION",
    "WARM_ENI_TARGET",
    "WARM_IP_TARGET",
    "MINIMUM_IP_TARGET",
    "WARM_PREFIX_TARGET",
)
"""The variables that decide a warm pool's size."""

NODES_MAX, PODS_PER_NODE_MAX, SEED_MAX = 1_000_000, 100_000, 10**12
SECONDS_MAX = 1e9

APIS = tuple(sorted(call.api for call in get_args(Call) if call is not Pause))
"""What a fault may strike: EC2's APIs that a node calls, and ReadMetadata."""

EC2_APIS = tuple(api for api in APIS if api != ReadMetadata.api)
"""What a role may be denied: the metadata asks for no permission."""

RESERVED = {"prefixes": ReservationType.PREFIX, "reserved": ReservationType.EXPLICIT}
"""The keys of a subnet's CIDR reservations."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class ScenarioTable:
    """One scenario's table, looked at closely; `folder` is where its files are looked for."""

    entry: Entry
    folder: Path

    @property
    def seed(self) -> int:
        """The seed of everything random."""
        return self.entry.whole("seed", default=0, least=0, most=SEED_MAX)

    def seeded(self, seed: int) -> "ScenarioTable":
        """Return the same table with another seed, as if the file said so."""
        entry = self.entry
        other = Entry(entry.where, {**entry.values, "seed": seed}, entry.keys)
        return ScenarioTable(other, self.folder)

    def scenario(
        self,
        behaviour: str,
        *,
        checks: bool = True,
        command: tuple[str, ...] = (),
        instead: Mapping[str, Sequence[str]] | None = None,
        over: Mapping[str, Mapping[str, str]] | None = None,
    ) -> Scenario:
        """Make the scenario under a behaviour; raises ScenarioFileError.

        `instead` has KEY=VALUE words by a pool's name: they replace what the file sets of TARGETS.
        `over` has settings by a pool's name that are laid over the file's; "" is every pool.
        """
        unknown = (over or {}).keys() - {"", *(name for _, _, name in self._pool_entries())}
        if unknown:
            raise ScenarioFileError(f"{self.entry.where}: no pool is called {min(unknown)}")
        entry = self.entry
        ignored = entry.flag("ignore_requests")
        packs = entry.choice("placement", ("spread", "pack")) == "pack"
        placement: Placement = "pack" if packs else "spread"
        pools = tuple(
            _pool(
                one,
                {**common, **one.table("settings"), **self._laid_over(over or {}, name)},
                name,
                behaviour,
                (instead or {}).get(name),
                ignored=ignored,
            )
            for one, common, name in self._pool_entries()
        )
        subnets, faults = _subnets(entry), _faults(entry)
        warm_up_s = entry.number("warm_up_s", default=0.0, least=0.0, most=SECONDS_MAX)
        with entry.telling(""):
            return Scenario(
                subnets=subnets,
                pools=pools,
                seed=self.seed,
                numbers=self._numbers(),
                faults=faults,
                denied=entry.words("denied", EC2_APIS),
                placement=placement,
                ignore_requests=ignored,
                warm=not entry.flag("cold"),
                warm_up_s=warm_up_s,
                checks=checks,
                command=command,
            )

    @staticmethod
    def _laid_over(over: Mapping[str, Mapping[str, str]], name: str) -> dict[str, str]:
        return {**over.get("", {}), **over.get(name, {})}

    def _pool_entries(self) -> list[tuple[Entry, Mapping[str, Any], str]]:
        """Return each pool's table, the settings it shares with others, and its name."""
        entry = self.entry
        if "pool" not in entry.values:
            return [(entry, {}, "nodes")]
        twice = [key for key in (*NODE_KEYS, *LIFE_KEYS) if key in entry.values]
        if twice:
            entry.refuse(twice[0], "nothing here, where each [[pool]] says it")
        common = entry.table("settings")
        listed = entry.tables("pool", POOL_KEYS)
        return [(one, common, one.text("name")) for one in listed]

    def _numbers(self) -> CloudNumbers:
        if "numbers" not in self.entry.values:
            return CloudNumbers.load()
        with self.entry.telling("numbers"):
            return CloudNumbers.load(self.folder / self.entry.text("numbers"))

    def pods(self, files: dict[str, str]) -> Trace | None:
        """Make or load the trace, None where none is named; note a file's digest under its name."""
        entry = self.entry
        if "trace" not in entry.values:
            return None
        wanted = entry.table("trace")
        if set(wanted) == {"file"} and isinstance(wanted["file"], str):
            with entry.telling("trace"):
                path = self.folder / wanted["file"]
                loaded = trace.load(path)
                files[wanted["file"]] = hashlib.sha256(path.read_bytes()).hexdigest()
                return loaded
        values = {key: value for key, value in wanted.items() if key != "shape"}
        simple = all(is_number(value) or isinstance(value, str) for value in values.values())
        if not isinstance(wanted.get("shape"), str) or not simple:
            entry.refuse("trace", '{ shape = "NAME", PARAMETER = VALUE, … } or { file = "NAME" }')
        with entry.telling("trace"):
            texts = {key: str(value) for key, value in values.items()}
            return generate(str(wanted["shape"]), texts, seed=self.seed)


def load(path: Path) -> ScenarioTable:
    """Read a file that holds one scenario; raises ScenarioFileError."""
    values = read_toml(path)
    return ScenarioTable(Entry(str(path), values, KEYS), path.parent)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises ScenarioFileError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioFileError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ScenarioFileError(f"{path}: not a TOML file: nested too deeply") from None
    except ValueError as error:
        told = "; ".join(str(error).splitlines())
        raise ScenarioFileError(f"{path}: not a TOML file: {told}") from None


def _pool(  # noqa: PLR0913 - what others say of the pool, beside its table
    entry: Entry,
    asked: Mapping[str, Any],
    name: str,
    behaviour: str,
    instead: Sequence[str] | None,
    *,
    ignored: bool,
) -> NodePool:
    kind = _node_type(entry)
    own = behaviour
    if "behaviour" in entry.values:
        own = entry.text("behaviour")
        if own not in PRESETS:
            entry.refuse("behaviour", ", ".join(PRESETS))
    pairs = [
        f"{key}={entry.setting(key, value)}"
        for key, value in asked.items()
        if instead is None or key not in TARGETS
    ]
    pairs += instead or ()
    with entry.telling("settings"):
        settings = parse_assignments(pairs, lenient=own == "upstream")
    changes = _changes(entry)
    scaling = changes.autoscaling
    first = 1 if scaling is None else scaling.least
    nodes = entry.whole("nodes", default=first, least=0 if scaling else 1, most=NODES_MAX)
    max_pods = None
    if "max_pods" in entry.values:
        max_pods = entry.whole("max_pods", default=0, least=3, most=PODS_PER_NODE_MAX)
    with entry.telling(""):
        return pool_for(
            kind,
            settings,
            name=name,
            behaviour=PRESETS[own],
            nodes=nodes,
            max_pods=max_pods,
            ignore_requests=ignored,
            zones=entry.words("zones"),
            takes=entry.words("takes"),
            changes=changes,
        )


def _node_type(entry: Entry) -> NodeType:
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
    raise ScenarioFileError(
        f"{entry.where}: name the node with instance, or with max_enis and ips_per_eni"
    )


def _changes(entry: Entry) -> Changes:
    return Changes(
        autoscaling=_one(entry, "autoscaling", Autoscaling),
        recycling=_one(entry, "recycling", Recycling),
        spot=_one(entry, "spot", SpotLoss),
        cordons=_each(entry, "cordons", Cordon),
        restarts=_each(entry, "restarts", DaemonRestart),
    )


def _one(entry: Entry, key: str, kind: type[Value]) -> Value | None:
    if key not in entry.values:
        return None
    return _made(Entry(f"{entry.where}: {key}", entry.table(key), _names(kind)), kind)


def _each(entry: Entry, key: str, kind: type[Value]) -> tuple[Value, ...]:
    if key not in entry.values:
        return ()
    return tuple(_made(one, kind) for one in entry.tables(key, _names(kind)))


def _names(kind: type[Any]) -> Sequence[str]:
    return [field.name for field in fields(kind)]


def _made(entry: Entry, kind: type[Value]) -> Value:
    """Make a value of whole numbers, seconds and shares from a table that names its fields."""
    found: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        required = field.default is MISSING
        if field.name not in entry.values and not required:
            continue
        if field.type in (int, "int"):
            least = 1 if field.name in ("batch", "most", "nodes") else 0
            found[field.name] = entry.whole(field.name, default=None, least=least, most=NODES_MAX)
        else:
            found[field.name] = entry.number(field.name, default=None, least=0.0, most=SECONDS_MAX)
    return kind(**found)


def _subnets(entry: Entry) -> tuple[SubnetPlan, ...]:
    allowed = (
        'a list of "CIDR" or { cidr = "CIDR", used = SHARE_OR_COUNT, zone = "NAME",'
        ' prefixes = ["CIDR"], reserved = ["CIDR"] }, at least one'
    )
    listed = entry.values.get("subnets")
    if not isinstance(listed, list) or not listed:
        entry.refuse("subnets", allowed)
    plans = []
    for one in listed:
        table = one if isinstance(one, dict) else {"cidr": one}
        cidr, used, zone = table.get("cidr"), table.get("used", 0), table.get("zone", "")
        known = set(table) <= {"cidr", "used", "zone", *RESERVED}
        lists = [table.get(key, []) for key in RESERVED]
        texts = isinstance(cidr, str) and isinstance(zone, str)
        if not known or not texts or not all(isinstance(listed, list) for listed in lists):
            entry.refuse("subnets", allowed)
        if not is_number(used) or used < 0 or (used >= 1 and used != int(used)):
            entry.refuse("subnets", "used from 0: a share below 1, or a whole number from 1")
        with entry.telling("subnets"):
            reserved = tuple(
                Reservation(IPv4Network(str(block)), kind)
                for kind, listed in zip(RESERVED.values(), lists, strict=True)
                for block in listed
            )
            plans.append(SubnetPlan(str(cidr), float(used), reserved, zone))
    return tuple(plans)


def _faults(entry: Entry) -> tuple[FaultPlan, ...]:
    if "fault" not in entry.values:
        return ()
    return tuple(_fault(one) for one in entry.tables("fault", _names(FaultPlan)))


def _fault(entry: Entry) -> FaultPlan:
    api = entry.text("api") if "api" in entry.values else "*"
    if api not in ("*", *APIS):
        entry.refuse("api", f"* or one of {', '.join(APIS)}")
    code = entry.text("code") if "code" in entry.values else ""
    delay_s = entry.number("delay_s", default=0.0, least=0.0, most=SECONDS_MAX)
    if not code and not delay_s:
        raise ScenarioFileError(f"{entry.where}: say what goes wrong: code, delay_s or both")
    from_s = entry.number("from_s", default=0.0, least=0.0, most=SECONDS_MAX)
    until_s = entry.number("until_s", default=0.0, least=0.0, most=SECONDS_MAX)
    if until_s and until_s <= from_s:
        entry.refuse("until_s", "an instant after from_s, or 0 for the end")
    share = entry.number("share", default=1.0, least=0.0, most=1.0)
    takes_effect = entry.flag("takes_effect")
    with entry.telling(""):
        return FaultPlan(api, code, share, delay_s, takes_effect, from_s, until_s)
