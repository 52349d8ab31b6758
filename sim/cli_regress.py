"""The command of the CI gate."""


def regress() -> None:
    """Compare today's figures with a stored baseline."""
    raise NotImplementedError
