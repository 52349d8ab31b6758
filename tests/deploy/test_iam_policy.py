"""iam-policy.json: the EC2 actions that the code calls, and no other."""

import json
from collections.abc import Mapping
from typing import Any, get_args

from cni.cloud import calls, ec2
from tests.deploy.manifests import DEPLOY

POLICY: Mapping[str, Any] = json.loads((DEPLOY / "iam-policy.json").read_text(encoding="utf-8"))

NOT_EC2 = {"ReadMetadata", "Pause"}
# What no recipe asks and the daemon does: limits of a type that no table has, tags of ENIs.
BESIDE_THE_RECIPES = {"DescribeInstanceTypes", "CreateTags"}


def allowed() -> list[str]:
    """List every action of the policy."""
    return [action for statement in POLICY["Statement"] for action in statement["Action"]]


def test_the_policy_allows_what_the_recipes_call() -> None:
    """One action for each call, two for what the daemon does beside them, none twice."""
    called = {call.api for call in get_args(calls.Call)} - NOT_EC2

    assert sorted(allowed()) == sorted(f"ec2:{name}" for name in called | BESIDE_THE_RECIPES)


def test_the_policy_allows_what_the_ec2_module_calls() -> None:
    """`cni.cloud.ec2` names its actions itself; the policy has the same."""
    assert {f"ec2:{name}" for name in ec2.ACTIONS} == set(allowed())


def test_statements_only_allow_and_name_each_action_whole() -> None:
    """No wildcard allows more than is read here."""
    assert POLICY["Version"] == "2012-10-17"
    assert {statement["Effect"] for statement in POLICY["Statement"]} == {"Allow"}
    assert not any("*" in action for action in allowed())
    for statement in POLICY["Statement"]:
        assert statement["Action"] == sorted(statement["Action"])


def test_tags_are_for_interfaces_only() -> None:
    """Whoever may tag anything may pass conditions on tags: only network interfaces are tagged."""
    (statement,) = (one for one in POLICY["Statement"] if "ec2:CreateTags" in one["Action"])

    assert statement["Action"] == ["ec2:CreateTags"]
    assert statement["Resource"] == ["arn:aws:ec2:*:*:network-interface/*"]
