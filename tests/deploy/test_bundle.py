"""The offline bundle from end to end: built, carried to a machine without a network, installed by one command, used."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest

import stic_core
from support.federation_kit import make_home
from support.waiting import PATIENCE_S

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(3600)]

TREE = Path(__file__).parents[2]
ROOM_GB = 14
"""The archive while it is written (twice its 3.2 GB), then unpacked beside what is installed (3.2 + 6.5 GB)."""


def _no_namespace() -> bool:
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return True
    return subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode != 0


needs_namespace = pytest.mark.skipif(
    _no_namespace(),
    reason="a machine without a network is played by a network namespace: needs root, unshare, ip",
)


@contextmanager
def _machine_without_network() -> Iterator[str]:
    """A network namespace with a loopback device and no route."""
    name = f"stic-{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        routes = subprocess.run(["ip", "-n", name, "route"], check=True, capture_output=True, text=True)
        assert routes.stdout == ""
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def _build(folder: Path, *options: str, record: Callable[[str, object], None]) -> Path:
    """The archive, unpacked; the archive itself is gone, because it is large."""
    built = subprocess.run(
        [sys.executable, TREE / "scripts" / "make_bundle.py", "--out", folder, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    made = json.loads(built.stdout.splitlines()[-1])
    archive = Path(made["archive"])
    assert archive.with_name(archive.name + ".sha256").read_text() == f"{made['sha256']}  {archive.name}\n"
    record("archive, GB", round(made["bytes"] / 1e9, 2))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    return folder / archive.stem


def _check_bill_of_materials(bundle: Path) -> None:
    """It names each wheel of others in the bundle, with the hash of that file."""
    bill = json.loads((bundle / "sbom.cdx.json").read_text())
    wheels = [path for path in (bundle / "wheels").iterdir() if not path.name.startswith("stic_federated")]
    known = {
        one["content"]
        for component in bill["components"]
        for reference in component["externalReferences"]
        for one in reference.get("hashes", ())
    }
    for wheel in wheels:
        with wheel.open("rb") as file:
            digest = sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        assert digest.hexdigest() in known, wheel.name
    assert len(bill["components"]) == len(wheels)


def _on(machine: str, home: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command without a network, and with nothing of this session's environment or pip configuration."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "PIP_CONFIG_FILE": "/dev/null"}
    return subprocess.run(
        ["ip", "netns", "exec", machine, *command],
        env=environment | variables,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )


@needs_namespace
def test_a_bundle_installs_and_runs_without_a_network(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """`make bundle`, `install.sh`, and a run with a client that nothing but the bundle made."""
    if shutil.disk_usage(tmp_path).free < ROOM_GB * 1e9:
        pytest.skip(f"needs {ROOM_GB} GB of temporary disk for a while")
    home = make_home(tmp_path / "home", sites=("center1",))
    try:
        bundle = _build(tmp_path / "built", record=record_property)
        _check_bill_of_materials(bundle)
        with _machine_without_network() as machine:
            installed = _on(
                machine,
                tmp_path,
                bundle / "install.sh",
                tmp_path / "stic",
                PYTHON=sys.base_prefix + "/bin/python3",
            )
            assert installed.returncode == 0, installed.stdout + installed.stderr
            shutil.rmtree(bundle)  # what was installed stands alone
            program = tmp_path / "stic" / "bin" / "stic-client"
            version = _on(machine, tmp_path, program, "--version")
            assert version.stdout.startswith(f"stic-client {stic_core.__version__} "), version.stderr
            variables = {"STIC_HOME": str(home.path), "STIC_INTERVALS": "0.5", "OMP_NUM_THREADS": "1"}
            with home.running("stic-server", "start", host=machine, output=tmp_path / "server.log") as server:
                joined = _on(machine, tmp_path, program, "--site", "center1", "--once", **variables)
                assert joined.returncode == 0, joined.stderr
                assert server.wait(PATIENCE_S) == 0
        assert (home.run_folder() / "report.html").exists()
        assert list(home.site("center1").glob("models/*/model.safetensors"))
        size = sum(path.lstat().st_size for path in (tmp_path / "stic").rglob("*"))
        record_property("installed, GB", round(size / 1e9, 2))
    finally:  # pytest keeps the folders of three sessions
        shutil.rmtree(tmp_path / "built", ignore_errors=True)
        shutil.rmtree(tmp_path / "stic", ignore_errors=True)


def test_a_bundle_for_cpus_leaves_cuda_out(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """With an index that has torch's builds for CPUs, these are taken, and none of NVIDIA's libraries.

    The index is a folder behind HTTP on this machine, and its two wheels are empty: what is tried is the script's
    way to them, not that PyTorch's own wheels run.
    """
    index = tmp_path / "index"
    for name in ("torch", "torchvision"):
        _write_empty_wheel(index / name, name=name, version=f"{metadata.version(name).partition('+')[0]}+cpu")
    with _served(index) as address:
        bundle = _build(
            tmp_path / "built", "--accelerator", "cpu", "--index", address, record=record_property
        )
    names = {path.name.partition("-")[0] for path in (bundle / "wheels").iterdir()}
    lock = (bundle / "requirements.lock").read_text()
    shutil.rmtree(tmp_path / "built")
    assert {"torch", "torchvision", "stic_federated"} <= names
    assert not [name for name in names if name.startswith(("nvidia", "triton", "cuda"))]
    for name in ("torch", "torchvision"):
        assert f"{name}=={metadata.version(name).partition('+')[0]}+cpu --hash=sha256:" in lock


def _write_empty_wheel(folder: Path, *, name: str, version: str) -> None:
    """A wheel with nothing in it but what it is, and the page of a simple index that lists it."""
    folder.mkdir(parents=True)
    facts = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-cp311-cp311-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{facts}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: cp311-cp311-manylinux_2_28_x86_64\n",
        )
        wheel.writestr(f"{facts}/RECORD", "")
    digest = sha256(path.read_bytes()).hexdigest()
    address = path.name.replace("+", "%2B")
    (folder / "index.html").write_text(f'<a href="{address}#sha256={digest}">{path.name}</a>\n')


class _Quiet(SimpleHTTPRequestHandler):
    """Says nothing of each request."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base names it so
        """Nothing."""


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
