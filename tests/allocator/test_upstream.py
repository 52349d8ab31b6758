"""UPSTREAM does what amazon-vpc-cni-k8s v1.23 was seen to do when it was executed."""

from tests.allocator.fake_ec2 import Driver
from cni.allocator.behaviour import UPSTREAM
from cni.allocator.targets import WarmEni


def test_default_target_grows_one_eni_a_tick_and_frees_one_a_tick() -> None:
    """3x3: ENIs come at 62.5 and 67.5, and go 32.5 and 37.5 s after the last DEL."""
    node = Driver(WarmEni(1), UPSTREAM, enis=3, per_eni=3)
    node.run(60)
    node.add_many(*range(9))
    node.run(670)
    assert [(t, name) for t, name, _ in node.log(60)] == [(62.5, "AttachEni"), (67.5, "AttachEni")]
    assert max(node.served.values()) == 70
