"""Scenarios in TOML: every key, and one line for everything that is not allowed."""

from dataclasses import fields
from pathlib import Path

import pytest

from sim import scenario_file
from sim.node_pool import Autoscaling, Cordon, DaemonRestart, Recycling, SpotLoss
from sim.scenario import FaultPlan, Scenario
from sim.scenario_file import KEYS, POOL_KEYS, ScenarioFileError

FULL = """
seed = 3
cold = true
warm_up_s = 60
placement = "pack"
ignore_requests = true
denied = ["DeleteNetworkInterface"]
trace = { shape = "steady", duration_s = 600 }
settings = { WARM_IP_TARGET = 2 }
subnets = [
    { cidr = "10.0.0.0/23", zone = "a", used = 0.25, prefixes = ["10.0.1.0/24"] },
    { cidr = "10.0.2.0/24", zone = "b" },
]

[[fault]]
api = "AttachNetworkInterface"
code = "InternalError"
delay_s = 2
share = 0.5
takes_effect = true
from_s = 10
until_s = 20

[[pool]]
name = "web"
instance = "m5.large"
nodes = 3
max_pods = 20
settings = { MINIMUM_IP_TARGET = 7 }
zones = ["a"]
takes = ["web-*"]
behaviour = "upstream"
recycling = { at_s = 100, batch = 2, join_s = 10, grace_s = 5, every_s = 500 }
cordons = [{ at_s = 5, nodes = 1, for_s = 9 }]

[[pool]]
name = "rest"
max_enis = 2
ips_per_eni = 5
autoscaling = { least = 2, most = 6, join_s = 30, batch_s = 5, empty_s = 60 }
spot = { per_node_hour = 0.5, notice_s = 0, join_s = 20, grace_s = 10 }
restarts = [{ at_s = 50, batch = 3, down_s = 4, every_s = 100 }]
"""
SMALL = 'instance = "m5.large"\nsubnets = ["10.0.0.0/24"]\n'


def written(folder: Path, text: str) -> Path:
    """Write a file."""
    path = folder / "fleet.toml"
    path.write_text(text, encoding="utf-8")
    return path


def made(folder: Path, text: str, behaviour: str = "native") -> Scenario:
    """Make the scenario of a text."""
    return scenario_file.load(written(folder, text)).scenario(behaviour)


def test_every_key_reaches_the_scenario(tmp_path: Path) -> None:
    """A file that uses each key makes a scenario with each of its values."""
    scenario = made(tmp_path, FULL)
    web, rest = scenario.pools

    assert (scenario.seed, scenario.warm, scenario.warm_up_s) == (3, False, 60.0)
    assert (scenario.placement, scenario.ignore_requests) == ("pack", True)
    assert scenario.denied == ("DeleteNetworkInterface",)
    assert [(plan.zone, plan.used, len(plan.reservations)) for plan in scenario.subnets] == [
        ("a", 0.25, 1),
        ("b", 0.0, 0),
    ]
    assert scenario.faults == (
        FaultPlan("AttachNetworkInterface", "InternalError", 0.5, 2.0, True, 10.0, 20.0),
    )
    assert (web.name, web.nodes, web.limits.pods, web.behaviour.name) == ("web", 3, 20, "upstream")
    assert (web.zones, web.takes) == (("a",), ("web-*",))
    assert web.settings["WARM_IP_TARGET"] == "2"
    assert web.settings["MINIMUM_IP_TARGET"] == "7"
    assert web.changes.recycling == Recycling(100, 2, 10, 5, 500)
    assert web.changes.cordons == (Cordon(5, 1, 9),)
    assert (rest.nodes, rest.limits.enis, rest.behaviour.name) == (2, 2, "native")
    assert rest.changes.autoscaling == Autoscaling(2, 6, 30, 5, 60)
    assert rest.changes.spot == SpotLoss(0.5, 0, 20, 10)
    assert rest.changes.restarts == (DaemonRestart(50, 3, 4, 100),)


def test_every_key_is_told_in_the_report(tmp_path: Path) -> None:
    """What shapes a run is printed with it."""
    told = " ".join(f"{k} {v}" for k, v in made(tmp_path, FULL).described().items())
    for word in ("web: recycling", "rest: autoscaling", "rest: spot", "cordon", "daemon restarts"):
        assert word in told
    for word in ("warm-up, cut 60 s", "InternalError", "DeleteNetworkInterface", "in b", "web-*"):
        assert word in told


