"""EC2's codes mean to the allocator what EC2 means by them."""

import pytest

from cni.allocator.actions import FailureReason
from cni.cloud.codes import THROTTLING_CODES, reason_of


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("InsufficientFreeAddressesInSubnet", FailureReason.SUBNET_FULL),
        ("InsufficientCidrBlocks", FailureReason.NO_FREE_PREFIX),
        ("PrivateIpAddressLimitExceeded", FailureReason.ENI_FULL),
        ("AttachmentLimitExceeded", FailureReason.ENI_LIMIT),
        ("InvalidNetworkInterfaceID.NotFound", FailureReason.ENI_GONE),
        ("InvalidAttachmentID.NotFound", FailureReason.ENI_GONE),
        ("UnauthorizedOperation", FailureReason.DENIED),
        ("AuthFailure", FailureReason.DENIED),
        ("NoCredentials", FailureReason.DENIED),
        ("RequestTimeout", FailureReason.UNKNOWN_OUTCOME),
        ("ReadTimeoutError", FailureReason.UNKNOWN_OUTCOME),
        ("InternalError", FailureReason.UNKNOWN_OUTCOME),
        ("InvalidSubnetID.NotFound", FailureReason.OTHER),
        ("InvalidInstanceID.NotFound", FailureReason.OTHER),
        ("NetworkInterfaceLimitExceeded", FailureReason.OTHER),
        ("SomethingNew", FailureReason.OTHER),
    ],
)
def test_each_code_has_its_reason(code: str, reason: FailureReason) -> None:
    """A code that nobody thought of is OTHER, never an exception."""
    assert reason_of(code, "") is reason


@pytest.mark.parametrize("code", sorted(THROTTLING_CODES))
def test_every_way_to_say_too_fast_is_throttling(code: str) -> None:
    """Whichever service layer refuses the rate, the node slows down."""
    assert reason_of(code, "") is FailureReason.THROTTLED


def test_a_missing_prefix_hides_behind_a_general_code() -> None:
    """CreateNetworkInterface says InvalidParameterValue; only its text tells (cni#3105)."""
    text = "There aren't sufficient free Ipv4 addresses or prefixes"

    assert reason_of("InvalidParameterValue", text) is FailureReason.NO_FREE_PREFIX_UNNAMED
    assert reason_of("InvalidParameterValue", "Value (x) is invalid") is FailureReason.OTHER
