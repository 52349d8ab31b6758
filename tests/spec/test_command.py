"""What a runtime asks is taken as the specification says, or refused with its code."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cni.spec.command import (
    CONFIG_BYTES_MAX,
    SUPPORTED,
    Add,
    Attachment,
    Check,
    Del,
    Gc,
    Status,
    Version,
    asked_version,
    parse,
    parse_args,
)
from cni.spec.errors import CniError, Code, error_json

ADD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/cni-1",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
    "CNI_PATH": "/opt/cni/bin",
}
CONF = {"cniVersion": "1.0.0", "name": "aws-cni", "type": "aws-cni", "mtu": "9001"}
PREVIOUS = {"cniVersion": "1.0.0", "interfaces": [], "ips": []}
KEPT = "cni.dev/valid-attachments"


def conf(**changes: object) -> bytes:
    """Return a configuration with keys changed, or taken out by None."""
    keys = {**CONF, **changes}
    return json.dumps({key: value for key, value in keys.items() if value is not None}).encode()


def refusal(variables: Mapping[str, str], stdin: bytes) -> CniError:
    """Return the error of a command that must be refused, on one line."""
    with pytest.raises(CniError) as caught:
        parse(variables, stdin)
    assert caught.value.message
    assert "\n" not in caught.value.message + caught.value.details
    return caught.value


@pytest.mark.parametrize("version", SUPPORTED)
def test_an_add_is_taken_in_every_version(version: str) -> None:
    """All that the allocator and the network need is there, and unknown keys are kept aside."""
    add = parse(ADD, conf(cniVersion=version, runtimeConfig={"x": [1]}))

    assert isinstance(add, Add)
    assert (add.container_id, add.ifname, add.netns) == ("c0ffee", "eth0", "/run/netns/cni-1")
    assert add.args["K8S_POD_NAME"] == "web-0"
    assert (add.conf.cni_version, add.conf.name, add.conf.type) == (version, "aws-cni", "aws-cni")
    assert add.conf.prev_result is None
    assert add.conf.raw["mtu"] == "9001"


@pytest.mark.parametrize("variables", [{**ADD, "CNI_NETNS": ""}, ADD])
@pytest.mark.parametrize("previous", [None, PREVIOUS])
def test_a_del_may_lack_namespace_and_previous_result(
    variables: Mapping[str, str], previous: object
) -> None:
    """The second DEL of containerd carries neither (CNI spec, section 2, "DEL")."""
    command = parse({**variables, "CNI_COMMAND": "DEL"}, conf(prevResult=previous))

    assert isinstance(command, Del)
    assert command.netns == variables["CNI_NETNS"]
    assert command.conf.prev_result == previous


def test_a_variable_that_lacks_altogether_is_an_empty_one() -> None:
    """DEL without CNI_NETNS, CNI_ARGS and CNI_PATH is complete."""
    told = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c0ffee", "CNI_IFNAME": "eth0"}

    command = parse(told, conf())

    assert isinstance(command, Del)
    assert (command.netns, command.args) == ("", {})


def test_a_check_needs_its_previous_result() -> None:
    """CHECK compares with what the ADD returned."""
    check = {**ADD, "CNI_COMMAND": "CHECK"}

    assert isinstance(parse(check, conf(prevResult=PREVIOUS)), Check)
    assert refusal(check, conf()).code is Code.INVALID_CONFIG


@pytest.mark.parametrize(
    ("command", "first"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")]
)
@pytest.mark.parametrize("version", SUPPORTED)
def test_a_command_is_known_from_its_version_on(command: str, first: str, version: str) -> None:
    """CHECK came with 0.4.0, GC and STATUS with 1.1.0; before, they are error 1."""
    told = {**ADD, "CNI_COMMAND": command}
    stdin = conf(cniVersion=version, prevResult=PREVIOUS, **{KEPT: []})

    if SUPPORTED.index(version) >= SUPPORTED.index(first):
        assert isinstance(parse(told, stdin), {"CHECK": Check, "GC": Gc, "STATUS": Status}[command])
    else:
        error = refusal(told, stdin)
        assert error.code is Code.INCOMPATIBLE_VERSION
        assert first in error.message


@pytest.mark.parametrize("version", ["", "0.1.0", "0.2.0", "0.3.0", "1.2.0", "2.0.0", "1.0", "x"])
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_a_version_that_is_not_spoken_is_error_1(command: str, version: str) -> None:
    """The spec's error 1 names what is supported."""
    error = refusal({**ADD, "CNI_COMMAND": command}, conf(cniVersion=version))

    assert error.code is Code.INCOMPATIBLE_VERSION
    assert "1.1.0" in error.details


