"""A virtual environment that holds a built wheel and what it says that it needs, and nothing else.

Installing torch anew takes minutes; the distributions that this Python has already are linked instead. What the wheel
forgot to name is then missing, as it would be at a hospital.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make_environment(folder: Path, *, wheel: Path, extra: str) -> Path:
    """A new environment with `wheel[extra]`.

    Returns:
        Its folder of commands.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    variables = {"base": str(folder), "platbase": str(folder)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", vars=variables))
    for name in sorted(_needed(wheel, extra=extra)):
        _link(metadata.distribution(name), site_packages)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder / "bin" / "python")
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], check=True)
    return folder / "bin"


def _needed(wheel: Path, *, extra: str) -> set[str]:
    """The distributions that the wheel with this extra needs, and those that these need."""
    (own,) = metadata.distributions(path=[str(wheel)])
    found: set[str] = set()
    waiting = [(own.requires or [], {extra})]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirements, extras = waiting.pop()
        for text in requirements:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            if requirement.marker is not None and not any(
                requirement.marker.evaluate({"extra": one}) for one in extras | {""}
            ):
                continue
            if (name, frozenset(requirement.extras)) in done:
                continue
            done.add((name, frozenset(requirement.extras)))
            installed = metadata.distribution(name)
            assert requirement.specifier.contains(installed.version, prereleases=True), (
                text,
                installed.version,
            )
            found.add(name)
            waiting.append((installed.requires or [], set(requirement.extras)))
    return found


def _link(distribution: metadata.Distribution, site_packages: Path) -> None:
    """Link a distribution's files; folders that several share, such as `nvidia`, are linked as they are."""
    tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        link = site_packages / top
        if not link.exists():
            link.symlink_to(Path(str(distribution.locate_file(top))))