def test_subnets_keep_ranges_for_prefixes_and_for_nobody(tmp_path: Path) -> None:
    """Both kinds of EC2's CIDR reservations can be said of a subnet."""
    plan = '{ cidr = "10.0.0.0/24", prefixes = ["10.0.0.0/26"], reserved = ["10.0.0.64/28"] }'
    (subnet,) = made(tmp_path, SMALL.replace('"10.0.0.0/24"', plan)).subnets
    told = [(str(one.cidr), one.type.value) for one in subnet.reservations]
    assert told == [("10.0.0.0/26", "prefix"), ("10.0.0.64/28", "explicit")]


def test_the_docstring_names_every_key() -> None:
    """`warmbench fleet keys` prints it: each key, and each field of what happens to nodes."""
    doc = scenario_file.__doc__ or ""
    kinds = (Autoscaling, Recycling, SpotLoss, Cordon, DaemonRestart, FaultPlan)
    names = [field.name for kind in kinds for field in fields(kind)]
    missing = [name for name in {*KEYS, *POOL_KEYS, *names} if name not in doc]
    assert missing == []


def test_one_pool_may_stand_by_itself(tmp_path: Path) -> None:
    """Without [[pool]], the scenario's own keys describe the nodes, their life among them."""
    text = SMALL + "spot = { per_node_hour = 1 }\nnodes = 2\n"
    scenario = made(tmp_path, text, "upstream")
    assert (scenario.pool.nodes, scenario.pool.behaviour.name) == (2, "upstream")
    assert scenario.pool.changes.spot == SpotLoss(1.0)
    assert scenario_file.load(written(tmp_path, text)).pods({}) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SMALL + "nods = 3", "unknown key 'nods'; did you mean \"nodes\"?"),
        (SMALL + "nodes = 0", "nodes = 0: allowed is a whole number from 1"),
        (SMALL + 'placement = "tight"', "placement = 'tight': allowed is spread or pack"),
        (SMALL + "warm_up_s = -1", "warm_up_s = -1: allowed is a number from 0"),
        (SMALL + 'denied = ["ReadMetadata"]', "denied = ['ReadMetadata']: allowed is a list of"),
        (SMALL + 'denied = ["Fly"]', "denied = ['Fly']: allowed is a list of Assign"),
        (SMALL + "spot = { notice_s = 5 }", "spot: per_node_hour is missing"),
        (SMALL + "spot = 3", "spot = 3: allowed is a table"),
        (SMALL + "recycling = { at_s = 5, batch = 0 }", "recycling: batch = 0: allowed is a whole"),
        (SMALL + "cordons = []", "cordons = []: allowed is a list of tables, at least one"),
        (SMALL + "restarts = [{ at = 5 }]", "restarts 1: unknown key 'at'"),
        (SMALL + "autoscaling = { least = 5, most = 2 }", "from 5 nodes (least) to 2 (most)"),
        (SMALL + "[[fault]]\nshare = 0.5", "fault 1: say what goes wrong: code, delay_s or both"),
        (
            SMALL + '[[fault]]\ncode = "RequestLimitExceeded"\ntakes_effect = true',
            "fault 1: takes_effect with code RequestLimitExceeded says that nothing happened",
        ),
        (SMALL + "[[fault]]\ndelay_s = 1\ntakes_effect = true", "takes_effect with no code"),
        (SMALL + '[[fault]]\napi = "Fly"\ncode = "x"', "api = 'Fly': allowed is * or one of"),
        (SMALL + '[[fault]]\ncode = "x"\nshare = 2', "share = 2: allowed is a number from 0 to 1"),
        (SMALL + '[[fault]]\ncode = "x"\nfrom_s = 9\nuntil_s = 3', "an instant after from_s"),
        (SMALL + '[[pool]]\nname = "a"', "instance = 'm5.large': allowed is nothing here"),
        ('subnets = ["10.0.0.0/24"]\n[[pool]]\nname = "a"', "pool a: name the node with instance"),
        ('subnets = ["10.0.0.0/24"]\n[[pool]]\ninstance = "m5.large"', "name is missing"),
        (SMALL.replace('"10.0.0.0/24"', '{ cidr = "10.0.0.0/24", zon = "a" }'), "subnets"),
        (SMALL + 'numbers = "none.toml"', "none.toml: No such file"),
        ("seed =", "not a TOML file"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    """The line names file, place, key, value and what is allowed."""
    with pytest.raises(ScenarioFileError) as caught:
        made(tmp_path, text)
    message = str(caught.value)
    assert told in message
    assert message.startswith(str(tmp_path))
    assert "\n" not in message
