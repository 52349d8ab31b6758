"""What a runtime asks: `CNI_*` variables and standard input become one `Command`. PURE.

Everything the specification says of an invocation is checked here, once, so that whoever serves a
command trusts its values. Keys that the specification does not name are kept in `NetConf.raw` and
otherwise ignored. Sections named are those of CNI spec 1.1.0.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from cni.spec.errors import CniError, Code

SUPPORTED = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Spec versions that are spoken, oldest first."""

CONFIG_BYTES_MAX = 1 << 20
CONTAINER_ID_MAX = 200
"""Characters; with an interface's name it is a file name in the plug-in's tombstones."""
IFNAME_BYTES_MAX = 15
"""IFNAMSIZ less its NUL."""

_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
# libcni wrote the second name for a while (its issue 1101) and sends both since.
_ATTACHMENTS = ("cni.dev/valid-attachments", "cni.dev/attachments")
_SHOWN = 60


@dataclass(frozen=True, slots=True, order=True)
class Attachment:
    """One container's interface on the network, as GC names it."""

    container_id: str
    ifname: str


@dataclass(frozen=True, slots=True)
class NetConf:
    """The network configuration; `raw` is all of it, `prev_result` not looked into yet.

    `valid_attachments` is None where the configuration names none, which only GC minds.
    """

    cni_version: str
    name: str
    type: str
    prev_result: Mapping[str, object] | None
    valid_attachments: tuple[Attachment, ...] | None
    raw: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Add:
    """Give a container an interface on the network."""

    conf: NetConf
    container_id: str
    ifname: str
    netns: str
    args: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Del:
    """Undo an ADD; `netns` is empty where the runtime has none left, and `prev_result` may lack."""

    conf: NetConf
    container_id: str
    ifname: str
    netns: str
    args: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Check:
    """Tell whether what an ADD made is still there; `conf.prev_result` is never None."""

    conf: NetConf
    container_id: str
    ifname: str
    netns: str
    args: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Gc:
    """Undo every ADD but those of `conf.valid_attachments`, which is never None."""

    conf: NetConf


@dataclass(frozen=True, slots=True)
class Status:
    """Tell whether an ADD could be served now."""

    conf: NetConf


@dataclass(frozen=True, slots=True)
class Version:
    """Tell which spec versions are spoken; the version the runtime wrote is not checked."""

    cni_version: str


Command = Add | Del | Check | Gc | Status | Version

_OF_A_SANDBOX: Mapping[str, type[Add | Del | Check]] = {"ADD": Add, "DEL": Del, "CHECK": Check}


def parse(variables: Mapping[str, str], stdin: bytes) -> Command:
    """Return what the runtime asks; CniError with the spec's code when it asks amiss."""
    name = variables.get("CNI_COMMAND", "")
    if name not in _COMMANDS:
        _refuse_variable("CNI_COMMAND", name, f"one of {', '.join(_COMMANDS)}")
    if name == "VERSION":
        return Version(asked_version(stdin))
    raw = _object(stdin)
    version = _supported_version(raw, name)
    conf = _net_conf(raw, version)
    if name == "GC":
        if conf.valid_attachments is None:
            # To take a missing list for an empty one would undo every ADD of the node.
            raise CniError(Code.INVALID_CONFIG, f"GC needs the list {_ATTACHMENTS[0]!r}")
        return Gc(conf)
    if name == "STATUS":
        return Status(conf)
    if name == "CHECK" and conf.prev_result is None:
        raise CniError(Code.INVALID_CONFIG, "CHECK needs prevResult, the result of the ADD")
    kind = _OF_A_SANDBOX[name]
    return kind(
        conf=conf,
        container_id=_container_id(variables.get("CNI_CONTAINERID", "")),
        ifname=_ifname(variables.get("CNI_IFNAME", "")),
        netns=_netns(variables.get("CNI_NETNS", ""), optional=name == "DEL"),
        args=parse_args(variables.get("CNI_ARGS", "")),
    )


def asked_version(stdin: bytes) -> str:
    """Return the spec version to answer in: the configuration's, or the newest if it has none.

    Never raises, because an answer to what cannot be parsed needs a version too.

    >>> asked_version(b'{"cniVersion": "0.4.0"}'), asked_version(b"nonsense")
    ('0.4.0', '1.1.0')
    """
    try:
        version = _object(stdin).get("cniVersion")
    except CniError:
        return SUPPORTED[-1]
    return version if isinstance(version, str) and version in SUPPORTED else SUPPORTED[-1]


def parse_args(text: str) -> dict[str, str]:
    """Return the pairs of CNI_ARGS, in whatever order they come; CniError when one is amiss.

    >>> parse_args("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0")
    {'IgnoreUnknown': '1', 'K8S_POD_NAMESPACE': 'default', 'K8S_POD_NAME': 'web-0'}
    """
    args: dict[str, str] = {}
    for pair in text.split(";") if text else ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            _refuse_variable("CNI_ARGS", pair, "pairs KEY=VALUE parted by semicolons")
        if key in args:
            _refuse_variable("CNI_ARGS", pair, "pairs with different keys")
        args[key] = value
    return args


# The configuration.


