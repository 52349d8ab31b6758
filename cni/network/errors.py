"""What goes wrong between us and the kernel, in one line."""

import errno
import os


class NetworkError(Exception):
    """One step failed: `step` names it, `reason` is the kernel's word, `advice` what to do next.

    `errno` is the kernel's number, 0 where the failure is no refusal of the kernel.
    """

    def __init__(self, step: str, reason: str, advice: str, number: int = 0) -> None:
        """Join all of it into one line."""
        super().__init__(f"cannot {step}: {reason}; {advice}")
        self.step = step
        self.errno = number


_ADVICE = {
    errno.EPERM: "run the daemon with the capabilities NET_ADMIN and SYS_ADMIN",
    errno.EACCES: "run the daemon with the capabilities NET_ADMIN and SYS_ADMIN",
    errno.EROFS: "mount /proc/sys writable for the daemon",
    errno.EOPNOTSUPP: "load the kernel module that this needs (veth for pod links)",
    errno.ENOMEM: "free memory on the node",
    errno.ENOBUFS: "free memory on the node",
    errno.ENODEV: "the link went away meanwhile; the next attempt starts afresh",
    errno.EMFILE: "raise the daemon's limit of open files",
}


def refused(step: str, number: int, said: str = "") -> NetworkError:
    """Build the error for a number from the kernel, with what it `said` beside it, if anything."""
    reason = os.strerror(number) + (f" ({said})" if said else "")
    advice = _ADVICE.get(number, "the next attempt starts afresh; if it repeats, report the line")
    return NetworkError(step, reason, advice, number)
