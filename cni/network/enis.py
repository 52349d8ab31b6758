"""A secondary ENI's link, address, routes and rule: install, find what is missing, remove."""

from cni.network import messages, tables
from cni.network.desired import FROM_ENI, FROM_POD, MAIN_TABLE, EniNetwork, Route, Rule
from cni.network.links import Link, await_link_with_mac, link_with_mac
from cni.network.rtnetlink import RouteSocket

_OURS = {FROM_ENI, FROM_POD}


def install_eni(host: RouteSocket, eni: EniNetwork, timeout_s: float) -> None:
    """Make an ENI usable; what is right already is not touched. Raises NetworkError.

    The subnet must not be reached over it by the main table, which is the primary ENI's.
    """
    link = await_link_with_mac(host, eni.mac, timeout_s)
    host.run([messages.link_up(link.index, eni.mtu)])
    held = tables.addresses(host, link.index)
    strays = [address for address in held if address != eni.address]
    host.run([messages.delete_address(link.index, address) for address in strays])
    if eni.address not in held:
        host.run([messages.new_address(link.index, eni.address)])
    host.run(
        [
            messages.delete_route(Route(eni.subnet), link.index),
            *(messages.new_route(route, link.index) for route in eni.routes),
            messages.new_rule(eni.rule),
        ]
    )


def missing_of_eni(host: RouteSocket, eni: EniNetwork) -> tuple[str, ...]:
    """List what an ENI lacks, one line each. Raises NetworkError."""
    link = link_with_mac(host, eni.mac)
    missing = [] if eni.rule in tables.rules(host, eni.primary_ip.packed) else [str(eni.rule)]
    if link is None:
        return (*missing, f"link with MAC {eni.mac}")
    return (*missing, *_missing_of_link(host, eni, link))


def _missing_of_link(host: RouteSocket, eni: EniNetwork, link: Link) -> list[str]:
    missing = [] if link.up else [f"link {link.name} is not up"]
    if link.mtu != eni.mtu:
        missing.append(f"MTU of {link.name} is {link.mtu}, not {eni.mtu}")
    if tables.addresses(host, link.index) != (eni.address,):
        missing.append(f"address {eni.address} alone on {link.name}")
    present = tables.routes(host, eni.table)
    missing += [
        f"{route} dev {link.name}"
        for route in eni.routes
        if tables.Installed(route, link.index) not in present
    ]
    in_main = tables.routes(host, MAIN_TABLE, eni.subnet.network_address.packed)
    if tables.Installed(Route(eni.subnet), link.index) in in_main:
        missing.append(f"{Route(eni.subnet)} dev {link.name} has to go")
    return missing


def remove_eni(host: RouteSocket, eni: EniNetwork) -> None:
    """Remove every rule of ours that leads to its table, and the table. Raises NetworkError.

    The link may have gone already, and pods with it; upstream then leaves all of this behind.
    """
    host.run([messages.delete_rule(rule) for rule in rules_to(host, eni.table)])
    empty_table(host, eni.table)


def rules_to(host: RouteSocket, table: int) -> list[Rule]:
    """List the rules of pods and ENIs that lead to a table. Raises NetworkError."""
    return [
        rule
        for rule in tables.rules(host)
        if rule.table == table and rule.priority in _OURS and rule.source is not None
    ]


def empty_table(host: RouteSocket, table: int) -> list[Route]:
    """Delete the routes of an ENI's table and return them. Raises NetworkError."""
    assert table != MAIN_TABLE, "the main table is not an ENI's"
    present = tables.routes(host, table)
    host.run([messages.delete_route(one.route, one.link) for one in present])
    return [one.route for one in present]
