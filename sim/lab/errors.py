"""What can go wrong with a lab, each in one line that says what to do."""


class LabError(Exception):
    """Something in the lab failed; the text says what, and what to look at."""


class MachineError(OSError):
    """This machine or user cannot have a lab; the text says what is missing."""
