"""Container images made by hand: no registry, no container tool, no network.

An image is an OCI layout in a tar: a layer, a configuration, a manifest and an index, each named
by the digest of its bytes (OCI image-layout specification 1.0).
"""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

PAUSE = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int signal) { (void)signal; _exit(0); }
static void reap(int signal) { (void)signal; while (waitpid(-1, 0, WNOHANG) > 0) { } }

int main(void) {
    struct sigaction leaving = {.sa_handler = leave};
    struct sigaction reaping = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
    sigaction(SIGINT, &leaving, 0);
    sigaction(SIGTERM, &leaving, 0);
    sigaction(SIGCHLD, &reaping, 0);
    for (;;) pause();
}
"""
LAYOUT = {"imageLayoutVersion": "1.0.0"}
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def compile_pause(folder: Path) -> Path:
    """Compile the program that waits for signals and reaps children; static, so it runs alone."""
    source, program = folder / "pause.c", folder / "pause"
    source.write_text(PAUSE, encoding="ascii")
    subprocess.run(  # noqa: S603, the system's compiler on our source
        ["cc", "-Os", "-s", "-static", "-Wall", "-Werror", "-o", str(program), str(source)],  # noqa: S607
        check=True,
    )
    return program


def write_image(archive: Path, name: str, machine: str, programs: Mapping[str, Path]) -> Path:
    """Write an image that holds static programs by their paths inside; the first is started.

    `name` is a full reference (`local.test/pause:1`), `machine` is as `uname -m` says it.
    """
    platform = {"architecture": ARCHITECTURES[machine], "os": "linux"}
    layer = tar_of({path: (file.read_bytes(), 0o755) for path, file in programs.items()})
    packed = gzip.compress(layer, mtime=0)
    configuration = as_json(
        platform
        | {"config": {"Entrypoint": [f"/{next(iter(programs))}"], "WorkingDir": "/"}}
        | {"rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}
    )
    manifest = as_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, configuration),
            "layers": [descriptor(LAYER, packed)],
        }
    )
    listed = descriptor(MANIFEST, manifest) | {
        "platform": platform,
        # containerd names the image by the first, podman by the second.
        "annotations": {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name,
        },
    }
    blobs = {f"blobs/{digest(b).replace(':', '/')}": b for b in (configuration, packed, manifest)}
    files = {
        "oci-layout": as_json(LAYOUT),
        "index.json": as_json({"schemaVersion": 2, "manifests": [listed]}),
    } | blobs
    archive.write_bytes(tar_of({path: (content, 0o644) for path, content in files.items()}))
    return archive


def tar_of(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """Pack contents and modes by path, without owner or time, so that digests repeat."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, (content, mode) in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def as_json(value: object) -> bytes:
    """Encode a part of the layout."""
    return json.dumps(value).encode()


def digest(content: bytes) -> str:
    """Name bytes by their digest."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def descriptor(media_type: str, content: bytes) -> dict[str, object]:
    """Refer to bytes as the image specification does."""
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}
