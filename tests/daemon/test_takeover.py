"""Upstream's checkpoint: which of its pods live here, and what is no checkpoint at all."""

import json
from pathlib import Path

import pytest

from cni.daemon.takeover import UnreadableCheckpoint, UpstreamPod, live_pods, objection
from cni.network.desired import host_link_name


def checkpoint(*names: str) -> str:
    """Return what upstream writes for pods of these names in namespace `default`."""
    allocations = [
        {
            "networkName": "aws-cni",
            "containerID": "0" * 64,
            "ifName": "eth0",
            "ipv4": f"10.0.0.{number}",
            "allocationTimestamp": 1,
            "metadata": {"k8sPodNamespace": "default", "k8sPodName": name} if name else {},
        }
        for number, name in enumerate(names, start=5)
    ]
    return json.dumps({"version": "vpc-cni-ipam/1", "allocations": allocations})


def test_pods_whose_link_exists_live() -> None:
    """The link's name is made from the pod's, as upstream makes it."""
    links = {host_link_name("eni", "default", "web-0")}

    assert live_pods(checkpoint("web-0", "gone"), links, "eni") == (
        UpstreamPod("default", "web-0", "10.0.0.5"),
    )


def test_a_sandbox_without_a_pods_name_counts_as_live() -> None:
    """Nothing tells that it is not."""
    assert live_pods(checkpoint(""), (), "eni") == (UpstreamPod("", "", "10.0.0.5"),)


def test_an_empty_checkpoint_has_no_pods() -> None:
    """Upstream writes the file at its first start already."""
    assert live_pods(checkpoint(), (), "eni") == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"allocations": 1}',
        '{"allocations": [1]}',
        '{"allocations": [{"metadata": "x"}]}',
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """A file that cannot be read says nothing about who lives here."""
    with pytest.raises(UnreadableCheckpoint):
        live_pods(text, (), "eni")


def test_an_objection_is_one_line_or_none(tmp_path: Path) -> None:
    """No file, or a file of pods that are gone: the node is ours; whatever else: it says why."""
    path = tmp_path / "ipam.json"
    assert not objection(path, (), "eni")
    path.write_text(checkpoint("gone"))
    assert not objection(path, (), "eni")
    path.write_text(checkpoint("", ""))
    assert objection(path, (), "eni").startswith("2 pods of amazon-vpc-cni-k8s live here")
    path.write_bytes(b"\xff\xfe rubbish")
    assert "is no checkpoint" in objection(path, (), "eni")
    path.unlink()
    path.mkdir()
    assert "cannot be read" in objection(path, (), "eni")
