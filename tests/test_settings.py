"""Settings: which values are taken, which refused, which warm target rules, what is warned of."""

import pickle
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.allocator.model import BlockKind
from cni.allocator.targets import WarmEni, WarmIp, WarmPrefix, WarmTarget
from cni.settings import (
    NOT_SET,
    VARIABLES,
    Problem,
    Settings,
    SettingsError,
    effective,
    parse,
    parse_assignments,
)
from cni.variables import Reader, whole_number

PREFIX = "ENABLE_PREFIX_DELEGATION"
ENI_T, IP_T, MIN_T, PREFIX_T = (
    "WARM_ENI_TARGET",
    "WARM_IP_TARGET",
    "MINIMUM_IP_TARGET",
    "WARM_PREFIX_TARGET",
)
POOL = (PREFIX, ENI_T, IP_T, MIN_T, PREFIX_T, "MAX_ENI", "IP_COOLDOWN_PERIOD")

CHART: Mapping[str, str] = {
    name: variable.default for name, variable in VARIABLES.items() if variable.default is not None
}


def problems_of(environ: Mapping[str, str], *, lenient: bool = False) -> tuple[Problem, ...]:
    """Return what parse refuses in this environment."""
    with pytest.raises(SettingsError) as caught:
        parse(environ, lenient=lenient)
    return caught.value.problems


# Defaults and precedence.


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("environ", [{}, CHART])
def test_nothing_set_is_a_node_of_the_chart(environ: Mapping[str, str], *, lenient: bool) -> None:
    """No variable, and every variable at the chart's default, both give WarmEni(1), unwarned."""
    settings = parse(environ, lenient=lenient)

    assert settings.target == WarmEni(1)
    assert settings.kind is BlockKind.SECONDARY_IP
    assert settings.max_eni is None
    assert settings.ip_cooldown_period_s == 30
    assert settings.other_values == ()
    assert settings.warnings == ()


def test_the_dataclass_defaults_are_the_charts() -> None:
    """Settings() and an empty environment are the same settings."""
    assert parse({}, lenient=False) == Settings()


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    ("environ", "target"),
    [
        ({ENI_T: "3"}, WarmEni(3)),
        ({IP_T: "5"}, WarmIp(5)),
        ({MIN_T: "7"}, WarmIp(0, 7)),
        ({IP_T: "5", MIN_T: "7", ENI_T: "9"}, WarmIp(5, 7)),
        ({IP_T: "0", MIN_T: "0"}, WarmEni(1)),
        ({IP_T: "0", ENI_T: "0"}, WarmEni(0)),
        ({PREFIX_T: "4"}, WarmEni(1)),
        ({IP_T: "5", PREFIX_T: "4"}, WarmIp(5)),
        ({PREFIX: "true"}, WarmPrefix(1)),
        ({PREFIX: "true", PREFIX_T: "0"}, WarmPrefix(0)),
        ({PREFIX: "true", PREFIX_T: "2", ENI_T: "9"}, WarmPrefix(2)),
        ({PREFIX: "true", IP_T: "5"}, WarmIp(5)),
        ({PREFIX: "true", IP_T: "5", PREFIX_T: "2"}, WarmIp(5, 0, 2)),
        ({PREFIX: "true", MIN_T: "5", PREFIX_T: "1"}, WarmIp(0, 5, 1)),
        ({PREFIX: "true", IP_T: "0", MIN_T: "0", PREFIX_T: "3"}, WarmPrefix(3)),
    ],
)
def test_exactly_one_target_rules(
    environ: Mapping[str, str], target: WarmTarget, *, lenient: bool
) -> None:
    """An IP target rules before the prefix target, which rules in prefix mode; else the ENI's."""
    settings = parse(environ, lenient=lenient)

    assert settings.target == target
    assert settings.kind is (BlockKind.PREFIX if PREFIX in environ else BlockKind.SECONDARY_IP)