def test_a_configuration_without_version_is_error_1() -> None:
    """None means 0.1.0 to libcni, which is not spoken."""
    assert refusal(ADD, conf(cniVersion=None)).code is Code.INCOMPATIBLE_VERSION


def test_version_is_answered_whatever_is_said() -> None:
    """VERSION needs nothing but itself."""
    version = {"CNI_COMMAND": "VERSION"}

    assert parse(version, b'{"cniVersion":"0.4.0"}') == Version("0.4.0")
    assert parse(version, b"") == Version("1.1.0")


@pytest.mark.parametrize("key", [KEPT, "cni.dev/attachments"])
def test_gc_names_what_is_to_stay(key: str) -> None:
    """Containers and interfaces, in the order given; libcni's older key is read too."""
    kept = [
        {"containerID": "b", "ifname": "eth0", "more": 1},
        {"containerID": "a", "ifname": "net1"},
    ]

    command = parse({"CNI_COMMAND": "GC"}, conf(cniVersion="1.1.0", **{key: kept}))

    assert isinstance(command, Gc)
    assert command.conf.valid_attachments == (Attachment("b", "eth0"), Attachment("a", "net1"))


def test_gc_with_a_list_of_nothing_keeps_nothing() -> None:
    """Go writes null for a list that was never made; both mean that no container is left."""
    for none in (b"[]", b"null"):
        stdin = conf(cniVersion="1.1.0")[:-1] + b', "cni.dev/valid-attachments": ' + none + b"}"
        command = parse({"CNI_COMMAND": "GC"}, stdin)
        assert isinstance(command, Gc)
        assert command.conf.valid_attachments == ()


@pytest.mark.parametrize(
    "kept", [None, {}, "all", 1, [None], ["a"], [{}], [{"containerID": "a"}], [{"ifname": "eth0"}]]
)
def test_gc_that_does_not_say_what_stays_is_refused(kept: object) -> None:
    """A list that is missing or unreadable must not pass for an empty one."""
    error = refusal({"CNI_COMMAND": "GC"}, conf(cniVersion="1.1.0", **{KEPT: kept}))

    assert error.code is Code.INVALID_CONFIG
    assert KEPT in error.message


@pytest.mark.parametrize("name", ["", "add", "ADD ", "UPDATE", "\0"])
def test_a_command_that_is_none_is_error_4(name: str) -> None:
    """The message lists the commands there are."""
    error = refusal({**ADD, "CNI_COMMAND": name}, conf())

    assert error.code is Code.INVALID_ENVIRONMENT
    assert "STATUS" in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("CNI_CONTAINERID", text) for text in ("", "-a", ".a", "_a", "a/b", "a b", "é", "a\n")),
        ("CNI_CONTAINERID", "a" * 201),
        *(("CNI_IFNAME", text) for text in ("", ".", "..", "a/b", "a:b", "a b", "a\t", "a\n")),
        *(("CNI_IFNAME", text) for text in ("i" * 16, "é" * 8, "a\0", "a\u2003b", "\udcff")),
        *(("CNI_NETNS", text) for text in ("", "netns", "./x", "/run/\0")),
        *(("CNI_ARGS", text) for text in ("x", "=1", "A=1;", ";", "A=1;B", "A=1;A=2", "A=1;;B=2")),
    ],
)
def test_a_variable_that_is_amiss_is_error_4(name: str, value: str) -> None:
    """The message names the variable and what it must be."""
    error = refusal({**ADD, name: value}, conf())

    assert error.code is Code.INVALID_ENVIRONMENT
    assert error.message.startswith(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("CNI_CONTAINERID", text) for text in ("a", "0", "Z_.-9", "a" * 200)),
        *(("CNI_IFNAME", text) for text in ("e", "i" * 15, "...", "a.b", "eth0@x", "é" * 7)),
        ("CNI_NETNS", "/proc/1/ns/net"),
        *(("CNI_ARGS", text) for text in ("", "A=", "B=1;A=2", "A=b=c")),
    ],
)
def test_a_variable_as_the_spec_allows_it_is_taken(name: str, value: str) -> None:
    """Strict is not narrow."""
    parse({**ADD, name: value}, conf())


