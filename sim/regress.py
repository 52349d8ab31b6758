"""The CI gate: today's figures of a suite of scenarios against a stored baseline.

A suite is a TOML file of scenarios; each runs under the behaviours it names, and every run is
exact: the same code gives the same figures on every machine, so a difference is a change of
the code (or of the suite), never noise. A tolerance is for who wants to accept small changes.

    [[scenario]]
    name = "rolling-restart"            # unique
    behaviours = ["native", "upstream"] # default: native
    instance = "m5.large"               # or max_enis = 3 and ips_per_eni = 10
    nodes = 10
    subnets = ["10.0.0.0/22"]
    settings = { WARM_IP_TARGET = 2, MINIMUM_IP_TARGET = 10 }
    trace = { shape = "rolling-restart", pods = 100 }   # a shape, or file = "pods.csv"
    seed = 1                            # default 0
    cold = false                        # start the daemons at zero; default false
    ignore_requests = true              # default false
    max_pods = 29                       # default: EKS's own
    tolerance = { "wait_s.p99" = 0.05 } # shares of the baseline's value; default: none
"""

import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cni.allocator.behaviour import PRESETS
from cni.settings import parse_assignments
from sim import node_type, trace
from sim.metrics import summarise
from sim.record import RunRecord
from sim.scenario import Scenario, SubnetPlan, scenario_for
from sim.simulation import run
from sim.sources.shapes import generate
from sim.trace import Trace

HIGHER_IS_BETTER = frozenset({"served_at_once", "served"})
NEGLIGIBLE = 1e-9
"""Shares below this are rounding: figures are stored with six digits behind the point."""

KEYS = frozenset(
    {
        "behaviours",
        "cold",
        "ignore_requests",
        "instance",
        "ips_per_eni",
        "max_enis",
        "max_pods",
        "name",
        "nodes",
        "seed",
        "settings",
        "subnets",
        "tolerance",
        "trace",
    }
)
REQUIRED = ("name", "subnets", "trace")

Figures = Mapping[str, float | None]
Status = Literal["worse", "better", "new", "gone"]


class SuiteError(ValueError):
    """A suite or a baseline that cannot be used; the message says where and what is allowed."""


@dataclass(frozen=True, slots=True)
class Case:
    """One scenario of a suite under one behaviour, ready to run."""

    name: str
    scenario: Scenario
    pods: Trace
    tolerance: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Change:
    """A figure that differs from its baseline; None stands for a figure that is not there."""

    case: str
    figure: str
    baseline: float | None
    today: float | None
    status: Status


# Suites.


def load_suite(path: Path) -> list[Case]:
    """Read a suite and make every scenario of it; raises SuiteError, and nothing has run then."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SuiteError(f"{path}: there is no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: not a TOML file: {error}") from None
    listed = tables.get("scenario")
    if set(tables) != {"scenario"} or not isinstance(listed, list) or not listed:
        raise SuiteError(f"{path}: a suite is a list of [[scenario]] tables, and nothing else")
    cases: list[Case] = []
    for number, entry in enumerate(listed, start=1):
        where = f"{path}: scenario {entry.get('name', number)!r}"
        try:
            cases += _cases(entry, path.parent)
        except (ValueError, LookupError, TypeError) as error:
            text = error.args[0] if isinstance(error, LookupError) and error.args else error
            raise SuiteError(f"{where}: {text}") from error
    names = [case.name for case in cases]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SuiteError(f"{path}: {', '.join(sorted(twice))}: a name may stand once only")
    return cases


def _cases(entry: Mapping[str, Any], folder: Path) -> list[Case]:
    for key in entry:
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            hint = (
                f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(KEYS))}"
            )
            raise SuiteError(f"unknown key {key!r}{hint}")
    for key in REQUIRED:
        if key not in entry:
            raise SuiteError(f"the key {key!r} is missing")
    behaviours = entry.get("behaviours", ["native"])
    if not isinstance(behaviours, list) or not behaviours or not set(behaviours) <= set(PRESETS):
        raise SuiteError(f"behaviours {behaviours!r}: allowed is a list of {', '.join(PRESETS)}")
    tolerance = entry.get("tolerance", {})
    for figure, share in tolerance.items():
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise SuiteError(f"tolerance of {figure}: {share!r}: allowed is a share from 0 to 1")
    seed = _whole(entry, "seed", 0, lowest=0)
    pods = _pods(entry["trace"], folder, seed)
    return [
        Case(f"{entry['name']} ({name})", _scenario(entry, name, seed), pods, tolerance)
        for name in behaviours
    ]


def _scenario(entry: Mapping[str, Any], behaviour: str, seed: int) -> Scenario:
    if "instance" in entry:
        kind = node_type.named(entry["instance"])
    elif "max_enis" in entry and "ips_per_eni" in entry:
        kind = node_type.explicit(
            _whole(entry, "max_enis", 0, lowest=1), _whole(entry, "ips_per_eni", 0, lowest=2)
        )
    else:
        raise SuiteError("name the node with instance, or with max_enis and ips_per_eni")
    settings = entry.get("settings", {})
    pairs = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in settings.items()
    ]
    return scenario_for(
        kind,
        parse_assignments(pairs, lenient=behaviour == "upstream"),
        subnets=tuple(SubnetPlan(cidr) for cidr in entry["subnets"]),
        behaviour=PRESETS[behaviour],
        nodes=_whole(entry, "nodes", 1, lowest=1),
        max_pods=_whole(entry, "max_pods", 0, lowest=3) if "max_pods" in entry else None,
        seed=seed,
        ignore_requests=bool(entry.get("ignore_requests", False)),
        warm=not entry.get("cold", False),
    )


def _whole(entry: Mapping[str, Any], key: str, default: int, *, lowest: int) -> int:
    value = entry.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise SuiteError(f"{key} = {value!r}: allowed is a whole number of at least {lowest}")
    return value


def _pods(wanted: object, folder: Path, seed: int) -> Trace:
    if isinstance(wanted, dict) and set(wanted) == {"file"}:
        return trace.load(folder / str(wanted["file"]))
    if isinstance(wanted, dict) and "shape" in wanted:
        values = {key: str(value) for key, value in wanted.items() if key != "shape"}
        return generate(str(wanted["shape"]), values, seed=seed)
    raise SuiteError('trace is { shape = "…", parameter = … } or { file = "…" }')


# Figures.


def measure(case: Case, progress: Callable[[int], None] | None = None) -> dict[str, float | None]:
    """Run a case and return its figures by name; None where a run has no such figure."""
    record = run(case.scenario, case.pods, progress=progress)
    summary = summarise(record)
    first, last = _instants(record)
    figures: dict[str, float | None] = {
        "first_address_s": first,
        "last_address_s": last,
        "wait_s.p50": summary.wait_s.p50,
        "wait_s.p90": summary.wait_s.p90,
        "wait_s.p99": summary.wait_s.p99,
        "wait_s.max": summary.wait_s.max,
        "served": summary.served,
        "served_at_once": summary.at_once_of_all,
        "refused_adds": sum(summary.refusals.values()),
        "refused_pods": summary.refused_pods,
        "addresses.held.mean": summary.addresses.held.mean,
        "addresses.held.max": summary.addresses.held.max,
        "addresses.taken.mean": summary.taken_mean,
        "ec2_calls.mutating": summary.ec2_calls.mutating,
        "ec2_calls.throttled": summary.ec2_calls.throttled,
    }
    for api, count in sorted(summary.ec2_calls.by_api.items()):
        figures[f"ec2_calls.{api}"] = count
    return {
        name: None if value is None else round(float(value), 6) for name, value in figures.items()
    }


def _instants(record: RunRecord) -> tuple[float | None, float | None]:
    """Return seconds from the first ADD to the first and to the last address handed out."""
    served = record.pods["served_at"]
    if not np.isfinite(served).any():
        return None, None
    start = float(np.nanmin(record.pods["added_at"]))
    return float(np.nanmin(served)) - start, float(np.nanmax(served)) - start


# Baselines.


def baseline_beside(suite: Path) -> Path:
    """Return where a suite's baseline is, unless told otherwise."""
    return suite.with_name(f"{suite.stem}.baseline.json")


