"""Rules, routes and links of ours that no pod and no ENI needs: what a crash left behind.

Others make rules too, at any priority, so a rule is ours only if priority and shape both are.
"""

from collections import Counter
from collections.abc import Collection, Iterator

from cni.network import messages, tables
from cni.network.desired import (
    FROM_ENI,
    FROM_POD,
    MAIN_TABLE,
    TO_POD,
    EniNetwork,
    PodNetwork,
    Rule,
    is_host_link,
    table_of,
)
from cni.network.enis import empty_table
from cni.network.links import Link, all_links
from cni.network.rtnetlink import Request, RouteSocket

_HOST_LENGTH = 32
_RESERVED_TABLES = 253


def remove_strays(
    host: RouteSocket, prefix: str, pods: Collection[PodNetwork], enis: Collection[EniNetwork]
) -> tuple[str, ...]:
    """Remove them and say what was removed, one line each. Raises NetworkError.

    Links are marked for the reaper, which has to be woken.
    """
    needed = Counter(rule for pod in pods for rule in pod.rules)
    needed.update(eni.rule for eni in enis)
    rules = list(_stray_rules(tables.rules(host), needed))
    removed = [(str(rule), messages.delete_rule(rule)) for rule in rules]
    removed += _stray_routes(host, prefix, pods)
    for _, request in removed:
        host.run([request])
    lines = [line for line, _ in removed]
    # A table is emptied only where a stray rule proves that it was ours.
    for table in sorted({rule.table for rule in rules} - {rule.table for rule in needed}):
        if table_of(1) <= table < _RESERVED_TABLES:
            lines += map(str, empty_table(host, table))
    return tuple(lines)


def pod_links(host: RouteSocket, prefix: str) -> tuple[Link, ...]:
    """List the links that are pods' by name and kind, and not going. Raises NetworkError."""
    return tuple(
        link
        for link in all_links(host)
        if link.kind == "veth" and is_host_link(prefix, link.name) and not link.going
    )


def _stray_rules(present: Collection[Rule], needed: Counter[Rule]) -> Iterator[Rule]:
    """Find rules nobody needs, and second copies of those that somebody does."""
    left = needed.copy()
    for rule in present:
        if left[rule] > 0:
            left[rule] = 0
        elif _is_ours(rule):
            yield rule


def _is_ours(rule: Rule) -> bool:
    if rule.mark is not None:
        return False
    if rule.priority == TO_POD:
        return rule.table == MAIN_TABLE and rule.source is None and _is_host(rule.to)
    # A rule from upstream before 1.8 also says where to.
    if rule.priority == FROM_POD:
        return rule.table != MAIN_TABLE and _is_host(rule.source)
    # The kernel gives 32765 to the first rule that asks for no priority, so look closely.
    return (
        rule.priority == FROM_ENI
        and table_of(1) <= rule.table < _RESERVED_TABLES
        and rule.to is None
        and _is_host(rule.source)
    )


def _is_host(network: object) -> bool:
    return getattr(network, "prefixlen", None) == _HOST_LENGTH


def _stray_routes(
    host: RouteSocket, prefix: str, pods: Collection[PodNetwork]
) -> Iterator[tuple[str, Request]]:
    links = {link.index: link.name for link in pod_links(host, prefix)}
    needed = {(pod.host_link, pod.host_route) for pod in pods}
    for one in tables.routes(host, MAIN_TABLE):
        name = links.get(one.link)
        if name is not None and _is_host(one.route.to) and (name, one.route) not in needed:
            yield f"{one.route} dev {name}", messages.delete_route(one.route, one.link)
    names = {pod.host_link for pod in pods}
    for index, name in sorted(links.items()):
        if name not in names:
            yield f"link {name}", messages.link_going(index)