def test_arguments_come_in_any_order() -> None:
    """A containerd shuffles them from one command to the next."""
    assert parse_args("A=1;B=2") == parse_args("B=2;A=1") == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    ("stdin", "code"),
    [
        (b"", Code.UNDECODABLE),
        (b"{", Code.UNDECODABLE),
        (b"[]", Code.UNDECODABLE),
        (b"null", Code.UNDECODABLE),
        (b"\xff\xfe{\0}\0", Code.UNDECODABLE),
        (b'{"a":"\xff"}', Code.UNDECODABLE),
        (b'{"a":NaN}', Code.UNDECODABLE),
        (b'{"a":' + b"9" * 5000 + b"}", Code.UNDECODABLE),
        (b"[" * 100_000, Code.UNDECODABLE),
        (b'{"a":' * 100_000, Code.UNDECODABLE),
        (b" " * (CONFIG_BYTES_MAX + 1), Code.INVALID_CONFIG),
        (conf(cniVersion=1), Code.INVALID_CONFIG),
        (conf(name=None), Code.INVALID_CONFIG),
        (conf(name=""), Code.INVALID_CONFIG),
        (conf(name="-x"), Code.INVALID_CONFIG),
        (conf(name="a b"), Code.INVALID_CONFIG),
        (conf(name="a\n"), Code.INVALID_CONFIG),
        (conf(name=7), Code.INVALID_CONFIG),
        (conf(type=None), Code.INVALID_CONFIG),
        (conf(type=""), Code.INVALID_CONFIG),
        (conf(type=[]), Code.INVALID_CONFIG),
        (conf(prevResult="x"), Code.INVALID_CONFIG),
        (conf(prevResult=[]), Code.INVALID_CONFIG),
    ],
)
def test_a_configuration_that_is_amiss_has_its_code(stdin: bytes, code: Code) -> None:
    """Not JSON is error 6, JSON that breaks a rule is error 7."""
    assert refusal(ADD, stdin).code is code


TEXT = st.text(st.characters(codec=None), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
KEYS = ["cniVersion", "name", "type", "prevResult", KEPT, "cni.dev/attachments", "x"]


@given(
    st.dictionaries(st.sampled_from([*ADD, "CNI_X"]), TEXT),
    st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", ""]),
    st.one_of(
        st.binary(),
        st.dictionaries(st.sampled_from(KEYS), JSON).map(lambda keys: conf(**keys)),
    ),
)
@example({"CNI_CONTAINERID": "\ud800"}, "ADD", conf())
@example({"CNI_NETNS": "/\ud800"}, "ADD", conf(name="\ud800"))
def test_whatever_is_asked_ends_in_a_command_or_a_cni_error(
    changes: Mapping[str, str], command: str, stdin: bytes
) -> None:
    """No input of any kind ends in another exception, and every error has its JSON."""
    try:
        parse({**ADD, **changes, "CNI_COMMAND": command}, stdin)
    except CniError as error:
        shown = json.loads(error_json(error, asked_version(stdin)))
    else:
        return
    assert shown["code"] in (1, 4, 6, 7)
    assert shown["msg"]


def test_an_error_says_its_code_to_people_too() -> None:
    """What a log shows of an error holds message and code."""
    error = CniError(Code.TRY_AGAIN_LATER, "no address is free", "10 of 10 are assigned")

    assert str(error) == "no address is free (CNI error 11)"
    assert json.loads(error_json(error, "0.4.0")) == {
        "cniVersion": "0.4.0",
        "code": 11,
        "msg": "no address is free",
        "details": "10 of 10 are assigned",
    }
