"""What the node itself needs once: sysctls, rules, SNAT; install, and find what is missing."""

from collections.abc import Collection

from cni.network import messages, tables
from cni.network.desired import MAIN_TABLE, MARKED, TO_EXTERNAL_SERVICE, HostNetwork, Rule
from cni.network.errors import NetworkError
from cni.network.links import Link, link_with_mac
from cni.network.rtnetlink import RouteSocket
from cni.network.snat import FindProgram, install_snat, missing_of_snat
from cni.network.sysctls import missing_sysctls, write_sysctls


def install_host(
    kernel: RouteSocket, sysctl_root: str, find: FindProgram, host: HostNetwork
) -> None:
    """Set the node up, or anew for other VPC CIDRs. Raises NetworkError."""
    link = _primary(kernel, host)
    if link.mtu != host.mtu:
        kernel.run([messages.link_up(link.index, host.mtu)])
    write_sysctls(sysctl_root, host.sysctls(link.name))
    present = tables.rules(kernel)
    kernel.run([messages.new_rule(rule) for rule in host.rules if rule not in present])
    kernel.run([messages.delete_rule(rule) for rule in _stale(present, host.rules)])
    install_snat(host.snat, link.name, find)


def missing_of_host(
    kernel: RouteSocket, sysctl_root: str, find: FindProgram, host: HostNetwork
) -> tuple[str, ...]:
    """List what the node lacks, one line each. Raises NetworkError."""
    link = _primary(kernel, host)
    present = tables.rules(kernel)
    missing = [] if link.up else [f"link {link.name} is not up"]
    if link.mtu != host.mtu:
        missing.append(f"MTU of {link.name} is {link.mtu}, not {host.mtu}")
    missing += missing_sysctls(sysctl_root, host.sysctls(link.name))
    missing += [str(rule) for rule in host.rules if rule not in present]
    missing += [f"{rule} has to go" for rule in _stale(present, host.rules)]
    return (*missing, *missing_of_snat(host.snat, link.name, find))


def _primary(kernel: RouteSocket, host: HostNetwork) -> Link:
    link = link_with_mac(kernel, host.primary_mac)
    if link is None:
        raise NetworkError(
            f"find the primary ENI's link with MAC {host.primary_mac}",
            "no link has it",
            "run the daemon in the host's network namespace (hostNetwork: true)",
        )
    return link


def _stale(present: Collection[Rule], wanted: Collection[Rule]) -> list[Rule]:
    """Find rules of the kinds that only we make, from settings of an earlier start."""
    return [rule for rule in present if _is_ours(rule) and rule not in wanted]


def _is_ours(rule: Rule) -> bool:
    if rule.table != MAIN_TABLE or rule.source is not None:
        return False
    if rule.priority == TO_EXTERNAL_SERVICE:
        return rule.to is not None and rule.mark is None
    return rule.priority == MARKED and rule.mark is not None and rule.to is None
