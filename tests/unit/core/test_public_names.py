"""`import stic_core` is quick and offers what its stub says."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = {"stic_core": ROOT / "stic_core", "stic_server": ROOT / "server" / "stic_server"}
NAMES = [
    (package, name)
    for package, folder in PACKAGES.items()
    for statement in ast.parse((folder / "__init__.pyi").read_text()).body
    if isinstance(statement, ast.ImportFrom)
    for name in (alias.name for alias in statement.names)
]


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_every_name_of_the_stub_is_there(package: str, name: str) -> None:
    """It is imported when it is asked for, and is what its own module has under that name."""
    module = importlib.import_module(package)
    found = getattr(module, name)
    assert getattr(importlib.import_module(found.__module__), name) is found
    assert name in dir(module)


@pytest.mark.parametrize("package", list(PACKAGES))
def test_the_stub_exports_what_it_imports(package: str) -> None:
    """A type checker takes `__all__` of the stub, the program its imports."""
    body = ast.parse((PACKAGES[package] / "__init__.pyi").read_text()).body
    exported = next(s.value for s in body if isinstance(s, ast.Assign))
    assert ast.literal_eval(exported) == importlib.import_module(package).__all__


@pytest.mark.parametrize("package", list(PACKAGES))
def test_importing_a_package_loads_no_library(package: str) -> None:
    """Neither torch nor pandas nor scipy, which take seconds; asking for a name loads what it needs."""
    code = f"""
import sys
import {package}
heavy = {{"torch", "pandas", "scipy", "numpy", "flwr", "matplotlib"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
if "{package}" == "stic_core":
    stic_core.clopper_pearson
    assert "scipy" in sys.modules
    assert not {{"torch", "pandas"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_wheel_has_types(tmp_path: Path) -> None:
    """A type checker looks for `py.typed` before it believes a package's annotations; the stub is read when it runs."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packages = ("stic_core", "stic_server", "stic_client")
    expected = {f"{package}/py.typed" for package in packages} | {f"{name}/__init__.pyi" for name in PACKAGES}
    assert expected <= set(zipfile.ZipFile(wheel).namelist())