# Single values.


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("+5", 5),
        ("-5", -5),
        ("007", 7),
        ("-0", 0),
        ("0" * 5000 + "1", 1),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", None),
        ("9" * 5000, None),
        ("", None),
        ("+", None),
        ("--1", None),
        (" 5", None),
        ("5\n", None),
        ("1_000", None),
        ("5.0", None),
        ("0x10", None),
        ("1e3", None),
        ("\N{ARABIC-INDIC DIGIT FIVE}", None),
    ],
)
def test_numbers_are_read_as_go_reads_them(text: str, number: int | None) -> None:
    """Only what strconv.Atoi takes is a number: no blank, underscore or foreign digit."""
    assert whole_number(text) == number


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    ("texts", "value"),
    [
        (("1", "t", "T", "TRUE", "true", "True"), True),
        (("0", "f", "F", "FALSE", "false", "False"), False),
    ],
)
def test_booleans_are_gos(texts: tuple[str, ...], *, value: bool, lenient: bool) -> None:
    """Go's twelve spellings are booleans, in both modes."""
    for text in texts:
        assert parse({PREFIX: text}, lenient=lenient).enable_prefix_delegation is value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (ENI_T, "-1"),
        (ENI_T, ""),
        (ENI_T, "one"),
        (IP_T, "five"),
        (IP_T, "100001"),
        (MIN_T, "-5"),
        (PREFIX_T, "1.5"),
        ("MAX_ENI", "0"),
        ("MAX_ENI", "-1"),
        ("IP_COOLDOWN_PERIOD", "-1"),
        ("IP_COOLDOWN_PERIOD", "30s"),
        (PREFIX, "yes"),
        (PREFIX, "tRUE"),
        ("AWS_VPC_ENI_MTU", "9002"),
        ("POD_MTU", "575"),
        ("HTTP_TIMEOUT", "9"),
        ("AWS_VPC_K8S_CNI_LOGLEVEL", "loud"),
        ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "PRNG"),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", "eth"),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", "longer"),
        ("AWS_VPC_K8S_CNI_CONNMARK", "0"),
        ("AWS_VPC_K8S_CNI_CONNMARK", "0x0"),
        ("AWS_VPC_K8S_CNI_CONNMARK", "4294967296"),
        ("AWS_VPC_K8S_CNI_CONNMARK", "010"),
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "10.0.0.0"),
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "10.0.0.0/8,nonsense"),
        ("AWS_EXTERNAL_SERVICE_CIDRS", "fd00::/8"),
        ("AWS_VPC_K8S_PLUGIN_LOG_FILE", "stdout"),
        ("ADDITIONAL_ENI_TAGS", "team=a"),
        ("ADDITIONAL_ENI_TAGS", '["a"]'),
        ("ADDITIONAL_ENI_TAGS", '{"a": 1}'),
        ("ADDITIONAL_ENI_TAGS", "[" * 100_000),
    ],
)
def test_strict_refuses_what_makes_no_sense(name: str, text: str) -> None:
    """A refusal names the variable, the value and what is allowed."""
    (problem,) = problems_of({name: text})

    assert (problem.variable, problem.value) == (name, text)
    assert VARIABLES[name].allowed in problem.reason
    assert str(problem).startswith(f"{name}={text[:60]!r}"[:60])


def test_strict_collects_all_problems() -> None:
    """One error lists every problem, in the order of VARIABLES, one per line."""
    environ = {"MAX_ENI": "0", IP_T: "x", "POD_MTU": "1", ENI_T: "2"}

    problems = problems_of(environ)

    assert [problem.variable for problem in problems] == [IP_T, "MAX_ENI", "POD_MTU"]
    assert len(str(SettingsError(problems)).splitlines()) == len(problems)


def test_the_error_survives_pickling() -> None:
    """A worker process of a sweep can hand the error back."""
    error = SettingsError((Problem(IP_T, "x", "why"),))

    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert again.problems == error.problems
    assert str(again) == "WARM_IP_TARGET='x': why"


