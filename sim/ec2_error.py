"""A refusal by EC2, in EC2's own words.

The model of EC2 raises it, `sim/cloud.py` turns it into the `CallError` that a recipe sees,
and the lab turns it into an HTTP answer; so the codes are EC2's and nobody else's.
Source: EC2 API reference, "Error codes for the Amazon EC2 API".
"""


class Ec2Error(Exception):
    """EC2 refused a request; `code` is for programs and `message` for people."""

    def __init__(self, code: str, message: str) -> None:
        """Carry EC2's code and message, both as EC2 spells them."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type["Ec2Error"], tuple[str, str]]:
        """Pickle by the two arguments, so that the error crosses a process of a sweep."""
        return Ec2Error, (self.code, self.message)
