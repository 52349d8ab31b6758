"""The tags by which ENIs are known as ours, and those that users add. PURE.

Source: amazon-vpc-cni-k8s, awsutils.go:73-80, :1054 and :1364; its dashboards and the sweeps of
its nodes read the same keys, so they are kept.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

INSTANCE_ID = "node.k8s.amazonaws.com/instance_id"
CREATED_AT = "node.k8s.amazonaws.com/createdAt"
NO_MANAGE = "node.k8s.amazonaws.com/no_manage"
CLUSTER = "cluster.k8s.amazonaws.com/name"
OWNER = "eks:eni:owner"
OWNER_VALUE = "amazon-vpc-cni"
SUBNET_ROLE = "kubernetes.io/role/cni"
SUBNET_CLUSTER = "cni.networking.k8s.aws/cluster/"

DESCRIPTION_PREFIX = "aws-K8S-"

_OURS = "k8s.amazonaws.com"
_KEY_MAX, _VALUE_MAX = 128, 256


def description_of(instance_id: str) -> str:
    """Return the description of the ENIs that a node makes.

    >>> description_of("i-1")
    'aws-K8S-i-1'
    """
    return f"{DESCRIPTION_PREFIX}{instance_id}"


def wanted_tags(
    instance_id: str, cluster_name: str, additional: Mapping[str, str]
) -> dict[str, str]:
    """Return the tags that every managed ENI has; the users' own cannot replace ours."""
    tags = dict(additional) | {INSTANCE_ID: instance_id}
    if cluster_name:
        tags |= {CLUSTER: cluster_name, OWNER: OWNER_VALUE}
    return tags


def missing_tags(have: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that are not there, or have another value.

    >>> missing_tags({"a": "1", "b": "1"}, {"a": "1", "b": "2", "c": "3"})
    {'b': '2', 'c': '3'}
    """
    return {key: value for key, value in wanted.items() if have.get(key) != value}


def timestamp(unix: float) -> str:
    """Return an instant as RFC 3339 in UTC, in whole seconds.

    >>> timestamp(1_795_000_000.9)
    '2026-11-18T11:06:40Z'
    """
    return datetime.fromtimestamp(int(unix), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_timestamp(text: str) -> float | None:
    """Return seconds since the epoch of an RFC 3339 text; None where it is none.

    Upstream writes the node's local time with its offset.

    >>> read_timestamp("2026-11-18T12:06:40+01:00")
    1795000000.0
    >>> read_timestamp("yesterday") is None, read_timestamp("2026-11-18T12:06:40") is None
    (True, True)
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if instant.tzinfo is None else instant.timestamp()


def read_additional(text: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Read ADDITIONAL_ENI_TAGS; return the tags, and a warning for each that is dropped.

    Keys with `k8s.amazonaws.com` are ours (awsutils.go:1364); with the others that are dropped
    EC2 would refuse every ENI. Raises ValueError where the text is no JSON object of texts.
    """
    given = json.loads(text or "{}")
    if not isinstance(given, dict):
        raise ValueError(f"ADDITIONAL_ENI_TAGS: {text!r}: must be a JSON object")  # noqa: TRY004 - a bad text
    tags: dict[str, str] = {}
    warnings = []
    for key, value in given.items():
        problem = _problem_of(key, value)
        if problem:
            warnings.append(f"ADDITIONAL_ENI_TAGS: {key!r} is dropped: {problem}")
        else:
            tags[key] = value
    return tags, tuple(warnings)


def _problem_of(key: str, value: object) -> str:
    if _OURS in key:
        return f"keys with {_OURS} are the plug-in's own"
    if key.startswith("aws:"):
        return "EC2 keeps keys that begin with aws: for itself"
    if not isinstance(value, str):
        return "its value is no text"
    if not 1 <= len(key) <= _KEY_MAX or len(value) > _VALUE_MAX:
        return f"EC2 takes keys of 1 to {_KEY_MAX} letters and values of up to {_VALUE_MAX}"
    return ""
