"""The environment variables of amazon-vpc-cni-k8s: names, defaults, forms, readers. Data only.

Names and meanings are those of upstream v1.23; defaults are those of a node deployed with
upstream's chart. What a value does to the warm pool is `settings.py`'s to say; here stands only
how its text must look. PURE: nothing here reads an environment.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network
from types import MappingProxyType

MOST = 100_000
"""Upper bound of a number nobody bounds otherwise: more than any node can hold."""

OURS = "none"
"""What `since` says of a variable that upstream does not have."""

_INT64 = 1 << 63


class Reader(Enum):
    """Which part of the plug-in reads a variable."""

    ALLOCATOR = "allocator"
    NETWORK = "network"
    DAEMON = "daemon"
    NOT_SUPPORTED = "not supported yet"


@dataclass(frozen=True, slots=True)
class Form:
    """How the text of a value must look; `read` gives it in one spelling or raises ValueError."""

    type: str
    allowed: str
    read: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable: `default` is the chart's, `code_default` what upstream's code falls back to.

    None is not set; `since` is upstream's first release that has the name.
    """

    name: str
    reader: Reader
    since: str
    default: str | None
    code_default: str | None
    form: Form
    meaning: str

    @property
    def type(self) -> str:
        """The kind of value, in a word or two."""
        return self.form.type

    @property
    def allowed(self) -> str:
        """What a value may be, for people."""
        return self.form.allowed


def whole_number(text: str) -> int | None:
    """Read a decimal number as Go's strconv.Atoi does; None where that is an error.

    >>> whole_number("+07"), whole_number("1_000"), whole_number(" 5")
    (7, None, None)
    """
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        return None
    digits = text.lstrip("+-").lstrip("0") or "0"
    # Python refuses to read thousands of digits; int64 ends after nineteen.
    if len(digits) > 19:  # noqa: PLR2004, as said
        return None
    number = -int(digits) if text.startswith("-") else int(digits)
    return number if -_INT64 <= number < _INT64 else None


def _integer(low: int, high: int = MOST) -> Form:
    def read(text: str) -> str:
        number = whole_number(text)
        if number is None or not low <= number <= high:
            raise ValueError
        return str(number)

    return Form("whole number", f"a whole number from {low} to {high}", read)


def _choice(*words: str, any_case: bool = False) -> Form:
    spellings = {word.lower() if any_case else word: word for word in words}

    def read(text: str) -> str:
        word = spellings.get(text.lower() if any_case else text)
        if word is None:
            raise ValueError
        return word

    return Form("choice", "one of " + ", ".join(words), read)


def _read_boolean(text: str) -> str:
    # The spellings of Go's strconv.ParseBool, and no other.
    if text in {"1", "t", "T", "TRUE", "true", "True"}:
        return "true"
    if text in {"0", "f", "F", "FALSE", "false", "False"}:
        return "false"
    raise ValueError


def _read_cidrs(text: str) -> str:
    networks = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        # Go's net.ParseCIDR wants a length; ipaddress would take none, or a mask.
        if not re.fullmatch(r"[0-9.]+/[0-9]{1,2}", item):
            raise ValueError
        networks.append(str(IPv4Network(item, strict=False)))
    return ",".join(networks)


def _read_tags(text: str) -> str:
    try:
        tags = json.loads(text)
    except RecursionError as error:
        raise ValueError from error
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise ValueError
    return text


def _read_mark(text: str) -> str:
    # Octal is not read: nobody who writes 010 can be sure what it means.
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}|[1-9][0-9]{0,9}", text):
        raise ValueError
    mark = int(text, 0)
    if not 0 < mark < 1 << 32:
        raise ValueError
    return hex(mark)


def _read_veth_prefix(text: str) -> str:
    # Upstream's start-up check, and what the kernel takes as a name (no blank, slash or colon).
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,4}", text) or text in {"eth", "lo", "vlan", ".", ".."}:
        raise ValueError
    return text