def fingerprint(suite: Path) -> str:
    """Return a digest of a suite's text: a baseline knows which suite it was made of."""
    return hashlib.sha256(suite.read_bytes()).hexdigest()[:16]


def load_baseline(path: Path) -> tuple[dict[str, Figures], str]:
    """Return figures by case, and the fingerprint of their suite; raises SuiteError."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        figures: dict[str, Figures] = {
            str(case): dict(values) for case, values in stored["figures"].items()
        }
        return figures, str(stored["suite"])
    except FileNotFoundError:
        raise SuiteError(f"{path}: there is no baseline yet: make it with --update") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SuiteError(
            f"{path}: not a baseline ({error!r}): make it anew with --update"
        ) from None


def save_baseline(path: Path, figures: Mapping[str, Figures], suite: Path) -> None:
    """Write a baseline, one figure a line, by a temporary name: all of it or nothing."""
    try:
        made_by = version("warmbench")
    except PackageNotFoundError:
        made_by = "not installed"
    stored = {"warmbench": made_by, "suite": fingerprint(suite), "figures": figures}
    text = json.dumps(stored, indent=1) + "\n"
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


# Comparing.


def compare(
    cases: list[Case], today: Mapping[str, Figures], baseline: Mapping[str, Figures]
) -> list[Change]:
    """Return what differs beyond tolerance, in the order of the suite; worse is not sorted out."""
    changes: list[Change] = []
    for case in cases:
        old, new = baseline.get(case.name), today[case.name]
        if old is None:
            changes.append(Change(case.name, "(all)", None, None, "new"))
            continue
        for figure in dict.fromkeys([*old, *new]):
            # An API that is not called at all has no row: that is none, not unknown.
            none = 0.0 if figure.startswith("ec2_calls.") else None
            was, is_now = old.get(figure, none), new.get(figure, none)
            status = _status(figure, was, is_now, case.tolerance.get(figure, 0))
            if status is not None:
                changes.append(Change(case.name, figure, was, is_now, status))
    names = {case.name for case in cases}
    changes += [Change(name, "(all)", None, None, "gone") for name in baseline if name not in names]
    return changes


def _status(figure: str, old: float | None, new: float | None, tolerance: float) -> Status | None:
    if old is None or new is None:
        return None if old is new else "new" if old is None else "gone"
    if abs(new - old) <= max(tolerance * abs(old), NEGLIGIBLE):
        return None
    return "better" if (new > old) == (figure in HIGHER_IS_BETTER) else "worse"


def fails(changes: list[Change]) -> bool:
    """Whether the gate closes: something got worse, or is not in suite and baseline alike."""
    return any(change.status != "better" for change in changes)
