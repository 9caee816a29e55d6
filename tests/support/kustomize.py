"""What `kubectl kustomize` makes of a folder, as far as ours goes; anything else in a kustomization is refused.

A deploy test compares it with kubectl's own, so that the default suite needs no binary.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

KEYS = {
    *("apiVersion", "kind", "namespace", "resources"),
    *("configMapGenerator", "secretGenerator", "images"),
}


def render(folder: Path) -> list[Resource]:
    """All resources, with the namespace, the images and the generated maps; their names without the hash."""
    document = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert document.keys() == KEYS, "render() has to learn more"
    found: list[Resource] = []
    for name in document["resources"]:
        found += yaml.safe_load_all((folder / name).read_text())
    for generator in document["configMapGenerator"]:
        data = {key: path.read_text() for key, path in _files(folder, generator)}
        found.append(_map("ConfigMap", generator, data=data))
    for generator in document["secretGenerator"]:
        data = {key: base64.b64encode(path.read_bytes()).decode() for key, path in _files(folder, generator)}
        found.append(_map("Secret", generator, data=data, type="Opaque"))
    images = {one["name"]: f"{one['newName']}:{one['newTag']}" for one in document["images"]}
    for resource in found:
        if resource["kind"] == "Namespace":
            assert resource["metadata"]["name"] == document["namespace"]
            continue
        resource["metadata"]["namespace"] = document["namespace"]
        if resource["kind"] == "StatefulSet":
            pod = resource["spec"]["template"]["spec"]
            for container in [*pod["initContainers"], *pod["containers"]]:
                container["image"] = images[container["image"]]
    return found


def _files(folder: Path, generator: Resource) -> list[tuple[str, Path]]:
    assert generator.keys() == {"name", "files"}, "render() has to learn more"
    pairs = [one.split("=") for one in generator["files"]]
    return [(key, folder / path) for key, path in pairs]


def _map(kind: str, generator: Resource, **content: Any) -> Resource:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": generator["name"]}, **content}
