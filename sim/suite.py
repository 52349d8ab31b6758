"""Suites of scenarios: a TOML file from which every run is made before the first one starts.

A suite lists `[[scenario]]` tables, and nothing else: each is a scenario as `sim/scenario_file.py`
tells it, with these keys beside. Each runs once for each behaviour it names:

    [[scenario]]
    name = "rolling-restart"            # unique in the suite
    behaviours = ["native", "upstream"] # default: ["native"]
    tolerance = { "wait_s.p99" = 0.05 } # share of the baseline's figure that may be lost before
                                        # it counts, by the name of the figure (FIGURES, or
                                        # "ec2_calls." and the name of an API); default 0: exact

In a suite, `[[scenario.pool]]` and `[[scenario.fault]]` stand below their scenario. What cannot
be used is refused whole, in one line with file, scenario, key, value and what is allowed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from cni.allocator.behaviour import PRESETS
from cni.cloud.calls import Call, Pause, ReadMetadata
from sim import scenario_file
from sim.file_entry import Entry, is_number, name_or, shown
from sim.scenario import Scenario
from sim.sources.pods import near
from sim.trace import Trace

__all__ = ["APIS", "FIGURES", "KEYS", "Case", "Suite", "SuiteError", "load"]

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

KEYS = (*scenario_file.KEYS, "behaviours", "tolerance")

SuiteError = scenario_file.ScenarioFileError
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


def load(path: Path, *, behaviours: Sequence[str] | None = None) -> Suite:
    """Read a suite and make every scenario of it; raises SuiteError, and nothing has run then.

    `behaviours` stand in place of those that the scenarios name.
    """
    tables = scenario_file.read_toml(path)
    listed = tables.get("scenario")
    if set(tables) != {"scenario"} or not isinstance(listed, list) or not listed:
        raise SuiteError(f"{path}: a suite is a list of [[scenario]] tables, and nothing else")
    cases: list[Case] = []
    files: dict[str, str] = {}
    names: set[str] = set()
    for number, values in enumerate(listed, start=1):
        entry = Entry(f"{path}: scenario {name_or(values, number)}", values, KEYS)
        name = entry.text("name")
        if name in names:
            entry.refuse("name", "a name that no scenario before it has")
        names.add(name)
        cases += _cases(entry, name, path.parent, files, behaviours)
    told = json.dumps([listed, files], sort_keys=True)
    return Suite(path, tuple(cases), hashlib.sha256(told.encode()).hexdigest()[:16])


def _cases(
    entry: Entry,
    name: str,
    folder: Path,
    files: dict[str, str],
    instead: Sequence[str] | None,
) -> list[Case]:
    """Make one case for each behaviour; note the digest of a trace file under its name."""
    behaviours = entry.values.get("behaviours", ["native"])
    known = isinstance(behaviours, list) and all(one in PRESETS for one in map(str, behaviours))
    if not known or not behaviours or len(set(behaviours)) != len(behaviours):
        entry.refuse("behaviours", f"a list of {', '.join(PRESETS)}, each once")
    table = scenario_file.ScenarioTable(entry, folder)
    pods = table.pods(files)
    if pods is None:
        entry.refuse("trace", '{ shape = "NAME", PARAMETER = VALUE, … } or { file = "NAME" }')
    tolerance = _tolerance(entry)
    return [
        Case(f"{name} ({behaviour})", table.scenario(behaviour), pods, tolerance)
        for behaviour in instead or behaviours
    ]


def _tolerance(entry: Entry) -> Mapping[str, float]:
    known = (*FIGURES, *(f"ec2_calls.{api}" for api in APIS))
    tolerance: dict[str, float] = {}
    for figure, share in entry.table("tolerance").items():
        if figure not in known:
            hint = near(figure, known) or f"; known are {', '.join(known)}"
            raise SuiteError(f"{entry.where}: tolerance: unknown figure {shown(figure)}{hint}")
        if not is_number(share) or not 0 <= share <= 1:
            entry.refuse("tolerance", f"for {figure} a share of the baseline's figure, 0 to 1")
        tolerance[figure] = float(share)
    return tolerance