@pytest.mark.parametrize(
    ("name", "text", "used", "told"),
    [
        (ENI_T, "-1", "1", "upstream uses 1"),
        (ENI_T, "", "1", "upstream uses 1"),
        (ENI_T, "two", "1", "upstream uses 1"),
        (IP_T, "-5", "0", "upstream uses 0"),
        (IP_T, "five", "0", "upstream uses 0"),
        (MIN_T, "1_0", "0", "upstream uses 0"),
        (PREFIX_T, "many", "0", "upstream uses 0"),
        (PREFIX_T, "-1", "0", "upstream uses 0"),
        ("MAX_ENI", "0", NOT_SET, "the instance type's limit"),
        ("MAX_ENI", "none", NOT_SET, "the instance type's limit"),
        (PREFIX, "yes", "false", "upstream uses false"),
    ],
)
def test_lenient_does_as_upstream_and_says_so(name: str, text: str, used: str, told: str) -> None:
    """Upstream's fallback is used, and the first warning names the variable, value and it."""
    settings = parse({name: text}, lenient=True)

    assert effective(settings)[name] == used
    assert settings.warnings[0].startswith(f"{name}={text!r}")
    assert told in settings.warnings[0]


def test_lenient_has_no_upper_bound() -> None:
    """Upstream bounds no target, so lenient takes what strict calls too large."""
    assert parse({IP_T: "100001"}, lenient=True).warm_ip_target == 100_001
    assert problems_of({IP_T: "100001"})


@pytest.mark.parametrize("text", ["-1", "", "30s", "9" * 30])
def test_a_bad_cooldown_is_refused_in_both_modes(text: str) -> None:
    """Upstream does not start with such an IP_COOLDOWN_PERIOD, so there is nothing to simulate."""
    (problem,) = problems_of({"IP_COOLDOWN_PERIOD": text}, lenient=True)

    assert "does not start" in problem.reason
    assert problems_of({"IP_COOLDOWN_PERIOD": text})


# Variables of other parts, and of none yet.


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("AWS_VPC_ENI_MTU", "1500", "1500"),
        ("AWS_VPC_K8S_CNI_CONNMARK", "128", "0x80"),
        ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "T", "true"),
        ("AWS_VPC_K8S_CNI_LOGLEVEL", "DEBUG", "Debug"),
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", " 10.1.2.3/8, 192.168.0.0/16", None),
        ("CLUSTER_NAME", "prod", "prod"),
        ("ADDITIONAL_ENI_TAGS", '{"team": "a"}', '{"team": "a"}'),
    ],
)
def test_variables_of_other_parts_are_kept_in_one_spelling(
    name: str, text: str, value: str | None
) -> None:
    """`other` has the value in its one spelling, beside the defaults of the rest."""
    settings = parse({name: text}, lenient=False)

    assert settings.other[name] == (value or "10.0.0.0/8,192.168.0.0/16")
    assert settings.other["AWS_VPC_CNI_NODE_PORT_SUPPORT"] == "true"
    assert settings.warnings == ()


def test_other_holds_what_other_parts_read_and_no_more() -> None:
    """Pool variables, unsupported ones and those without a value are not in `other`."""
    other = parse({"ENABLE_MULTI_NIC": "false", IP_T: "5"}, lenient=False).other

    assert {VARIABLES[name].reader for name in other} == {Reader.NETWORK, Reader.DAEMON}
    assert "POD_MTU" not in other
    with pytest.raises(TypeError):
        other["POD_MTU"] = "1500"  # type: ignore[index]


def test_lenient_ignores_what_the_pool_does_not_need() -> None:
    """A bad MTU does not stop a simulation: it is told, and the default stays."""
    settings = parse({"AWS_VPC_ENI_MTU": "1"}, lenient=True)

    assert settings == Settings()
    assert len(settings.warnings) == 1
    assert "AWS_VPC_ENI_MTU='1' is ignored" in settings.warnings[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ENABLE_IPv6", "true"),
        ("ENABLE_IPv4", "false"),
        ("ENABLE_POD_ENI", "1"),
        ("ENABLE_MULTI_NIC", "true"),
        ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"),
        ("DISABLE_NETWORK_RESOURCE_PROVISIONING", "true"),
        ("NETWORK_POLICY_ENFORCING_MODE", "strict"),
    ],
)
def test_what_is_not_supported_yet_is_never_taken_silently(name: str, text: str) -> None:
    """Strict refuses the variable as not supported yet; lenient ignores it and warns."""
    (problem,) = problems_of({name: text})
    settings = parse({name: text}, lenient=True)

    assert "not supported yet" in problem.reason
    assert settings == Settings()
    assert len(settings.warnings) == 1
    assert "not supported yet and ignored" in settings.warnings[0]
    assert parse({name: VARIABLES[name].default or ""}, lenient=False).warnings == ()


