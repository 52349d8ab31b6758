"""What a plug-in says when it fails: the CNI specification's error codes and their JSON. PURE."""

import json
from enum import IntEnum


class Code(IntEnum):
    """Well-known error codes (CNI spec 1.1.0, section 5, "Error"); those from 100 on are ours."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    UNDECODABLE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN_LATER = 11
    NOT_AVAILABLE = 50
    """STATUS: no ADD can be served."""
    LIMITED_CONNECTIVITY = 51
    """STATUS: no ADD can be served, and pods that exist may lack connectivity."""
    INTERNAL = 100
    NETWORK_FAILURE = 101
    """The kernel refused a link, address, route or rule."""
    NOT_AS_EXPECTED = 102
    """CHECK found something missing or changed."""


class CniError(Exception):
    """A command failed: `message` is one line with cause and next step, `details` may say more."""

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        """Show the code as well."""
        return f"{self.message} (CNI error {self.code})"


def error_json(error: CniError, cni_version: str) -> bytes:
    r"""Return what goes to standard output beside a non-zero exit code.

    >>> error_json(CniError(Code.TRY_AGAIN_LATER, "no address is free"), "1.0.0")
    b'{"cniVersion":"1.0.0","code":11,"msg":"no address is free"}\n'
    """
    # ASCII with escapes: a message may quote bytes of a path that are no valid UTF-8.
    members = {"cniVersion": cni_version, "code": int(error.code), "msg": error.message}
    if error.details:
        members["details"] = error.details
    return json.dumps(members, separators=(",", ":")).encode("ascii") + b"\n"
