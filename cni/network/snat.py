"""The packet filter: SNAT for what leaves the VPC, and the marks that make replies go back.

One nft table of ours says all of it and is replaced in one transaction, so no packet meets half
of it; other tables are not touched. Where there is no nft, iptables-restore fills chains of ours
with the same rules. The order of the hooks is what makes it work beside kube-proxy:

- mangle (-150), before kube-proxy's DNAT (-100): a NodePort connection is known by its local
  destination, and its replies must leave by the primary ENI, where it came in;
- after that DNAT (-90): a pod's own connection is judged by its real destination, not by the
  address of a service. A chain of type `nat` would not see what kube-proxy has translated, so
  this one is a filter chain (upstream v1.23 has a nat chain there, `nftables_connmark.go`);
- after kube-proxy's masquerading (100): SNAT (110).

A mark says: leave by the main table, that is by the primary ENI (rule 1024), whose address SNAT
gives. It is kept by conntrack, since only the first packet of a connection is judged.
"""

import hashlib
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Network
from typing import Any

from cni.network.desired import SourceNat
from cni.network.errors import NetworkError

FAMILY, TABLE = "ip", "aws-cni"

FindProgram = Callable[[str], str | None]
"""From a program's name to its path, None where it is missing."""

_TIMEOUT_S = 30
_SBIN = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_NFT_RANDOM = {"prng": "fully-random", "hashrandom": "random"}
_IPTABLES_RANDOM = {"prng": " --random-fully", "hashrandom": " --random", "none": ""}
_HOST_BITS_NONE = 32

Json = dict[str, Any]


def find_program(name: str) -> str | None:
    """Find a program on the PATH, or where distributions keep those of the system."""
    return shutil.which(name) or shutil.which(name, path=_SBIN)


def install_snat(snat: SourceNat, primary_link: str, find: FindProgram) -> None:
    """Put the rules in place of what was there, in the thread's namespace. Raises NetworkError."""
    nft = find("nft")
    if nft is not None:
        _run([nft, "-j", "-f", "-"], json.dumps({"nftables": nft_commands(snat, primary_link)}))
        return
    _restore(snat, primary_link, find)


def missing_of_snat(snat: SourceNat, primary_link: str, find: FindProgram) -> list[str]:
    """List what is missing of the rules, one line each. Raises NetworkError."""
    nft = find("nft")
    if nft is None:
        return _missing_of_iptables(snat, primary_link, find)
    listed = _try([nft, "-j", "list", "table", FAMILY, TABLE])
    if listed.returncode != 0 and "No such file" not in listed.stderr:
        raise _failed("list the nft table", listed)
    present = _outline(json.loads(listed.stdout)["nftables"]) if listed.returncode == 0 else []
    wanted = _outline(command["add"] for command in nft_commands(snat, primary_link)[2:])
    return [f"nft {line}" for line in wanted if line not in present] + [
        f"nft {line} has to go" for line in present if line not in wanted
    ]


# nft


def nft_commands(snat: SourceNat, primary_link: str) -> list[Json]:
    """Say in nft's JSON what replaces the table; the first two commands remove the old one."""
    # To delete what does not exist is an error, so it is added first.
    fresh = [
        {"add": {"table": {"family": FAMILY, "name": TABLE}}},
        {"delete": {"table": {"family": FAMILY, "name": TABLE}}},
    ]
    if not (snat.translate or snat.node_port):
        return fresh
    body = [
        _object("set", name="direct", type="ipv4_addr", flags=["interval"], elem=_elements(snat)),
        *_nft_chains(snat, primary_link),
    ]
    # An empty chain named for the content: whoever looks can tell that all of it is as wanted.
    digest = hashlib.sha1(json.dumps(body).encode(), usedforsecurity=False).hexdigest()[:12]
    return [*fresh, fresh[0], *body, _object("chain", name=f"content-{digest}")]


