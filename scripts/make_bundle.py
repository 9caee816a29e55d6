"""One archive that installs one side on a machine without a network.

    python scripts/make_bundle.py --side client --accelerator cu13 --out dist

It holds the wheels, a lock with their hashes, a software bill of materials (CycloneDX), checksums,
`deploy/offline/install.sh`, and what makes a container image of it (`deploy/containers`). The versions are those
of requirements.lock, which the tests ran with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from packaging.utils import parse_wheel_filename

import stic_core

TREE = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
CYCLONEDX = "cyclonedx-bom==7.5.0"
"""Its twenty packages are needed here alone, so uv runs it outside of the environment."""

PLATFORMS = {"linux-x86_64": "x86_64-manylinux_2_28", "linux-aarch64": "aarch64-manylinux_2_28"}
"""What uv calls the oldest system that torch's wheels run on."""


IMAGE_FILES = ("server.Containerfile", "client.Containerfile", "build-image.sh", ".containerignore")
"""Of `deploy/containers`, what builds an image; the rest runs one."""


def run(*command: str | Path) -> None:
    """A command that has to succeed."""
    subprocess.run([str(part) for part in command], check=True, cwd=TREE)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--side", choices=("client", "server"), default="client")
    parser.add_argument("--platform", choices=sorted(PLATFORMS), default="linux-x86_64")
    parser.add_argument(
        "--accelerator",
        choices=("cu13", "cpu"),
        default="cu13",
        help="cpu takes torch's wheels without CUDA; --index says where from",
    )
    parser.add_argument("--index", help="URL of the index with torch's wheels for --accelerator cpu")
    parser.add_argument("--python", default="3.11", help="the hospital's Python: 3.11, 3.12 or 3.13")
    parser.add_argument("--out", type=Path, default=TREE / "dist")
    arguments = parser.parse_args()
    if (arguments.accelerator == "cpu") != (arguments.index is not None):
        parser.error("--accelerator cpu needs --index, and nothing else takes it")
    target = (arguments.platform, arguments.accelerator, f"py{arguments.python}")
    name = "-".join((f"stic-{arguments.side}", stic_core.__version__, *target))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.out) as scratch:
        folder = Path(scratch) / name
        wheels = folder / "wheels"
        wheels.mkdir(parents=True)
        lock = folder / "requirements.lock"
        _write_lock(
            lock,
            extra=arguments.side,
            platform=arguments.platform,
            python=arguments.python,
            index=arguments.index,
        )
        _download(
            lock,
            wheels,
            platform=arguments.platform,
            python=arguments.python,
            index=arguments.index,
        )
        _keep_hashes_of(wheels, lock)
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", wheels)
        # What it is made of, from the lock: versions, hashes, package URLs.
        run(
            *(UV, "tool", "run", "--quiet", "--from", CYCLONEDX, "cyclonedx-py", "requirements", lock),
            *("--pyproject", TREE / "pyproject.toml", "--output-reproducible"),
            *("--output-format", "JSON", "--output-file", folder / "sbom.cdx.json"),
        )
        (folder / "bundle.env").write_text(
            f"SIDE={arguments.side}\nVERSION={stic_core.__version__}\nPYTHON_VERSION={arguments.python}\n"
            f"PLATFORM={arguments.platform}\nACCELERATOR={arguments.accelerator}\nREVISION={_revision()}\n"
        )
        shutil.copy2(TREE / "deploy" / "offline" / "install.sh", folder)
        _add_container_files(folder, side=arguments.side)
        _write_checksums(folder)
        archive = arguments.out / f"{name}.tar"
        partial = Path(scratch) / archive.name
        with tarfile.open(partial, "w") as tar:  # wheels are compressed already
            tar.add(folder, arcname=name)
        digest = _sha256(partial)
        partial.replace(archive)
    archive.with_name(archive.name + ".sha256").write_text(f"{digest}  {archive.name}\n")
    print(json.dumps({"archive": str(archive), "bytes": archive.stat().st_size, "sha256": digest}))


def _write_lock(path: Path, *, extra: str, platform: str, python: str, index: str | None) -> None:
    run(
        *(UV, "pip", "compile", "--quiet", "--generate-hashes"),
        *("--no-annotate", "--no-header", "--no-emit-index-url", "--only-binary", ":all:"),
        *("--python-platform", PLATFORMS[platform], "--python-version", python),
        *(("--extra-index-url", index, "--index-strategy", "unsafe-best-match") if index else ()),
        *("--constraint", "requirements.lock", "--extra", extra, "pyproject.toml", "--output-file", path),
    )


def _download(lock: Path, wheels: Path, *, platform: str, python: str, index: str | None) -> None:
    machine = platform.removeprefix("linux-")
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(28, 4, -1)] + [f"manylinux2014_{machine}"]
    also = ("--extra-index-url", index) if index else ()
    run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *also),
        *("--require-hashes", "--no-deps", "--only-binary", ":all:", "--python-version", python),
        *("--implementation", "cp", *(part for tag in tags for part in ("--platform", tag))),
        *("--dest", wheels, "--requirement", lock),
    )


def _keep_hashes_of(wheels: Path, lock: Path) -> None:
    """Only what is in the bundle: no other file of the same version is accepted or listed in the bill of materials.

    Each must be a file that the tree's own lock names, but for torch's wheels without CUDA, which it has not.
    """
    found: dict[str, str] = {}
    known = (TREE / "requirements.lock").read_text(encoding="utf-8")
    for wheel in wheels.iterdir():
        name, version, *_ = parse_wheel_filename(wheel.name)
        digest = _sha256(wheel)
        if digest not in known and not (name in {"torch", "torchvision"} and version.local == "cpu"):
            sys.exit(
                f"{wheel.name} is not the file that requirements.lock names; run make lock, and test, first"
            )
        found[name] = f"{name}=={version} --hash=sha256:{digest}\n"
    lock.write_text("".join(line for _, line in sorted(found.items())))


def _add_container_files(folder: Path, *, side: str) -> None:
    """The image's build context is the bundle itself; the files that run the image are in `containers/`."""
    containers = TREE / "deploy" / "containers"
    shutil.copy2(containers / f"{side}.Containerfile", folder / "Containerfile")
    for name in ("build-image.sh", ".containerignore"):
        shutil.copy2(containers / name, folder)
    shutil.copytree(containers, folder / "containers", ignore=lambda *_: IMAGE_FILES)


def _revision() -> str:
    """The commit, `-dirty` where the tree differs from it; `unknown` where the tree is no checkout."""
    described = ("git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    done = subprocess.run(described, cwd=TREE, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _write_checksums(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
