"""EC2's query protocol: a form in, XML out, by moto's parser and serializer.

Both read botocore's own model of EC2, so an unchanged boto3 understands every answer and every
error. They are internals of moto: its version is pinned in pyproject.toml, and nothing else of
ours imports them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moto.core.parse import EC2QueryParser
from moto.core.serialize import EC2Serializer, SerializationContext
from moto.core.utils import get_service_model

from sim.ec2_error import Ec2Error

_STATUSES = {
    "AuthFailure": 401,
    "DryRunOperation": 412,
    "InternalError": 500,
    "InternalFailure": 500,
    "RequestLimitExceeded": 503,
    "ServiceUnavailable": 503,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
}
_REFUSED = 400
_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/")
# Which action an error belongs to does not show in its XML.
_ANY_ACTION = "DescribeNetworkInterfaces"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer as it goes over the wire."""

    status: int
    body: bytes


def parse_form(api: str, form: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters of a request, by EC2's names."""
    operation = get_service_model("ec2").operation_model(api)
    # The parser looks names up in the form and reads nothing else.
    request: Any = {"values": form}
    try:
        parsed = EC2QueryParser(operation).parse(request)
    except (ValueError, TypeError) as error:
        raise Ec2Error("InvalidParameterValue", f"The request cannot be read: {error}") from error
    parameters: dict[str, Any] = parsed
    return parameters


def answer_of(
    api: str, result: Mapping[str, Any] | Ec2Error, request_id: str, status: int = 0
) -> HttpAnswer:
    """Write an answer or an error; `status` 0 is the one that EC2 sends with it."""
    if isinstance(result, Ec2Error):
        api = _ANY_ACTION
        status = status or _STATUSES.get(result.code, _REFUSED)
    operation = get_service_model("ec2").operation_model(api)
    serializer = EC2Serializer(operation, context=SerializationContext(request_id=request_id))
    body = serializer.serialize(result)["body"]
    text = body if isinstance(body, bytes) else str(body).encode()
    return HttpAnswer(status or 200, text)


def access_key_of(authorization: str) -> str:
    """Return the access key that signed a request, or "" where none did.

    >>> access_key_of("AWS4-HMAC-SHA256 Credential=AKIA1/20261123/us-west-2/ec2/aws4_request, x")
    'AKIA1'
    """
    found = _CREDENTIAL.search(authorization)
    return found[1] if found else ""