def _nft_chains(snat: SourceNat, primary_link: str) -> Iterator[Json]:
    from_pods = _match({"meta": {"key": "iifname"}}, f"{snat.link_prefix}*")
    if snat.node_port:
        yield _chain("node-port", "filter", "prerouting", -150)
        yield _rule(
            "node-port",
            "connections to this node by the primary ENI",
            _match({"meta": {"key": "iifname"}}, primary_link),
            _match({"fib": {"result": "type", "flags": ["daddr", "iif"]}}, "local"),
            _set_bit({"ct": {"key": "mark"}}, snat.mark),
        )
    yield _chain("pods", "filter", "prerouting", -90)
    if snat.translate:
        yield _rule(
            "pods",
            "connections of pods that leave the VPC",
            from_pods,
            _match({"ct": {"key": "state"}}, "new", "in"),
            _not_local(),
            _match({"payload": {"protocol": "ip", "field": "daddr"}}, "@direct", "!="),
            _set_bit({"ct": {"key": "mark"}}, snat.mark),
        )
    yield _rule(
        "pods",
        "packets of marked connections leave by the primary ENI",
        from_pods,
        _match({"&": [{"ct": {"key": "mark"}}, snat.mark]}, snat.mark),
        _set_bit({"meta": {"key": "mark"}}, snat.mark),
    )
    if snat.translate:
        random = {"flags": _NFT_RANDOM[snat.randomize]} if snat.randomize != "none" else {}
        yield _chain("source", "nat", "postrouting", 110)
        yield _rule(
            "source",
            "what leaves the VPC has the node's address",
            _match({"payload": {"protocol": "ip", "field": "daddr"}}, "@direct", "!="),
            _not_local(),
            {"snat": {"addr": str(snat.primary_ip)} | random},
        )