def _read_plugin_log(text: str) -> str:
    # A plug-in's standard output belongs to its CNI result.
    if text == "stdout":
        raise ValueError
    return text


_BOOLEAN = Form(
    "boolean", "true or false (or 1, t, T, TRUE, True, 0, f, F, FALSE, False)", _read_boolean
)
_TEXT = Form("text", "any text", str)
_CIDRS = Form("CIDR list", "IPv4 CIDRs with commas between, or empty", _read_cidrs)
_TAGS = Form("JSON object", "a JSON object of texts", _read_tags)
_MARK = Form("mark", "a number from 1 to 0xffffffff, decimal or with 0x", _read_mark)
_VETH = Form("text", "1 to 4 letters, digits or _ . -, but not eth, lo or vlan", _read_veth_prefix)
_PLUGIN_LOG = Form("text", "a path or stderr, but not stdout", _read_plugin_log)
_LEVEL = _choice("Debug", "Info", "Warn", "Error", "Fatal", any_case=True)
_TARGET = _integer(0)
_MTU = _integer(576, 9001)


_Row = tuple[str, str, str | None, Form, str]
# Name, since, default of the chart, form, meaning.

_ALLOCATOR: tuple[_Row, ...] = (
    ("ENABLE_PREFIX_DELEGATION", "1.9.0", "false", _BOOLEAN, "/28 prefixes, not secondary IPs"),
    ("WARM_ENI_TARGET", "1.0.0", "1", _TARGET, "ENIs' worth of addresses kept available"),
    ("WARM_IP_TARGET", "1.1.0", "0", _TARGET, "addresses kept available; 0 is not set"),
    ("MINIMUM_IP_TARGET", "1.6.0", "0", _TARGET, "fewest addresses in the pool; 0 is not set"),
    ("WARM_PREFIX_TARGET", "1.9.0", "1", _TARGET, "prefixes' worth of addresses kept available"),
    ("MAX_ENI", "1.4.0", None, _integer(1), "most ENIs; not set: the instance type's limit"),
    ("IP_COOLDOWN_PERIOD", "1.15.0", "30", _TARGET, "seconds before an address is held again"),
)

_NETWORK: tuple[_Row, ...] = (
    ("AWS_EXTERNAL_SERVICE_CIDRS", "1.12.6", "", _CIDRS, "CIDRs always left to the main table"),
    ("AWS_VPC_CNI_NODE_PORT_SUPPORT", "1.2.0", "true", _BOOLEAN, "rules for NodePort replies"),
    ("AWS_VPC_ENI_MTU", "1.6.0", "9001", _MTU, "MTU of ENIs, in bytes"),
    ("AWS_VPC_K8S_CNI_CONNMARK", "1.2.0", "0x80", _MARK, "mark bit of NodePort connections"),
    ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "1.6.0", "", _CIDRS, "CIDRs reached without SNAT"),
    ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "1.1.0", "false", _BOOLEAN, "SNAT is done elsewhere"),
    (
        "AWS_VPC_K8S_CNI_RANDOMIZESNAT",
        "1.4.0",
        "prng",
        _choice("prng", "hashrandom", "none"),
        "how SNAT picks source ports",
    ),
    ("AWS_VPC_K8S_CNI_VETHPREFIX", "1.0.0", "eni", _VETH, "start of host link names"),
    ("DISABLE_TCP_EARLY_DEMUX", "1.7.3", "false", _BOOLEAN, "switch TCP early demux off"),
    ("POD_MTU", "1.16.4", None, _MTU, "MTU of pods, in bytes; not set: that of ENIs"),
)

