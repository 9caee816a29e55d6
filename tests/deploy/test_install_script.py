"""What the bundle's `install.sh` refuses, before anything is installed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "offline" / "install.sh"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle for this Python, of which the wheels are missing."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    shutil.copy2(SCRIPT, folder)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "bundle.env").write_text(f"SIDE=client\nVERSION=1.0\nPYTHON_VERSION={version}\nPLATFORM=any\n")
    (folder / "requirements.lock").write_text("nothing==1.0 --hash=sha256:" + "0" * 64 + "\n")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in folder.iterdir()]
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder


def _install(bundle: Path, *arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(bundle.parent / "home"), "PYTHON": python}
    return subprocess.run(
        [bundle / "install.sh", *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_a_changed_bundle_is_refused(bundle: Path) -> None:
    """One byte more in the lock: exit code 3, and nothing is made."""
    with (bundle / "requirements.lock").open("a") as file:
        file.write("\n")
    done = _install(bundle)
    assert (done.returncode, "damaged or was changed" in done.stderr) == (3, True)
    assert not (bundle.parent / "home").exists()


@pytest.mark.parametrize("python", ["/bin/false", "/nowhere/python"])
def test_another_python_is_refused(bundle: Path, python: str) -> None:
    """The wheels are for one version: exit code 2, with the version that is wanted."""
    done = _install(bundle, python=python)
    assert done.returncode == 2
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in done.stderr


def test_an_unknown_option_is_refused(bundle: Path) -> None:
    """It is no folder's name."""
    assert _install(bundle, "--yes").returncode == 2


def test_a_failed_installation_keeps_the_one_before(bundle: Path) -> None:
    """What the lock names is not there: the folder of the same version is what it was."""
    before = bundle.parent / "home" / "stic" / "versions" / "1.0" / "bin" / "stic-client"
    before.parent.mkdir(parents=True)
    before.write_text("the one before")
    done = _install(bundle)
    assert done.returncode not in {0, 2, 3}
    assert before.read_text() == "the one before"
    assert [path.name for path in before.parents[2].iterdir()] == ["1.0"]