# Lint.


@pytest.mark.parametrize(
    ("pairs", "lenient", "starts"),
    [
        ([f"{IP_T}=5", f"{MIN_T}=10"], False, []),
        ([f"{IP_T}=5"], False, [f"{IP_T}=5 without {MIN_T}: starting pods cost many EC2 calls"]),
        ([f"{IP_T}=5", f"{PREFIX}=true"], False, []),
        ([f"{IP_T}=5", f"{MIN_T}=3"], False, [f"{MIN_T}=3 has no effect"]),
        ([f"{IP_T}=5", f"{MIN_T}=5"], False, [f"{MIN_T}=5 has no effect"]),
        ([f"{MIN_T}=5"], True, [f"{MIN_T}=5 without {IP_T}: upstream adds no address beyond"]),
        ([f"{MIN_T}=5"], False, [f"{MIN_T}=5 without {IP_T}: beyond the minimum, addresses are"]),
        ([f"{ENI_T}=0"], True, [f"{ENI_T}=0 without an IP target: upstream attaches"]),
        ([f"{ENI_T}=0"], False, [f"{ENI_T}=0 without an IP target: addresses are added on"]),
        ([f"{ENI_T}=3", "MAX_ENI=2"], False, [f"{ENI_T}=3 is never met with MAX_ENI=2"]),
        ([f"{ENI_T}=1", "MAX_ENI=1"], False, []),
        ([f"{IP_T}=5", f"{MIN_T}=9", f"{ENI_T}=1"], False, [f"{ENI_T}=1 has no effect: the IP"]),
        ([f"{IP_T}=5", f"{MIN_T}=9", f"{ENI_T}=0"], False, [f"{ENI_T}=0 has no effect: the IP"]),
        ([f"{PREFIX}=true", f"{ENI_T}=2"], False, [f"{ENI_T}=2 has no effect: prefix mode"]),
        ([f"{PREFIX_T}=2"], False, [f"{PREFIX_T}=2 has no effect: {PREFIX} is not true"]),
        ([f"{PREFIX}=true", f"{PREFIX_T}=0"], True, [f"{PREFIX_T}=0 without an IP target: up"]),
        ([f"{PREFIX}=true", f"{PREFIX_T}=0"], False, [f"{PREFIX_T}=0 without an IP target: add"]),
        ([f"{PREFIX}=true", f"{PREFIX_T}=0", f"{IP_T}=5"], False, []),
        ([f"{PREFIX}=true", f"{PREFIX_T}=2", f"{IP_T}=5"], False, [f"{PREFIX_T}=2 adds nothing"]),
        (["IP_COOLDOWN_PERIOD=0"], False, ["IP_COOLDOWN_PERIOD=0: a released address"]),
    ],
)
def test_lint(pairs: list[str], starts: list[str], *, lenient: bool) -> None:
    """Each surprising configuration has its warning, an ordinary one has none."""
    warnings = parse_assignments(pairs, lenient=lenient).warnings

    assert len(warnings) == len(starts), warnings
    for warning, start in zip(warnings, starts, strict=True):
        assert warning.startswith(start)


def test_defaults_spelled_out_by_a_manifest_are_not_warned_of() -> None:
    """The chart sets every target; only what differs from it counts as meant."""
    manifest = {**CHART, IP_T: "5", MIN_T: "10"}

    assert parse(manifest, lenient=True).warnings == ()
    assert parse({**manifest, ENI_T: "2"}, lenient=True).warnings == (
        "WARM_ENI_TARGET=2 has no effect: the IP target rules",
    )