_LOGS = "/var/log/aws-routed-eni/"
_DAEMON: tuple[_Row, ...] = (
    ("ADDITIONAL_ENI_TAGS", "1.6.0", "{}", _TAGS, "further tags of created ENIs"),
    ("AWS_EC2_ENDPOINT", "1.13.0", None, _TEXT, "URL of the EC2 endpoint"),
    ("AWS_MANAGE_ENIS_NON_SCHEDULABLE", "1.12.6", "false", _BOOLEAN, "grow on cordoned nodes"),
    (
        "AWS_VPC_K8S_CNI_BACKING_STORE",
        "1.7.0",
        "/var/run/aws-node/ipam.json",
        _TEXT,
        "path of upstream's assignments",
    ),
    ("AWS_VPC_K8S_CNI_LOGLEVEL", "1.0.0", "Debug", _LEVEL, "log level of the daemon"),
    ("AWS_VPC_K8S_CNI_LOG_FILE", "1.0.0", f"/host{_LOGS}ipamd.log", _TEXT, "log of the daemon"),
    ("AWS_VPC_K8S_PLUGIN_LOG_FILE", "1.6.1", f"{_LOGS}plugin.log", _PLUGIN_LOG, "plug-in's log"),
    ("AWS_VPC_K8S_PLUGIN_LOG_LEVEL", "1.6.1", "Debug", _LEVEL, "log level of the plug-in"),
    ("CLUSTER_ENDPOINT", "1.12.1", None, _TEXT, "URL of the API server"),
    ("CLUSTER_NAME", "1.1.0", None, _TEXT, "cluster in ENI tags, subnet tags and clean-up"),
    ("DISABLE_INTROSPECTION", "1.3.4", "false", _BOOLEAN, "no introspection server"),
    ("DISABLE_LEAKED_ENI_CLEANUP", "1.13.0", "false", _BOOLEAN, "no sweep for leaked ENIs"),
    ("DISABLE_METRICS", "1.3.4", "false", _BOOLEAN, "no metrics server"),
    ("ENABLE_SUBNET_DISCOVERY", "1.18.0", "true", _BOOLEAN, "choose subnets by tag and room"),
    ("HOST_CNI_BIN_PATH", "1.6.0", "/host/opt/cni/bin", _TEXT, "where plug-ins are installed"),
    ("HOST_CNI_CONFDIR_PATH", "1.6.0", "/host/etc/cni/net.d", _TEXT, "where the config goes"),
    ("HTTP_TIMEOUT", "1.7.9", "10", _integer(10), "seconds one AWS request may take"),
    ("INTROSPECTION_BIND_ADDRESS", "1.5.3", "127.0.0.1:61679", _TEXT, "or unix:PATH"),
    ("MANAGE_UNTAGGED_ENI", "1.9.1", "true", _BOOLEAN, "manage attached ENIs without our tag"),
    ("MY_NODE_NAME", "1.0.0", None, _TEXT, "name of the node"),
    ("MY_POD_NAME", "1.12.6", None, _TEXT, "name of the daemon's pod, for events"),
    ("VPC_CNI_VERSION", "1.15.1", None, _TEXT, "version told to AWS"),
)

_ADD_WAIT = _integer(0, 110)
# The runtime gives an ADD up after two minutes; ten seconds are left for the kernel's work.
_OURS: tuple[_Row, ...] = (
    ("WARMBENCH_ADD_WAIT", OURS, "60", _ADD_WAIT, "seconds an ADD may wait for an address"),
    (
        "WARMBENCH_BEHAVIOUR",
        OURS,
        "native",
        _choice("native", "upstream"),
        "when and how the pool is kept",
    ),
    (
        "WARMBENCH_JOURNAL_MIB",
        OURS,
        "64",
        _integer(0),
        "MiB of journal kept on the node; 0 keeps none",
    ),
    (
        "WARMBENCH_MAX_PODS",
        OURS,
        "0",
        _integer(0),
        "the kubelet's max-pods; 0: as EKS sets it for the instance type",
    ),
    (
        "WARMBENCH_METRICS_BIND_ADDRESS",
        OURS,
        "0.0.0.0:61678",
        _TEXT,
        "where metrics and health are served",
    ),
    (
        "WARMBENCH_STATE_DIR",
        OURS,
        "/var/run/aws-node",
        _TEXT,
        "folder of socket, ledger, journal and tombstones",
    ),
)