def _object(stdin: bytes) -> dict[str, object]:
    """Decode the configuration as far as to a JSON object."""
    if len(stdin) > CONFIG_BYTES_MAX:
        raise CniError(
            Code.INVALID_CONFIG,
            f"the network configuration has {len(stdin)} bytes; at most {CONFIG_BYTES_MAX} go",
        )
    try:
        # Go's decoder knows neither NaN nor Infinity, and libcni is who wrote this.
        raw = json.loads(stdin.decode("utf-8"), parse_constant=_not_json)
    except RecursionError:
        raise CniError(Code.UNDECODABLE, "the network configuration is nested too deeply") from None
    except ValueError as error:
        raise CniError(
            Code.UNDECODABLE, "the network configuration is not JSON", _line(str(error))
        ) from None
    if not isinstance(raw, dict):
        raise CniError(Code.UNDECODABLE, "the network configuration is not a JSON object")
    return raw


def _not_json(constant: str) -> NoReturn:
    """Refuse a number that Python's decoder knows and JSON does not."""
    raise ValueError(f"{constant} is no JSON number")


def _supported_version(raw: Mapping[str, object], command: str) -> str:
    """Return the configuration's version if it is spoken and has the command (section 2)."""
    version = raw.get("cniVersion", "")
    if not isinstance(version, str):
        raise CniError(Code.INVALID_CONFIG, "cniVersion must be a string")
    if version not in SUPPORTED:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {_shown(version)} is not supported",
            f"supported versions are {', '.join(SUPPORTED)}; set one in the network configuration",
        )
    since = _SINCE.get(command, SUPPORTED[0])
    if SUPPORTED.index(version) < SUPPORTED.index(since):
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {version} has no {command}; it came with {since}",
        )
    return version


def _net_conf(raw: Mapping[str, object], version: str) -> NetConf:
    """Check the well-known keys (section 1, "Plugin configuration objects")."""
    name = raw.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CniError(
            Code.INVALID_CONFIG,
            f"the network's name {_shown(name)} must begin with a letter or digit and hold only "
            "letters, digits, '_', '.' and '-'",
        )
    kind = raw.get("type")
    if not isinstance(kind, str) or not kind:
        raise CniError(Code.INVALID_CONFIG, "the network configuration names no plug-in type")
    previous = raw.get("prevResult")
    if previous is not None and not isinstance(previous, dict):
        raise CniError(Code.INVALID_CONFIG, "prevResult must be an object")
    return NetConf(version, name, kind, previous, _attachments(raw), raw)


def _attachments(raw: Mapping[str, object]) -> tuple[Attachment, ...] | None:
    """Return the attachments that GC is to keep, or None where no key says so."""
    key = next((key for key in _ATTACHMENTS if key in raw), None)
    if key is None:
        return None
    # Go writes an empty list that was never made as null.
    entries = raw[key] if raw[key] is not None else []
    if not isinstance(entries, list):
        raise CniError(Code.INVALID_CONFIG, f"{key} must be a list")
    return tuple(_attachment(entry, f"{key}[{n}]") for n, entry in enumerate(entries))


def _attachment(entry: object, where: str) -> Attachment:
    """Check one attachment; a wrong one ends GC, which must never undo too much."""
    if not isinstance(entry, dict):
        raise CniError(Code.INVALID_CONFIG, f"{where} must be an object")
    container_id, ifname = entry.get("containerID"), entry.get("ifname")
    if not isinstance(container_id, str) or not isinstance(ifname, str):
        raise CniError(Code.INVALID_CONFIG, f"{where} needs the texts containerID and ifname")
    return Attachment(container_id, ifname)


# The variables.


def _container_id(value: str) -> str:
    """Check CNI_CONTAINERID (section 2, "Parameters")."""
    if not _NAME.fullmatch(value) or len(value) > CONTAINER_ID_MAX:
        _refuse_variable(
            "CNI_CONTAINERID",
            value,
            f"1 to {CONTAINER_ID_MAX} letters, digits, '_', '.' and '-', a letter or digit first",
        )
    return value


def _ifname(value: str) -> str:
    """Check CNI_IFNAME (section 2, "Parameters"; the kernel's dev_valid_name agrees)."""
    # Bytes that are no UTF-8, here as surrogates, would be lost in the JSON of the result.
    bad = value in ("", ".", "..") or any(
        c in "/:\0" or c.isspace() or "\ud800" <= c <= "\udfff" for c in value
    )
    if bad or len(value.encode()) > IFNAME_BYTES_MAX:
        _refuse_variable(
            "CNI_IFNAME",
            value,
            f"1 to {IFNAME_BYTES_MAX} bytes of UTF-8 without '/', ':' or blanks, "
            "and neither '.' nor '..'",
        )
    return value


def _netns(value: str, *, optional: bool) -> str:
    """Check CNI_NETNS, which a DEL may leave empty."""
    if (value or not optional) and (not value.startswith("/") or "\0" in value):
        _refuse_variable("CNI_NETNS", value, "the absolute path of a network namespace")
    return value


def _refuse_variable(name: str, value: str, allowed: str) -> NoReturn:
    """Raise the spec's error for a variable that is missing or amiss."""
    said = f"is {_shown(value)}" if value else "is missing or empty"
    raise CniError(Code.INVALID_ENVIRONMENT, f"{name} {said}; it must be {allowed}")


def _shown(value: object) -> str:
    """Quote a value for a message, on one line and cut where it is long.

    >>> _shown("x" * 100) == "'" + "x" * 60 + "...'"
    True
    """
    if not isinstance(value, str):
        return "(missing)" if value is None else f"({type(value).__name__})"
    return ascii(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")


def _line(text: str) -> str:
    """Return a decoder's words on one line."""
    return " ".join(text.split())
