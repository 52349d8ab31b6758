import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from cni.network.desired import NetworkOptions, SourceNat, host_network
from cni.network.snat import find_program, iptables_rules, nft_commands

VPC = (IPv4Network("10.0.0.0/16"), IPv4Network("100.64.0.0/10"))
OPTIONS = NetworkOptions(excluded_cidrs=(IPv4Network("8.8.8.8/32"),))


def the_snat(options: NetworkOptions = OPTIONS) -> SourceNat:
    """Say what the filter must do for some options."""
    return host_network("02:00:00:00:00:05", IPv4Address("10.0.0.5"), VPC, options).snat


def added(kind: str, options: NetworkOptions = OPTIONS) -> list[Any]:
    """List what nft is told to add of one kind."""
    commands = nft_commands(the_snat(options), "ens5")
    return [one["add"][kind] for one in commands if kind in one.get("add", {})]


def test_the_table_is_replaced_in_one_transaction() -> None:
    """Added, so that it can be deleted; deleted; and all of it added, in one file."""
    commands = nft_commands(the_snat(), "ens5")

    assert [next(iter(one)) for one in commands[:3]] == ["add", "delete", "add"]
    assert {next(iter(one)) for one in commands[3:]} == {"add"}
    objects = [next(iter(one["add"].values())) for one in commands[3:]]
    assert {(one["family"], one["table"]) for one in objects} == {("ip", "aws-cni")}


def test_chains_run_around_those_of_kube_proxy() -> None:
    """Its DNAT is at -100 and its masquerading at 100; only SNAT is a nat chain of ours."""
    chains = [one for one in added("chain") if "hook" in one]

    assert [(one["type"], one["hook"], one["prio"]) for one in chains] == [
        ("filter", "prerouting", -150),
        ("filter", "prerouting", -90),
        ("nat", "postrouting", 110),
    ]


def test_what_stays_on_the_node_is_neither_marked_nor_translated() -> None:
    """A local destination need not be in the VPC: a DNS cache on 169.254.20.10, for one."""
    local = {"fib": {"result": "type", "flags": ["daddr"]}}
    exempt = {"match": {"op": "!=", "left": local, "right": "local"}}

    judging = [one for one in added("rule") if "@direct" in json.dumps(one)]

    assert [one["chain"] for one in judging] == ["pods", "source"]
    assert all(exempt in one["expr"] for one in judging)


def test_networks_without_snat_are_one_set() -> None:
    """The VPC's and the excluded ones; nft lists a network of one as an address."""
    (direct,) = added("set")

    assert direct["elem"] == [
        "8.8.8.8",
        {"prefix": {"addr": "10.0.0.0", "len": 16}},
        {"prefix": {"addr": "100.64.0.0", "len": 10}},
    ]


@pytest.mark.parametrize(
    ("randomize", "nft", "iptables"),
    [
        ("prng", {"flags": "fully-random"}, " --random-fully"),
        ("hashrandom", {"flags": "random"}, " --random"),
        ("none", {}, ""),
    ],
)
def test_ports_are_picked_as_told(randomize: str, nft: dict[str, str], iptables: str) -> None:
    """AWS_VPC_K8S_CNI_RANDOMIZESNAT in the words of each."""
    options = replace(OPTIONS, randomize=randomize)

    (source,) = [one for one in added("rule", options) if one["chain"] == "source"]
    rules = iptables_rules(the_snat(options), "ens5")["nat"]

    assert source["expr"][-1] == {"snat": {"addr": "10.0.0.5"} | nft}
    assert [rule for rule in rules if rule.endswith(f"--to-source 10.0.0.5{iptables}")]


@pytest.mark.parametrize(
    ("external_snat", "node_port", "chains"),
    [
        (False, True, ["node-port", "pods", "source"]),
        (False, False, ["pods", "source"]),
        (True, True, ["node-port", "pods"]),
        (True, False, []),
    ],
)
def test_only_what_is_wanted_is_there(
    *, external_snat: bool, node_port: bool, chains: list[str]
) -> None:
    """Without SNAT of ours and NodePort support there is no table at all."""
    options = replace(OPTIONS, external_snat=external_snat, node_port=node_port)

    assert [one["name"] for one in added("chain", options) if "hook" in one] == chains
    rules = iptables_rules(the_snat(options), "ens5")
    text = json.dumps(rules)
    assert ("--to-source" in text, "limit-iface-in" in text) == (not external_snat, node_port)
    assert bool(rules["mangle"]) == bool(chains)


def test_other_content_has_another_name() -> None:
    """A chain named for the content lets CHECK see what the comments do not say."""
    names = {
        added("chain", options)[-1]["name"]
        for options in (OPTIONS, replace(OPTIONS, mark=0x100), replace(OPTIONS, randomize="none"))
    }

    assert len(names) == 3
    assert all(name.startswith("content-") for name in names)


def test_an_excluded_everything_is_no_destination_for_iptables() -> None:
    """As upstream: RETURN without `-d` where it would match all."""
    options = replace(OPTIONS, excluded_cidrs=(IPv4Network("0.0.0.0/0"),))

    assert iptables_rules(the_snat(options), "ens5")["nat"][0] == "-A AWS-SNAT-CHAIN-0 -j RETURN"


def test_programs_of_the_system_are_found_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon may be started with a PATH that lacks /usr/sbin."""
    monkeypatch.setenv("PATH", "/nonexistent")

    assert find_program("sh") in {"/usr/bin/sh", "/bin/sh"}
    assert find_program("no-such-program") is None
