"""The one table from EC2's error codes to what the allocator acts on; above it nobody sees a code.

Sources: EC2 API reference, "Error codes for the Amazon EC2 API"; botocore's standard retry
mode for the throttling and transient codes; amazon-vpc-cni-k8s#3105 and cilium#31016 for the
second name of a missing prefix.
"""

from cni.allocator.actions import FailureReason

NO_ANSWER = "RequestTimeout"
"""The code for a request that EC2 did not answer in time."""

THROTTLING_CODES: frozenset[str] = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""The codes that mean "too many requests", which the SDK repeats after a pause."""

_UNKNOWN_OUTCOME_CODES = (
    NO_ANSWER,
    "RequestTimeoutException",
    # What botocore calls a connection that broke while the request was under way.
    "ConnectionClosedError",
    "HTTPClientError",
    "ReadTimeoutError",
    # HTTP 5xx: EC2 does not promise that nothing happened.
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "ServiceUnavailable",
    "Unavailable",
)

NO_CREDENTIALS = "NoCredentials"
"""The code for a request that was never sent, because nothing signs it."""

_DENIED_CODES = (
    NO_CREDENTIALS,
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "UnauthorizedOperation",
    "UnrecognizedClientException",
)

_REASONS: dict[str, FailureReason] = {
    "InsufficientFreeAddressesInSubnet": FailureReason.SUBNET_FULL,
    "InsufficientCidrBlocks": FailureReason.NO_FREE_PREFIX,
    "PrivateIpAddressLimitExceeded": FailureReason.ENI_FULL,
    "AttachmentLimitExceeded": FailureReason.ENI_LIMIT,
    "InvalidNetworkInterfaceID.NotFound": FailureReason.ENI_GONE,
    "InvalidAttachmentID.NotFound": FailureReason.ENI_GONE,
    **dict.fromkeys(_DENIED_CODES, FailureReason.DENIED),
    **dict.fromkeys(THROTTLING_CODES, FailureReason.THROTTLED),
    **dict.fromkeys(_UNKNOWN_OUTCOME_CODES, FailureReason.UNKNOWN_OUTCOME),
}


def reason_of(code: str, message: str) -> FailureReason:
    """Classify EC2's code; the message decides only where EC2 reuses a general code.

    >>> reason_of("RequestLimitExceeded", "Request limit exceeded.").name
    'THROTTLED'
    """
    if code == "InvalidParameterValue" and "sufficient free ipv4 addresses" in message.lower():
        # CreateNetworkInterface names a missing /28 like this, with or without free single
        # addresses; a lack of single addresses has a code of its own (cni#3105).
        return FailureReason.NO_FREE_PREFIX_UNNAMED
    return _REASONS.get(code, FailureReason.OTHER)