def _elements(snat: SourceNat) -> list[Any]:
    return [
        str(network.network_address)
        if network.prefixlen == _HOST_BITS_NONE
        else {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
        for network in snat.untranslated
    ]


def _object(kind: str, **fields: Any) -> Json:  # noqa: ANN401, JSON
    return {"add": {kind: {"family": FAMILY, "table": TABLE} | fields}}


def _chain(name: str, kind: str, hook: str, priority: int) -> Json:
    return _object("chain", name=name, type=kind, hook=hook, prio=priority, policy="accept")


def _rule(chain: str, comment: str, *expressions: Json) -> Json:
    return _object("rule", chain=chain, comment=comment, expr=list(expressions))


def _match(left: Json, right: object, operator: str = "==") -> Json:
    return {"match": {"op": operator, "left": left, "right": right}}


def _not_local() -> Json:
    return _match({"fib": {"result": "type", "flags": ["daddr"]}}, "local", "!=")


def _set_bit(key: Json, mark: int) -> Json:
    # Other bits are other people's: kube-proxy's are 0x4000 and 0x8000.
    return {"mangle": {"key": key, "value": {"|": [key, mark]}}}


def _outline(objects: Iterable[Json]) -> list[str]:
    """Write what a listing and our commands have in common: all but the rules' expressions.

    Releases of nft spell expressions differently; a chain named for the content stands for them.
    """
    lines = []
    for thing in objects:
        if "chain" in thing:
            lines.append(f"chain {thing['chain']['name']}")
        elif "rule" in thing:
            lines.append(f"rule in {thing['rule']['chain']}: {thing['rule'].get('comment')}")
        elif "set" in thing:
            elements = sorted(json.dumps(one) for one in thing["set"].get("elem", []))
            lines.append(f"set {thing['set']['name']} of {' '.join(elements)}")
    return lines


# iptables


_JUMPS = (
    ("nat", "POSTROUTING", "AWS-SNAT-CHAIN-0"),
    ("nat", "PREROUTING", "AWS-CONNMARK-CHAIN-0"),
    ("mangle", "PREROUTING", "AWS-MARK-CHAIN-0"),
)


def iptables_rules(snat: SourceNat, primary_link: str) -> dict[str, list[str]]:
    """Say the same for iptables: by table, rules of chains that nothing else writes to.

    What kube-proxy has translated reaches no later rule in `nat PREROUTING`, so a connection
    through a service to an address outside the VPC is not marked here, as in upstream.
    """
    mark = f"{snat.mark:#x}/{snat.mark:#x}"
    pods = f"-i {snat.link_prefix}+"
    restore = f"-j CONNMARK --restore-mark --nfmask {snat.mark:#x} --ctmask {snat.mark:#x}"
    abroad = "-m addrtype ! --dst-type LOCAL"
    nat, mangle = [], []
    if snat.translate:
        nat += [f"-A AWS-SNAT-CHAIN-0{_to(network)} -j RETURN" for network in snat.untranslated]
        nat.append(
            f"-A AWS-SNAT-CHAIN-0 {abroad} -j SNAT"
            f" --to-source {snat.primary_ip}{_IPTABLES_RANDOM[snat.randomize]}"
        )
        nat += [f"-A AWS-CONNMARK-CHAIN-0{_to(network)} -j RETURN" for network in snat.untranslated]
        nat += [
            f"-A AWS-CONNMARK-CHAIN-0 {pods} {abroad} -j CONNMARK --set-xmark {mark}",
            # The first packet has passed mangle already.
            f"-A AWS-CONNMARK-CHAIN-0 {pods} {restore}",
        ]
    if snat.node_port:
        mangle.append(
            f"-A AWS-MARK-CHAIN-0 -i {primary_link} -m addrtype --dst-type LOCAL"
            f" --limit-iface-in -j CONNMARK --set-xmark {mark}"
        )
    if snat.node_port or snat.translate:
        mangle.append(f"-A AWS-MARK-CHAIN-0 {pods} {restore}")
    return {"nat": nat, "mangle": mangle}


def _to(network: IPv4Network) -> str:
    return f" -d {network}" if network.prefixlen else ""


def _restore(snat: SourceNat, primary_link: str, find: FindProgram) -> None:
    restore, iptables = find("iptables-restore"), find("iptables")
    if restore is None or iptables is None:
        raise NetworkError(
            "set up SNAT",
            "neither nft nor iptables-restore was found",
            "install nftables (or iptables) in the image of the daemon",
        )
    lines = []
    for table, rules in iptables_rules(snat, primary_link).items():
        jumps = [jump for jump in _JUMPS if jump[0] == table]
        lines.append(f"*{table}")
        # A chain that is named is emptied and filled again; others stay as they are.
        lines += [f":{chain} - [0:0]" for _, _, chain in jumps]
        lines += rules
        lines += [
            f"-A {hook} -j {chain}"
            for _, hook, chain in jumps
            if not _exists(iptables, table, f"-A {hook} -j {chain}")
        ]
        lines.append("COMMIT")
    _run([restore, "--noflush", "--wait"], "\n".join([*lines, ""]))


def _missing_of_iptables(snat: SourceNat, primary_link: str, find: FindProgram) -> list[str]:
    iptables = find("iptables")
    if iptables is None:
        return ["nft or iptables"]
    wanted = [(table, f"-A {hook} -j {chain}") for table, hook, chain in _JUMPS]
    wanted += [
        (table, rule)
        for table, rules in iptables_rules(snat, primary_link).items()
        for rule in rules
    ]
    return [
        f"iptables -t {table} {rule}"
        for table, rule in wanted
        if not _exists(iptables, table, rule)
    ]


def _exists(iptables: str, table: str, rule: str) -> bool:
    words = ["-C" if word == "-A" else word for word in shlex.split(rule)]
    return _try([iptables, "--wait", "-t", table, *words]).returncode == 0


def _run(command: list[str], text: str) -> None:
    done = _try(command, text)
    if done.returncode != 0:
        raise _failed("set up SNAT", done)


def _try(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603, a path we found, arguments that are ours
            command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError("set up SNAT", str(error), f"try {command[0]} by hand") from error


def _failed(step: str, done: subprocess.CompletedProcess[str]) -> NetworkError:
    said = " ".join((done.stderr or done.stdout).split())[:300]
    program = shlex.join(done.args)
    return NetworkError(
        step, f"{program} said: {said}", "check the kernel's nf_tables, nat and conntrack"
    )