# Names.


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ("WARM_IP_TARGETS=5", "did you mean WARM_IP_TARGET"),
        ("WARM_TARGET=5", "WARM_ENI_TARGET"),
        ("warm_ip_target=5", "WARM_IP_TARGET (only upper and lower case differ)"),
        ("ENABLE_IPV6=true", "ENABLE_IPv6 (only upper and lower case differ)"),
        ("ENABLE_NFTABLES=true", "upstream knew it until 1.13.0"),
        ("xyzzy=1", "unknown variable"),
        ("=1", "unknown variable"),
        (" WARM_IP_TARGET=5", "did you mean WARM_IP_TARGET"),
        ("WARM_IP_TARGET", "no value: write KEY=VALUE"),
        ("", "no value: write KEY=VALUE"),
    ],
)
def test_an_assignment_must_name_a_variable(pair: str, told: str, *, lenient: bool) -> None:
    """An unknown name is refused in both modes, with the names it may have meant."""
    with pytest.raises(SettingsError) as caught:
        parse_assignments([pair], lenient=lenient)

    (problem,) = caught.value.problems
    assert told in problem.reason


def test_a_name_given_twice_must_agree() -> None:
    """The same value twice is harmless, another value is refused and names both."""
    assert parse_assignments(["MAX_ENI=2", "MAX_ENI=2"], lenient=False).max_eni == 2
    with pytest.raises(SettingsError, match="MAX_ENI='3': given before as '2'"):
        parse_assignments(["MAX_ENI=2", "MAX_ENI=3"], lenient=True)


def test_assignments_report_names_and_values_together() -> None:
    """Unknown names and refused values come in one error."""
    with pytest.raises(SettingsError) as caught:
        parse_assignments(["WARM_IP=5", "MAX_ENI=0", "oops"], lenient=False)

    assert [problem.variable for problem in caught.value.problems] == [
        "WARM_IP",
        "oops",
        "MAX_ENI",
    ]


def test_a_value_may_hold_equals_signs() -> None:
    """Only the first "=" parts name and value."""
    settings = parse_assignments(["CLUSTER_NAME=a=b"], lenient=False)

    assert settings.other["CLUSTER_NAME"] == "a=b"


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    "name",
    ["WARM_IP_TARGETS", "WARM_TARGET", "MINIMUM_IP", "ENABLE_PREFIX_DELEGATON", "warm_ip_target"],
)
def test_an_environment_with_a_mistyped_variable_warns(name: str, *, lenient: bool) -> None:
    """What looks like a warm-pool variable and is none is told, and has no effect."""
    settings = parse({name: "5"}, lenient=lenient)

    assert settings == Settings()
    (warning,) = settings.warnings
    assert warning.startswith(f"{name} has no effect: unknown variable")


def test_an_environment_holds_much_that_is_not_ours() -> None:
    """Names that only share a beginning, or nothing, are ignored."""
    environ = {"PATH": "/bin", "WARM_CACHE_SERVICE_HOST": "10.0.0.1", "AWS_REGION": "eu-west-1"}

    assert parse(environ, lenient=False).warnings == ()


# Reports and the table itself.


def test_effective_values_come_in_a_fixed_order() -> None:
    """Reports show the pool's variables in the order of VARIABLES, whatever was set."""
    expected = {
        PREFIX: "false",
        ENI_T: "1",
        IP_T: "0",
        MIN_T: "0",
        PREFIX_T: NOT_SET,
        "MAX_ENI": NOT_SET,
        "IP_COOLDOWN_PERIOD": "30",
    }

    assert list(effective(Settings()).items()) == list(expected.items())
    assert tuple(expected) == POOL
    assert effective(Settings(enable_prefix_delegation=True))[PREFIX_T] == "1"


