from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from cni.allocator.model import AttachedEni, EniId
from cni.network.desired import (
    MAIN_TABLE,
    NetworkOptions,
    PodNetwork,
    Route,
    Rule,
    eni_network,
    host_link_name,
    host_network,
    is_host_link,
    network_options,
    pod_network,
    table_of,
)
from cni.settings import parse

ADDRESS = IPv4Address("10.0.1.77")
VPC = IPv4Network("10.0.0.0/16")


def a_pod(device_index: int, options: NetworkOptions | None = None) -> PodNetwork:
    """Build a pod that holds ADDRESS."""
    return pod_network(
        pod_namespace="default",
        pod_name="web-0",
        ifname="eth0",
        address=ADDRESS,
        device_index=device_index,
        options=options or NetworkOptions(),
    )


def options_from(**environ: str) -> NetworkOptions:
    """Read options as the daemon does, from an environment."""
    return network_options(parse(environ, lenient=False).other)


def test_an_empty_environment_gives_the_defaults() -> None:
    """The defaults of `NetworkOptions` are those of the variables."""
    assert options_from() == NetworkOptions()


def test_every_variable_reaches_its_option() -> None:
    """Each variable of the data path changes one option, and no other."""
    given = {
        "AWS_EXTERNAL_SERVICE_CIDRS": ("52.0.0.0/8", "external_service_cidrs"),
        "AWS_VPC_CNI_NODE_PORT_SUPPORT": ("false", "node_port"),
        "AWS_VPC_K8S_CNI_CONNMARK": ("0x100", "mark"),
        "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": ("10.8.0.0/16,8.8.8.8/32", "excluded_cidrs"),
        "AWS_VPC_K8S_CNI_EXTERNALSNAT": ("true", "external_snat"),
        "AWS_VPC_K8S_CNI_RANDOMIZESNAT": ("none", "randomize"),
        "AWS_VPC_K8S_CNI_VETHPREFIX": ("pod", "link_prefix"),
        "DISABLE_TCP_EARLY_DEMUX": ("true", "tcp_early_demux"),
        "POD_MTU": ("1500", "pod_mtu"),
    }
    defaults = NetworkOptions()

    for variable, (value, field) in given.items():
        options = options_from(**{variable: value})

        changed = {
            name
            for name in NetworkOptions.__slots__
            if getattr(options, name) != getattr(defaults, name)
        }
        assert changed == {field}, variable


def test_pods_have_the_mtu_of_enis_unless_told() -> None:
    """AWS_VPC_ENI_MTU is for both; POD_MTU wins for pods (upstream 1.16.4)."""
    assert options_from(AWS_VPC_ENI_MTU="1400").pod_mtu == 1400
    assert options_from(AWS_VPC_ENI_MTU="1400", POD_MTU="1300").pod_mtu == 1300


def test_a_host_link_is_named_as_upstream_names_it() -> None:
    """The name is the prefix and eleven digits of SHA-1 of `namespace.name`, fifteen letters."""
    name = host_link_name("eni", "default", "web-0")

    assert name == "eni0d7763386da"
    assert len(host_link_name("prefix"[:4], "a", "b")) == 15
    assert is_host_link("eni", name)
    assert not any(is_host_link("eni", other) for other in ("eni1", "eth0", f"{name}0", "eni-1"))


def test_a_pod_on_the_primary_eni_needs_no_rule_from_it() -> None:
    """The main table leads to the primary ENI anyway."""
    assert a_pod(0).rules == (Rule(512, MAIN_TABLE, to=IPv4Network("10.0.1.77/32")),)


def test_a_pod_on_a_secondary_eni_leaves_by_that_eni() -> None:
    """Device n has table n + 1, and the rule to the pod comes first."""
    to_pod, from_pod = a_pod(3).rules

    assert to_pod == Rule(512, 254, to=IPv4Network("10.0.1.77/32"))
    assert from_pod == Rule(1536, 4, source=IPv4Network("10.0.1.77/32"))
    assert [table_of(index) for index in range(4)] == [254, 2, 3, 4]


def test_a_pod_knows_its_gateway_and_nothing_else() -> None:
    """Its gateway is on its link, and everything goes there."""
    assert [str(route) for route in a_pod(0).pod_routes] == [
        "route 169.254.1.1/32 scope link table 254",
        "route 0.0.0.0/0 via 169.254.1.1 table 254",
    ]


def test_an_enis_gateway_is_the_second_address_of_its_subnet() -> None:
    """That is where a VPC has its router; the sum carries over from byte to byte."""
    attached = AttachedEni(EniId("eni-1"), 2, IPv4Address("10.0.255.250"), ())
    subnet = IPv4Network("10.0.255.128/25")

    eni = eni_network(attached, "02:AA:00:00:00:01", subnet, NetworkOptions())

    assert eni.mac == "02:aa:00:00:00:01"
    assert eni.address == IPv4Interface("10.0.255.250/25")
    assert eni.routes == (
        Route(IPv4Network("10.0.255.129/32"), 3),
        Route(IPv4Network("0.0.0.0/0"), 3, IPv4Address("10.0.255.129")),
    )
    assert eni.rule == Rule(32765, 3, source=IPv4Network("10.0.255.250/32"))


@pytest.mark.parametrize(
    ("external_snat", "node_port", "rules"),
    [(False, True, 1), (True, True, 1), (False, False, 1), (True, False, 0)],
)
def test_marked_traffic_has_a_rule_where_anything_is_marked(
    *, external_snat: bool, node_port: bool, rules: int
) -> None:
    """Upstream `SetupHostNetwork`: NodePort support, or SNAT that is ours."""
    options = NetworkOptions(external_snat=external_snat, node_port=node_port)

    host = host_network("02:00:00:00:00:01", ADDRESS, [VPC], options)

    assert host.rules == (Rule(1024, MAIN_TABLE, mark=0x80),) * rules


def test_external_services_are_left_to_the_main_table() -> None:
    """One rule for each CIDR, ahead of the pods' own."""
    options = NetworkOptions(external_service_cidrs=(IPv4Network("52.94.0.0/16"),))

    host = host_network("02:00:00:00:00:01", ADDRESS, [VPC], options)

    assert Rule(1535, MAIN_TABLE, to=IPv4Network("52.94.0.0/16")) in host.rules


def test_snat_without_a_vpc_is_refused() -> None:
    """With no CIDR everything would be translated, pod to pod too."""
    with pytest.raises(ValueError, match="no CIDR"):
        host_network("02:00:00:00:00:01", ADDRESS, [], NetworkOptions())


def test_networks_that_touch_are_told_once() -> None:
    """An interval set of nft refuses overlaps, and there is no use for them."""
    options = NetworkOptions(excluded_cidrs=(IPv4Network("10.0.8.0/24"),))

    host = host_network("02:00:00:00:00:01", ADDRESS, [VPC, VPC], options)

    assert host.snat.untranslated == (VPC,)


@pytest.mark.parametrize(("option", "value"), [(True, "1"), (False, "0")])
def test_early_demux_is_as_told(*, option: bool, value: str) -> None:
    """DISABLE_TCP_EARLY_DEMUX is for TCP liveness probes of pods with branch ENIs."""
    options = NetworkOptions(tcp_early_demux=option)

    sysctls = host_network("02:00:00:00:00:01", ADDRESS, [VPC], options).sysctls("ens5")

    assert {one.path: one.value for one in sysctls} == {
        "net/ipv4/ip_forward": "1",
        "net/ipv4/conf/ens5/rp_filter": "2",
        "net/ipv4/tcp_early_demux": value,
    }
