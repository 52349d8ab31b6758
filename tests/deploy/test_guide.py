"""deploy/README.md: what it tells people to type and to look for is there."""

import re

import yaml

from cni.allocator.errors import Cause
from cni.variables import OURS, VARIABLES
from tests.deploy.manifests import DEPLOY, ROOT, TEXT, VERSION, document

GUIDE = (DEPLOY / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL))
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.DOTALL))


def test_every_cause_has_a_row_that_says_what_to_do() -> None:
    """One row for each code that an ADD may be refused with, and none for another."""
    rows = re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \| ([^|]+) \|$", GUIDE, re.MULTILINE)

    assert [cause for cause, _, _ in rows] == [cause.value for cause in Cause]
    assert all(happened.strip() and to_do.strip() for _, happened, to_do in rows)


def test_every_variable_that_is_named_exists() -> None:
    """A name of the shape of a variable is a setting, or one of four capabilities."""
    named = {
        word.partition("=")[0] for word in CODE if re.fullmatch(r"[A-Z][A-Z_]{5,}(=\w+)?", word)
    }

    assert named - set(VARIABLES) == {"DAC_OVERRIDE", "NET_ADMIN", "NET_RAW", "SYS_ADMIN"}


def test_our_own_variables_are_told_with_their_defaults() -> None:
    """One row for each, in the order of names."""
    rows = re.findall(r"^\| `(WARMBENCH_\w+)` \| (\S+) \|", GUIDE, re.MULTILINE)

    ours = [(name, one.default) for name, one in VARIABLES.items() if one.since == OURS]
    assert rows == sorted(ours)


def test_files_that_are_named_exist() -> None:
    """Those of this folder, by name; those of the repository, by path from its root."""
    here = {
        word for word in CODE if re.fullmatch(r"(Containerfile|[\w-]+\.(yaml|json|conflist))", word)
    }

    assert {word for word in here if not (DEPLOY / word).is_file()} == {"ipam.json"}
    for path in re.findall(r"\bdeploy/[\w.-]+", GUIDE):
        assert (ROOT / path).is_file(), path


def test_the_version_is_told_by_the_command_of_old() -> None:
    """And the image that is built and pushed is the one that the manifest pulls."""
    image = f"registry.example.com/aws-node:{VERSION}"

    assert "kubectl describe daemonset aws-node -n kube-system | grep Image" in BLOCKS
    assert BLOCKS.count(image) == 2
    assert TEXT.count(f"image: {image}\n") == 2


def test_the_replacement_by_hand_is_the_manifest_with_another_strategy() -> None:
    """The `sed` line changes one word: a pod is replaced only where somebody deletes it."""
    ((old, new),) = re.findall(r"sed 's/([^/]+)/([^/]+)/' deploy/aws-node\.yaml", BLOCKS)

    (changed,) = (
        one for one in yaml.safe_load_all(TEXT.replace(old, new)) if one["kind"] == "DaemonSet"
    )

    assert TEXT.count(old) == 1
    assert changed["spec"]["updateStrategy"].pop("type") == "OnDelete"
    assert document("DaemonSet")["spec"]["updateStrategy"]["type"] == "RollingUpdate"
    assert changed["spec"]["template"] == document("DaemonSet")["spec"]["template"]