def test_the_table_is_consistent() -> None:
    """Every default is allowed and in its one spelling; every variable says what it means."""
    for name, variable in VARIABLES.items():
        assert variable.name == name
        assert variable.meaning
        if variable.default is not None:
            assert variable.form.read(variable.default) == variable.default
    assert tuple(name for name, v in VARIABLES.items() if v.reader is Reader.ALLOCATOR) == POOL


def test_settings_are_values() -> None:
    """Settings can be compared, hashed and pickled; how they were given does not count."""
    warned = parse({IP_T: "5", MIN_T: "3", "POD_MTU": "1500"}, lenient=False)
    quiet = Settings(warm_ip_target=5, minimum_ip_target=3, other_values=(("POD_MTU", "1500"),))

    assert warned.warnings
    assert warned == quiet
    assert hash(warned) == hash(quiet)
    again = pickle.loads(pickle.dumps(warned))  # noqa: S301 - our own bytes
    assert again.warnings == warned.warnings


# Any input at all.

names = st.sampled_from([*VARIABLES, "WARM_IP_TARGETS", "ENABLE_NFTABLES"]) | st.text()
texts = (
    st.text()
    | st.integers(-2, 200_000).map(str)
    | st.sampled_from(["true", "0", "", "{}", "10.0.0.0/8", "Info", "1" * 30, "\ud800"])
)
pool_texts = st.dictionaries(st.sampled_from(POOL), st.integers(0, 99).map(str))


def outcome(read: Callable[[], Settings]) -> Settings | SettingsError:
    """Return the settings, or the one error that is allowed."""
    try:
        return read()
    except SettingsError as error:
        return error


def printable(result: Settings | SettingsError) -> bool:
    """Whether every warning or problem is one line that any terminal takes."""
    lines = result.problems if isinstance(result, SettingsError) else result.warnings
    return all(len(str(line).encode().splitlines()) == 1 for line in lines)


@given(st.dictionaries(names, texts))
def test_strict_gives_settings_or_the_one_error(environ: dict[str, str]) -> None:
    """No text makes parse fail in another way, and all it says is printable."""
    result = outcome(lambda: parse(environ, lenient=False))

    assert printable(result)
    assert isinstance(result, Settings) or result.problems


@given(st.dictionaries(names, texts))
def test_lenient_refuses_a_cooldown_and_nothing_else(environ: dict[str, str]) -> None:
    """Whatever else the environment holds, upstream would start, and so do we."""
    result = outcome(lambda: parse(environ, lenient=True))

    assert printable(result)
    if isinstance(result, SettingsError):
        assert [problem.variable for problem in result.problems] == ["IP_COOLDOWN_PERIOD"]
    else:
        assert min(result.warm_eni_target, result.warm_ip_target, result.minimum_ip_target) >= 0
        assert result.max_eni is None or result.max_eni >= 1


@given(st.lists(st.text() | st.tuples(names, texts).map("=".join)))
def test_assignments_give_settings_or_the_one_error(pairs: list[str]) -> None:
    """No list of texts makes parse_assignments fail in another way."""
    assert printable(outcome(lambda: parse_assignments(pairs, lenient=False)))
    assert printable(outcome(lambda: parse_assignments(pairs, lenient=True)))


@given(pool_texts | st.dictionaries(st.sampled_from(POOL), texts, max_size=2))
def test_strict_never_takes_what_lenient_reads_otherwise(environ: dict[str, str]) -> None:
    """Where strict accepts, lenient gives the same settings."""
    strict = outcome(lambda: parse(environ, lenient=False))

    assert isinstance(strict, SettingsError) or parse(environ, lenient=True) == strict


@given(pool_texts)
def test_effective_values_mean_the_same_again(environ: dict[str, str]) -> None:
    """Given to parse, the values of a report make the same pool, and the same report."""
    settings = parse(environ, lenient=True)
    shown = {name: text for name, text in effective(settings).items() if text != NOT_SET}

    again = parse(shown, lenient=False)

    assert (again.target, again.kind, again.max_eni) == (
        settings.target,
        settings.kind,
        settings.max_eni,
    )
    assert effective(again) == effective(settings)
