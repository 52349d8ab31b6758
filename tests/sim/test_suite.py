"""A suite is read whole or refused in one line that says where, what, and what is allowed."""

from pathlib import Path

import pytest

from sim import suite, trace
from sim.sources import shapes
from sim.subnet import parse_subnet

SMALL = """
[[scenario]]
name = "small"
behaviours = ["upstream"]
max_enis = 3
ips_per_eni = 4
subnets = ["10.0.0.0/24"]
settings = { WARM_IP_TARGET = 1, MINIMUM_IP_TARGET = 2 }
cold = true
seed = 3
trace = { shape = "scale", pods = 6, ramp_s = 30, hold_s = 200, rest_s = 60, repeats = 1 }
"""
TRACE = SMALL[SMALL.index("trace = ") :]


def written(folder: Path, text: str) -> Path:
    """Write a suite and return its path."""
    path = folder / "suite.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_scenario_is_made_of_its_keys(tmp_path: Path) -> None:
    """Each key reaches the scenario or the trace."""
    text = SMALL.replace("seed = 3", "seed = 3\nnodes = 2\nmax_pods = 7\nignore_requests = true")
    text = text.replace('["10.0.0.0/24"]', '["10.0.0.0/24", { cidr = "10.0.1.0/24", used = 0.4 }]')
    (case,) = suite.load(written(tmp_path, text)).cases

    scenario = case.scenario
    assert case.name == "small (upstream)"
    pool = scenario.pool
    assert (pool.behaviour.name, scenario.nodes, scenario.seed) == ("upstream", 2, 3)
    assert (pool.limits.enis, pool.limits.pods, scenario.warm) == (3, 7, False)
    assert scenario.ignore_requests
    assert [(str(parse_subnet(s.cidr)), s.used) for s in scenario.subnets] == [
        ("10.0.0.0/24", 0.0),
        ("10.0.1.0/24", 0.4),
    ]
    assert (pool.target.__class__.__name__, len(case.pods)) == ("WarmIp", 6)


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    """One warm node under native with the plug-in's own settings, seed 0, exact."""
    text = '[[scenario]]\nname="x"\ninstance="m5.large"\nsubnets=["10.0.0.0/24"]\n'
    (case,) = suite.load(written(tmp_path, text + 'trace = { shape = "job" }')).cases

    assert case.name == "x (native)"
    assert (case.scenario.nodes, case.scenario.seed, case.scenario.warm) == (1, 0, True)
    assert case.tolerance == {}


def test_settings_may_be_true_or_false(tmp_path: Path) -> None:
    """TOML's own truth values are those of the environment variables."""
    text = SMALL.replace("WARM_IP_TARGET = 1", "ENABLE_PREFIX_DELEGATION = true")
    (case,) = suite.load(written(tmp_path, text)).cases
    assert case.scenario.pool.settings["ENABLE_PREFIX_DELEGATION"] == "true"


def test_a_trace_file_is_looked_for_beside_the_suite(tmp_path: Path) -> None:
    """Wherever the command is run; and what the file holds is part of the digest."""
    path = written(tmp_path, SMALL.replace(TRACE, 'trace = { file = "pods.csv" }'))
    trace.save(shapes.scale(pods=4, repeats=1), tmp_path / "pods.csv")
    before = suite.load(path)
    trace.save(shapes.scale(pods=5, repeats=1), tmp_path / "pods.csv")
    after = suite.load(path)

    assert [len(before.cases[0].pods), len(after.cases[0].pods)] == [4, 5]
    assert before.digest != after.digest


def test_the_digest_is_of_what_a_suite_says(tmp_path: Path) -> None:
    """Comments and layout do not count, values do."""
    digest = suite.load(written(tmp_path, SMALL)).digest
    told = "# A comment.\n" + SMALL.replace("seed = 3", "seed    =   3")
    assert suite.load(written(tmp_path, told)).digest == digest
    assert suite.load(written(tmp_path, SMALL.replace("seed = 3", "seed = 4"))).digest != digest


