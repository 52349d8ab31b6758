"""aws-node.yaml: loads in Kubernetes' own models, and agrees with the code."""

import json
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient

from cni.daemon.install import NODE_SYSCTLS, SHIPPED
from cni.settings import parse
from cni.variables import VARIABLES, Reader
from tests.deploy.manifests import (
    DEPLOY,
    DOCUMENTS,
    ROOT,
    TEXT,
    VERSION,
    containers,
    document,
    environ_of,
    pod,
)

MODELS = {
    "ServiceAccount": "V1ServiceAccount",
    "DaemonSet": "V1DaemonSet",
}

# What `env` and `init.env` of upstream's chart hold, those of charts/aws-vpc-cni/templates among
# them; v1.23.
CHART = """
    ADDITIONAL_ENI_TAGS AWS_VPC_CNI_NODE_PORT_SUPPORT AWS_VPC_ENI_MTU
    AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG AWS_VPC_K8S_CNI_EXTERNALSNAT AWS_VPC_K8S_CNI_LOG_FILE
    AWS_VPC_K8S_CNI_LOGLEVEL AWS_VPC_K8S_CNI_RANDOMIZESNAT AWS_VPC_K8S_CNI_VETHPREFIX
    AWS_VPC_K8S_PLUGIN_LOG_FILE AWS_VPC_K8S_PLUGIN_LOG_LEVEL DISABLE_INTROSPECTION DISABLE_METRICS
    DISABLE_NETWORK_RESOURCE_PROVISIONING DISABLE_TCP_EARLY_DEMUX ENABLE_IMDS_ONLY_MODE ENABLE_IPv4
    ENABLE_IPv6 ENABLE_MULTI_NIC ENABLE_POD_ENI ENABLE_PREFIX_DELEGATION ENABLE_SUBNET_DISCOVERY
    ENABLE_V6_EGRESS MY_NODE_NAME MY_POD_NAME NETWORK_POLICY_ENFORCING_MODE VPC_CNI_VERSION
    WARM_ENI_TARGET WARM_PREFIX_TARGET
"""

# Nothing asks the API server, so where it is is of no use; known, so that nobody's is refused.
WITHOUT_USE = {"CLUSTER_ENDPOINT"}

COMMENTED = re.compile(
    r'^ +# - name: (?P<name>\S+)\n +#   value: "?(?P<value>[^"\n]*)"?$', re.MULTILINE
)


def through_the_model(manifest: dict[str, Any]) -> object:
    """Read a manifest into the client's model and write it again: unknown fields get lost."""
    with ApiClient() as client:
        model = client.deserialize(
            json.dumps(manifest), MODELS[manifest["kind"]], "application/json"
        )
        return client.sanitize_for_serialization(model)


def daemon() -> dict[str, Any]:
    """Return the daemon's container."""
    (found,) = pod()["containers"]
    return found


# The models.


@pytest.mark.parametrize("manifest", DOCUMENTS, ids=lambda manifest: manifest["kind"])
def test_each_manifest_is_what_kubernetes_knows(manifest: dict[str, Any]) -> None:
    """Read and written by the client it is unchanged: no field is unknown or of another type."""
    assert through_the_model(manifest) == manifest


def test_a_field_that_kubernetes_does_not_know_is_noticed() -> None:
    """The test above sees a misspelled field, deep down too."""
    manifest = json.loads(json.dumps(document("DaemonSet")))
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["livenessprobe"] = container.pop("livenessProbe")

    assert through_the_model(manifest) != manifest