_ENI_CONFIG = "k8s.amazonaws.com/eniConfig"
_ENFORCING = _choice("strict", "standard")
_NOT_SUPPORTED: tuple[_Row, ...] = (
    ("ANNOTATE_POD_IP", "1.9.3", "false", _BOOLEAN, "write a pod's address on the pod"),
    ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "1.2.0", "false", _BOOLEAN, "custom networking"),
    (
        "AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE",
        "1.10.0",
        f"{_LOGS}egress-v4-plugin.log",
        _TEXT,
        "log of IPv4 egress in IPv6 clusters",
    ),
    (
        "AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE",
        "1.13.0",
        f"{_LOGS}egress-v6-plugin.log",
        _TEXT,
        "log of IPv6 egress in IPv4 clusters",
    ),
    ("DISABLE_NETWORK_RESOURCE_PROVISIONING", "1.7.0", "false", _BOOLEAN, "never change ENIs"),
    ("DISABLE_POD_V6", "1.15.0", "false", _BOOLEAN, "switch IPv6 off in pods"),
    ("ENABLE_BANDWIDTH_PLUGIN", "1.10.0", "false", _BOOLEAN, "chain the bandwidth plug-in"),
    ("ENABLE_IMDS_ONLY_MODE", "1.19.6", "false", _BOOLEAN, "no EC2 calls at all"),
    ("ENABLE_IPv4", "1.10.0", "true", _BOOLEAN, "IPv4 addresses for pods"),
    ("ENABLE_IPv6", "1.10.0", "false", _BOOLEAN, "IPv6 addresses for pods"),
    ("ENABLE_MULTI_NIC", "1.20.0", "false", _BOOLEAN, "ENIs on further network cards"),
    ("ENABLE_POD_ENI", "1.7.0", "false", _BOOLEAN, "branch ENIs: security groups for pods"),
    ("ENABLE_V4_EGRESS", "1.15.1", "true", _BOOLEAN, "IPv4 egress in IPv6 clusters"),
    ("ENABLE_V6_EGRESS", "1.13.0", "false", _BOOLEAN, "IPv6 egress in IPv4 clusters"),
    ("ENI_CONFIG_ANNOTATION_DEF", "1.4.0", _ENI_CONFIG, _TEXT, "annotation naming an ENIConfig"),
    ("ENI_CONFIG_LABEL_DEF", "1.4.0", _ENI_CONFIG, _TEXT, "label naming an ENIConfig"),
    (
        "NETWORK_POLICY_ENFORCING_MODE",
        "1.17.1",
        "standard",
        _choice("none", "strict", "standard", any_case=True),
        "network policy before a pod's rules are known",
    ),
    ("POD_SECURITY_GROUP_ENFORCING_MODE", "1.11.0", "strict", _ENFORCING, "for branch ENIs"),
)

_CODE_DEFAULTS: Mapping[str, str | None] = {
    "ENABLE_IPv4": "false",
    "NETWORK_POLICY_ENFORCING_MODE": None,
    "WARM_PREFIX_TARGET": "0",
}
"""Where upstream's code and chart differ."""

VARIABLES: Mapping[str, Variable] = MappingProxyType(
    {
        name: Variable(
            name, reader, since, default, _CODE_DEFAULTS.get(name, default), form, meaning
        )
        for reader, rows in (
            (Reader.ALLOCATOR, _ALLOCATOR),
            (Reader.NETWORK, _NETWORK),
            (Reader.DAEMON, _DAEMON + _OURS),
            (Reader.NOT_SUPPORTED, _NOT_SUPPORTED),
        )
        for name, since, default, form, meaning in rows
    }
)
"""What upstream's daemon, entry point and init container read; those of the pool come first."""

GONE: Mapping[str, str] = MappingProxyType(
    {"AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER": "1.12.0", "ENABLE_NFTABLES": "1.13.0"}
)
"""Variables upstream has dropped, and the last release that had them."""