HERE = "scenario small: "
BAD = [
    ("", "list of [[scenario]] tables"),
    ("[[scenario]\n", "not a TOML file"),
    ("x = " + "[" * 5000, "not a TOML file"),
    ("seed = 1" + "0" * 5000, "not a TOML file"),
    ("x = 1\n", "list of [[scenario]] tables"),
    (SMALL + "[other]\nx = 1\n", "list of [[scenario]] tables"),
    ("scenario = 3\n", "list of [[scenario]] tables"),
    ("scenario = []\n", "list of [[scenario]] tables"),
    ("scenario = [3]\n", "scenario 1: 3: allowed is a table"),
    (
        SMALL.replace("max_enis", "max_eni"),
        HERE + "unknown key 'max_eni'; did you mean \"max_enis\"",
    ),
    (SMALL.replace("cold", "zzz"), "known are name, instance"),
    (SMALL.replace('name = "small"\n', ""), "scenario 1: name is missing: allowed is a text"),
    (SMALL.replace('"small"', '""'), "scenario 1: name = '': allowed is"),
    (SMALL.replace('"small"', '"a\\nb"'), "scenario 1: name = 'a\\nb': allowed is"),
    (SMALL.replace('"small"', f'"{"a" * 61}"'), "allowed is a text of 1 to 60"),
    (SMALL.replace('"small"', "7"), "scenario 1: name = 7"),
    (SMALL + SMALL, HERE + "name = 'small': allowed is a name that no scenario before it has"),
    (SMALL.replace('["upstream"]', '["downstream"]'), "a list of upstream, native"),
    (SMALL.replace('["upstream"]', '"upstream"'), HERE + "behaviours = 'upstream'"),
    (SMALL.replace('["upstream"]', "[]"), "behaviours = []"),
    (SMALL.replace('["upstream"]', '["native", "native"]'), "each once"),
    (SMALL.replace('["upstream"]', '[["native"]]'), "each once"),
    (SMALL.replace("max_enis = 3", "max_enis = 0"), "max_enis = 0: allowed is a whole number from"),
    (SMALL.replace("max_enis = 3", "max_enis = 3.0"), "max_enis = 3.0"),
    (SMALL.replace("max_enis = 3", ""), "instance, or with max_enis and ips_per_eni"),
    (SMALL.replace("max_enis = 3", 'instance = "m5.large"'), "instance, or with max_enis"),
    (SMALL.replace("max_enis = 3\nips_per_eni = 4", 'instance = "m5.larg"'), "m5.large"),
    (SMALL.replace("max_enis = 3\nips_per_eni = 4", "instance = 5"), "instance = 5: allowed is"),
    (SMALL.replace("seed = 3", "nodes = 0"), "nodes = 0: allowed is a whole number from 1"),
    (SMALL.replace("seed = 3", "nodes = 1_000_000_000_000"), "to 1,000,000"),
    (SMALL.replace("seed = 3", "nodes = true"), "nodes = true"),
    (SMALL.replace("seed = 3", "seed = -3"), "seed = -3: allowed is a whole number from 0"),
    (SMALL.replace("seed = 3", "seed = 1979-05-27"), "seed = datetime.date(1979, 5, 27)"),
    (SMALL.replace("seed = 3", "max_pods = 2"), "max_pods = 2: allowed is a whole number from 3"),
    (SMALL.replace("cold = true", 'cold = "no"'), "cold = 'no': allowed is true or false"),
    (SMALL.replace("cold = true", "ignore_requests = 1"), "ignore_requests = 1: allowed is true"),
    (SMALL.replace('["10.0.0.0/24"]', '"10.0.0.0/24"'), "subnets = '10.0.0.0/24': allowed is"),
    (SMALL.replace('["10.0.0.0/24"]', "[]"), "subnets = []: allowed is a list"),
    (SMALL.replace('["10.0.0.0/24"]', "[10]"), "subnets = [10]: allowed is a list"),
    (SMALL.replace('subnets = ["10.0.0.0/24"]', ""), "subnets is missing"),
    (SMALL.replace("10.0.0.0/24", "10.0.0.0/99"), HERE + "subnets: subnet '10.0.0.0/99'"),
    (SMALL.replace('["10.0.0.0/24"]', '[{ cidr = "10.0.0.0/24", use = 1 }]'), "SHARE_OR_COUNT"),
    (SMALL.replace('["10.0.0.0/24"]', '[{ cidr = "10.0.0.0/24", used = nan }]'), "used from 0"),
    (SMALL.replace('["10.0.0.0/24"]', '[{ cidr = "10.0.0.0/24", used = 1.5 }]'), "used from 0"),
    (SMALL.replace("WARM_IP_TARGET = 1", "WARM_IP_TARGETS = 1"), "did you mean WARM_IP_TARGET"),
    (SMALL.replace("WARM_IP_TARGET = 1", "WARM_IP_TARGET = 1.5"), "for WARM_IP_TARGET a text"),
    (SMALL.replace("WARM_IP_TARGET = 1", "WARM_IP_TARGET = [1]"), "for WARM_IP_TARGET a text"),
    (SMALL.replace("settings = {", "settings = 3 # {"), "settings = 3: allowed is a table"),
    (SMALL.replace('"scale"', '"scales"'), HERE + 'trace: shape: "scales"'),
    (SMALL.replace("pods = 6", "pod = 6"), "trace: pod: the shape scale has no such setting"),
    (SMALL.replace("pods = 6", "pods = 0"), 'trace: pods: "0"'),
    (SMALL.replace("pods = 6", "pods = true"), "allowed is { shape"),
    (SMALL.replace("pods = 6", "pods = [6]"), "allowed is { shape"),
    (SMALL.replace("ramp_s = 30", "ramp_s = inf"), "allowed is { shape"),
    (SMALL.replace(TRACE, ""), "trace is missing"),
    (SMALL.replace(TRACE, "trace = 3"), "trace = 3: allowed is a table"),
    (SMALL.replace(TRACE, "trace = {}"), "trace = {}: allowed is { shape"),
    (SMALL.replace(TRACE, "trace = { file = 3 }"), "allowed is { shape"),
    (SMALL.replace(TRACE, 'trace = { file = "none.csv" }'), "none.csv"),
    (SMALL.replace(TRACE, 'trace = { file = "." }'), HERE + "trace: "),
    (SMALL + "tolerance = 0.1\n", "tolerance = 0.1: allowed is a table"),
    (SMALL + 'tolerance = { "wait_s.p98" = 0.1 }\n', 'did you mean "wait_s.p9'),
    (SMALL + 'tolerance = { "wait_s.max" = 3 }\n', "for wait_s.max a share"),
    (SMALL + 'tolerance = { "wait_s.max" = nan }\n', "for wait_s.max a share"),
    (SMALL + 'tolerance = { "wait_s.max" = true }\n', "for wait_s.max a share"),
    (SMALL + 'tolerance = { "wait_s.max" = -0.1 }\n', "for wait_s.max a share"),
    (SMALL + 'tolerance = { "ec2_calls.AttachNetwork" = 0 }\n', "ec2_calls.AttachNetworkInterface"),
]


@pytest.mark.parametrize(("text", "told"), BAD, ids=[told for _, told in BAD])
def test_a_broken_suite_is_refused_whole(tmp_path: Path, text: str, told: str) -> None:
    """One line names the file and what is allowed, before anything runs."""
    path = written(tmp_path, text)
    with pytest.raises(suite.SuiteError) as caught:
        suite.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert told in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 600


def test_several_bad_settings_stay_on_one_line(tmp_path: Path) -> None:
    """All of them are named."""
    text = SMALL.replace("WARM_IP_TARGET = 1, MIN", "WARM_IPS = 1, MAX_ENIS = 2, MIN")
    with pytest.raises(suite.SuiteError, match=r"WARM_IPS.*; MAX_ENIS") as caught:
        suite.load(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a folder, or not text."""
    with pytest.raises(suite.SuiteError, match=r"none\.toml: cannot be read: No such file"):
        suite.load(tmp_path / "none.toml")
    with pytest.raises(suite.SuiteError, match="cannot be read: Is a directory"):
        suite.load(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(suite.SuiteError, match=r"bytes\.toml: not a TOML file"):
        suite.load(tmp_path / "bytes.toml")
