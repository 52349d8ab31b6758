"""What is denied stays told until that very thing works."""

import pytest

from cni.daemon.action_watch import ActionWatch
from cni.daemon.health import EC2_PERMISSION, HealthBook
from tests.daemon.test_metrics import metrics, text_of, value


def test_a_description_that_works_says_nothing_of_a_create_that_is_denied() -> None:
    """Health names what the role lacks for as long as it lacks it."""
    health = HealthBook([EC2_PERMISSION], 0.0)
    watch = ActionWatch(metrics(), health, lambda: 5.0)
    assert health.health(5.0).ready

    watch.action_ended("AttachEni", 1.0, "denied")
    watch.action_ended("AddBlocks", 1.0, "denied")
    watch.action_ended("DescribeEnis", 1.0, "")
    (reason,) = health.health(5.0).reasons
    assert reason == "EC2 permission: AttachEni, AddBlocks denied; see iam-policy.json"
    watch.action_ended("AttachEni", 1.0, "throttled")
    watch.action_ended("AddBlocks", 1.0, "")
    (reason,) = health.health(5.0).reasons
    assert reason.startswith("EC2 permission: AttachEni denied")
    watch.action_ended("AttachEni", 1.0, "")
    assert health.health(5.0).ready


@pytest.mark.parametrize(("enis", "addresses"), [(0, 2), (1, 3)])
def test_what_vanished_is_counted(enis: int, addresses: int) -> None:
    """Upstream's counters of what was removed by force."""
    counted = metrics()
    watch = ActionWatch(counted, HealthBook([EC2_PERMISSION], 0.0), lambda: 0.0)

    watch.vanished(enis=enis, addresses=addresses)

    assert value(text_of(counted), "force_removed_enis") == enis
    assert value(text_of(counted), "force_removed_ips") == addresses