def test_no_key_is_written_twice() -> None:
    """YAML readers take the last of two equal keys and say nothing."""
    twice = []

    def walk(node: yaml.Node) -> None:
        if isinstance(node, yaml.MappingNode):
            keys = Counter(key.value for key, _ in node.value)
            twice.extend(key for key, times in keys.items() if times > 1)
            for _, value in node.value:
                walk(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                walk(value)

    for node in yaml.compose_all(TEXT):
        walk(node)

    assert twice == []


def test_the_names_are_upstreams() -> None:
    """IAM roles trust the account by its name, people look for the DaemonSet by its own."""
    assert [one["kind"] for one in DOCUMENTS] == list(MODELS)
    for one in DOCUMENTS:
        assert (one["metadata"]["namespace"], one["metadata"]["name"]) == (
            "kube-system",
            "aws-node",
        )
    assert pod()["serviceAccountName"] == "aws-node"


# Variables.


@pytest.mark.parametrize("container", list(containers()), ids=lambda one: one["name"])
def test_every_variable_is_a_setting_and_taken_without_a_word(container: dict[str, Any]) -> None:
    """The daemon's own strict reader takes each container's environment, with no warning."""
    environ = environ_of(container)

    assert set(environ) <= set(VARIABLES)
    assert len(environ) == len(container["env"])
    assert parse(environ, lenient=False).warnings == ()


def test_every_supported_variable_is_there() -> None:
    """Set to the chart's default, or written out as a comment where not set is the default."""
    environ, offered = environ_of(daemon()), {one["name"] for one in COMMENTED.finditer(TEXT)}
    supported = {
        name: variable
        for name, variable in VARIABLES.items()
        if variable.reader is not Reader.NOT_SUPPORTED and name not in WITHOUT_USE
    }

    assert set(environ) | offered == set(supported)
    assert set(environ) & offered == set()
    differing = {
        name: value
        for name, value in environ.items()
        if (default := supported[name].default) is not None
        and supported[name].form.read(value) != default
    }
    assert differing == {}
    assert parse(environ, lenient=False).other_values == tuple(
        sorted(
            {
                "MY_NODE_NAME": "spec.nodeName",
                "MY_POD_NAME": "metadata.name",
                "VPC_CNI_VERSION": f"v{VERSION}",
            }.items()
        )
    )


def test_what_upstreams_chart_sets_is_set_here() -> None:
    """Less what is not supported, whose only value a manifest cannot change."""
    supported = {
        name for name in CHART.split() if VARIABLES[name].reader is not Reader.NOT_SUPPORTED
    }

    assert supported <= set(environ_of(daemon()))


def test_what_stands_in_comments_can_be_switched_on() -> None:
    """Each variable in a comment is a setting, and its example a value it may have."""
    offered = {one["name"]: one["value"] for one in COMMENTED.finditer(TEXT)}

    assert set(offered) == {"AWS_EC2_ENDPOINT", "CLUSTER_NAME", "MAX_ENI", "POD_MTU"}
    assert parse({**environ_of(daemon()), **offered}, lenient=False).warnings == ()


def test_both_containers_are_told_the_same() -> None:
    """The init container installs where the daemon believes it to."""
    init, whole = (environ_of(one) for one in containers())

    assert init.items() <= whole.items()


# Version and start.


def test_the_image_tells_the_version() -> None:
    """`kubectl describe daemonset aws-node | grep Image` shows the version of this project."""
    images = {one["image"] for one in containers()}

    assert {image.rpartition(":")[2] for image in images} == {VERSION}
    assert len(images) == 1
    # A registry that nobody can own: whoever forgets to name theirs gets no stranger's image.
    assert images.pop().startswith("registry.example.com/")
    assert environ_of(daemon())["VPC_CNI_VERSION"] == f"v{VERSION}"


def test_the_init_container_installs_and_the_daemon_runs() -> None:
    """The image's entry point is the daemon; with `install` it installs."""
    assert [one.get("args") for one in containers()] == [["install"], None]
    assert all("command" not in one for one in containers())


# Paths and ports.


def test_every_path_is_a_volume_and_a_constant() -> None:
    """A path in a variable lies in a mount; a mount is there for a variable or a constant."""
    mounts = {one["mountPath"]: one["name"] for one in daemon()["volumeMounts"]}
    values = [PurePosixPath(text) for text in environ_of(daemon()).values() if text[:1] == "/"]
    # The plug-in's log and folder are the node's and the init container's.
    elsewhere = {"/var/log/aws-routed-eni/plugin.log", "/host/opt/cni/bin"}
    fixed = {f"{NODE_SYSCTLS}/net", "/run/xtables.lock", "/tmp"}  # noqa: S108, a mount

    for value in values:
        assert str(value) in elsewhere or any(value.is_relative_to(path) for path in mounts), value
    unused = {path for path in mounts if not any(value.is_relative_to(path) for value in values)}
    assert unused == fixed


def test_every_volume_is_mounted_and_every_mount_a_volume() -> None:
    """Names match, one mount is not writable, and the node's folders are those upstream uses."""
    mounted = [mount for one in containers() for mount in one["volumeMounts"]]
    volumes = {one["name"]: one.get("hostPath", {}).get("path") for one in pod()["volumes"]}

    assert {one["name"] for one in mounted} == set(volumes)
    assert set(volumes.values()) == {
        "/opt/cni/bin",
        "/etc/cni/net.d",
        "/var/log/aws-routed-eni",
        "/var/run/aws-node",
        "/run/xtables.lock",
        "/proc/sys/net",
        None,
    }
    # The init container looks for upstream's checkpoint, and writes nothing there.
    assert [one["name"] for one in mounted if one.get("readOnly")] == ["run-dir"]
    for one in mounted:
        path = volumes[one["name"]]
        # Where the container's path is not the node's, it says so in front.
        assert path is None or one["mountPath"] in {path, f"/host{path}"}


def test_the_plugin_finds_the_daemons_socket() -> None:
    """The state folder has one path on the node and in the container, and is the default."""
    state = environ_of(daemon())["WARMBENCH_STATE_DIR"]
    (volume,) = (one for one in daemon()["volumeMounts"] if one["mountPath"] == state)
    (host,) = (one for one in pod()["volumes"] if one["name"] == volume["name"])

    assert host["hostPath"]["path"] == state == VARIABLES["WARMBENCH_STATE_DIR"].default


def test_probes_ask_where_health_is_served() -> None:
    """All three ask by HTTP on the metrics port, whose number is that of the variable."""
    (port,) = daemon()["ports"]
    environ = environ_of(daemon())
    probes = {
        name: daemon()[name]["httpGet"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }

    assert environ["WARMBENCH_METRICS_BIND_ADDRESS"] == f"0.0.0.0:{port['containerPort']}"
    assert {get["port"] for get in probes.values()} == {port["name"]}
    assert [get["path"] for get in probes.values()] == ["/healthz", "/healthz", "/readyz"]


# Rights.


def test_capabilities_are_few_and_each_has_its_reason() -> None:
    """No container is privileged; all capabilities are dropped, and those added are explained."""
    added = {}
    for one in containers():
        security = one["securityContext"]
        assert "privileged" not in security
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"]["drop"] == ["ALL"]
        added[one["name"]] = security["capabilities"]["add"]

    assert added == {
        "aws-vpc-cni-init": ["DAC_OVERRIDE"],
        "aws-node": ["NET_ADMIN", "NET_RAW", "SYS_ADMIN"],
    }
    for name in (name for names in added.values() for name in names):
        assert re.search(rf"^ +# .*\.\n +- {name}$", TEXT, re.MULTILINE), f"{name} needs a reason"
    assert not {"hostPID", "hostIPC"} & set(pod())


def test_the_api_server_grants_nothing_that_is_not_asked() -> None:
    """No module asks the API server for anything, so there is neither a right nor a token."""
    assert not any("Role" in one["kind"] for one in DOCUMENTS)
    # In the account it would outlive us, and leave upstream's pods without theirs.
    assert "automountServiceAccountToken" not in document("ServiceAccount")
    assert pod()["automountServiceAccountToken"] is False
    asking = [
        path.name
        for path in (ROOT / "cni").rglob("*.py")
        if re.search(r"serviceaccount/token|KUBERNETES_SERVICE_HOST", path.read_text("utf-8"))
    ]
    assert asking == []


# Where it runs, and how it is replaced.


def test_the_daemon_runs_on_every_linux_node_first() -> None:
    """Any taint is tolerated, the priority is a node's own, and no cluster DNS is needed."""
    (term,) = pod()["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]

    assert pod()["tolerations"] == [{"operator": "Exists"}]
    assert pod()["priorityClassName"] == "system-node-critical"
    assert (pod()["hostNetwork"], pod()["dnsPolicy"]) == (True, "Default")
    assert {
        one["key"]: (one["operator"], set(one["values"])) for one in term["matchExpressions"]
    } == {
        "kubernetes.io/os": ("In", {"linux"}),
        "kubernetes.io/arch": ("In", {"amd64", "arm64"}),
        "eks.amazonaws.com/compute-type": ("NotIn", {"fargate", "hybrid", "auto"}),
    }


def test_upstreams_pods_can_be_adopted() -> None:
    """The selector is upstream's and cannot be changed later; labels match it."""
    daemon_set = document("DaemonSet")
    labels = {"k8s-app": "aws-node"}

    assert daemon_set["spec"]["selector"] == {"matchLabels": labels}
    assert daemon_set["spec"]["template"]["metadata"]["labels"] == labels
    assert daemon_set["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": "10%"},
    }


def test_the_files_that_the_image_and_the_guide_name_are_here() -> None:
    """deploy/ holds what the design says, and nothing more."""
    assert {path.name for path in Path(DEPLOY).iterdir()} == {
        "10-aws.conflist",
        "Containerfile",
        "README.md",
        "aws-node.yaml",
        "ci",
        "iam-policy.json",
    }
    assert str(SHIPPED) in (DEPLOY / "Containerfile").read_text(encoding="utf-8")
