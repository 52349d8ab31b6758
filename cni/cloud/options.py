"""What a user may say of EC2: names, tags, which ENIs and subnets are ours, time-outs. PURE."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cni.cloud.tags import read_additional


@dataclass(frozen=True, slots=True)
class Ec2Options:
    """Settings of `Ec2`; an empty cluster name is none, `endpoint_url` None is AWS's own.

    `timeout_s` holds for connecting and for each answer. `version` is told to AWS.
    """

    cluster_name: str = ""
    additional_tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    manages_untagged: bool = True
    discovers_subnets: bool = True
    timeout_s: float = 10.0
    endpoint_url: str | None = None
    version: str = ""
    warnings: tuple[str, ...] = ()


def ec2_options(other: Mapping[str, str]) -> Ec2Options:
    """Take the options from `Settings.other`; ValueError where tags make no sense.

    >>> ec2_options({"CLUSTER_NAME": "c", "HTTP_TIMEOUT": "12"}).timeout_s
    12.0
    """
    tags, warnings = read_additional(other.get("ADDITIONAL_ENI_TAGS", "{}"))
    return Ec2Options(
        cluster_name=other.get("CLUSTER_NAME", ""),
        additional_tags=tags,
        manages_untagged=other.get("MANAGE_UNTAGGED_ENI", "true") == "true",
        discovers_subnets=other.get("ENABLE_SUBNET_DISCOVERY", "true") == "true",
        timeout_s=float(other.get("HTTP_TIMEOUT", "10")),
        endpoint_url=other.get("AWS_EC2_ENDPOINT") or None,
        version=other.get("VPC_CNI_VERSION", ""),
        warnings=warnings,
    )
