"""deploy/kubernetes under kubectl itself, which needs no cluster for this."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from support.kubernetes_folder import make_folder
from support.kustomize import render

pytestmark = pytest.mark.deploy


def test_kubectl_renders_what_the_other_tests_look_at(tmp_path: Path) -> None:
    """The same resources, apart from the hash behind the names of ConfigMap and Secret, which the pod names as well."""
    assert shutil.which("kubectl") is not None, "kubectl is needed"
    folder = make_folder(tmp_path / "federation")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    hashes = re.findall(r"\b(?:federation|keys)-[0-9a-z]{10}\b", done.stdout)
    assert len(hashes) == 4
    assert len(set(hashes)) == 2
    text = re.sub(r"\b(federation|keys)-[0-9a-z]{10}\b", r"\1", done.stdout)
    theirs = {one["kind"]: one for one in yaml.safe_load_all(text)}
    data = theirs["Secret"]["data"]  # kubectl wraps long lines
    data.update({name: "".join(text.split()) for name, text in data.items()})
    assert theirs == {one["kind"]: one for one in render(folder)}
