"""deploy/kubernetes, rendered: valid, restricted, one server, and what the parts say of each other fits."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from stic_core import config_files
from stic_core.config import FederationConfig
from stic_server.admission.renewal import check_keys
from support.kubernetes_folder import MONITORING, SOURCE, make_folder
from support.kustomize import Resource, render


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As an operator makes it."""
    return make_folder(tmp_path_factory.mktemp("kubernetes") / "federation")


@pytest.fixture(scope="module")
def resources(folder: Path) -> dict[str, Resource]:
    """By kind; there is one of each."""
    found = render(folder)
    by_kind = {one["kind"]: one for one in found}
    assert len(by_kind) == len(found)
    return by_kind


@pytest.fixture(scope="module")
def pod(resources: dict[str, Resource]) -> Any:
    """The pod's specification."""
    return resources["StatefulSet"]["spec"]["template"]["spec"]


def _containers(pod: Any) -> list[Any]:
    return [*pod["initContainers"], *pod["containers"]]


@pytest.mark.parametrize("version", ["1.32", kubernetes_validate.latest_version()])
def test_every_resource_is_valid(resources: dict[str, Resource], version: str) -> None:
    """Against Kubernetes' own schemas, without a field that they do not know."""
    assert resources.keys() == {
        *("Namespace", "StatefulSet", "Service", "NetworkPolicy", "ConfigMap", "Secret"),
    }
    for resource in resources.values():
        kubernetes_validate.validate(resource, version, strict=True)


def test_pods_are_restricted(resources: dict[str, Resource], pod: Any) -> None:
    """Each rule of Kubernetes' restricted standard, a root file system that is read-only, and no token of the cluster."""
    assert resources["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001  # the image's
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
    for container in _containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_there_is_one_server(resources: dict[str, Resource], pod: Any) -> None:
    """One replica, a volume of one pod, a Service to pod 0 alone; and a run that is over does not begin again."""
    spec = resources["StatefulSet"]["spec"]
    assert spec["replicas"] == 1
    assert "updateStrategy" not in spec  # the default ends the old pod before it makes the new one
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    name = resources["StatefulSet"]["metadata"]["name"]
    assert resources["Service"]["spec"]["selector"] == {"statefulset.kubernetes.io/pod-name": f"{name}-0"}
    assert pod["containers"][0]["args"] == ["start", "--stay", "--log", "json"]
    assert pod["terminationGracePeriodSeconds"] >= 60


def test_ports_and_paths_are_those_of_the_configuration(
    resources: dict[str, Resource], folder: Path, pod: Any
) -> None:
    """Probes, ports, Service and policy name what federation.yaml opens, and the state lies on the volume."""
    config = config_files.load(folder / "server" / "federation.yaml", FederationConfig)
    (server,) = pod["containers"]
    ports = {one["name"]: one["containerPort"] for one in server["ports"]}
    assert ports == {
        "sites": config.listen.port,
        "health": config.monitoring.health_port,
        "metrics": config.monitoring.metrics_port,
    }
    assert config.listen.host == config.monitoring.host == "0.0.0.0"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["grpc"] == {"port": ports["health"]}
    (port,) = resources["Service"]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (config.listen.port, "sites")
    policy = resources["NetworkPolicy"]["spec"]
    assert [one["port"] for rule in policy["ingress"] for one in rule["ports"]] == ["sites", "metrics"]
    assert policy["egress"] == []
    labels = resources["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert resources["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    volumes = {*(one["name"] for one in pod["volumes"]), "state"}
    for container in _containers(pod):
        assert {one["name"] for one in container["volumeMounts"]} <= volumes
        assert {one["mountPath"]: one["name"] for one in container["volumeMounts"]}[
            "/var/lib/stic"
        ] == "state"
    assert {"name": "STIC_HOME", "value": "/var/lib/stic"} in server["env"]
    named = {one["name"]: one for one in pod["volumes"]}
    assert named["federation"]["configMap"]["name"] == resources["ConfigMap"]["metadata"]["name"]
    assert named["keys"]["secret"]["secretName"] == resources["Secret"]["metadata"]["name"]


def test_the_cas_key_stays_at_home(resources: dict[str, Resource], folder: Path) -> None:
    """`init` makes one, which neither the Secret nor the ConfigMap holds."""
    assert (folder / "server" / "ca.key").exists()
    assert resources["Secret"]["data"].keys() == {"ca.crt", "server.crt", "server.key"}
    assert resources["ConfigMap"]["data"].keys() == {"federation.yaml"}
    assert "PRIVATE" not in str(resources["ConfigMap"])


def test_the_files_lie_where_the_server_reads_them(folder: Path, pod: Any, tmp_path: Path) -> None:
    """The first container's script, with real keys, twice: a pod is started again on the same volume."""
    (script,) = pod["initContainers"][0]["args"]
    places = {name: tmp_path / name for name in ("state", "memory", "federation", "keys")}
    for place in places.values():
        place.mkdir()
    for name in ("ca.crt", "server.crt", "server.key"):
        content = (folder / "server" / name).read_bytes()
        (places["keys"] / name).write_bytes(content)
        (places["keys"] / name).chmod(0o440)  # as Kubernetes mounts a Secret
    (places["federation"] / "federation.yaml").write_bytes(
        (folder / "server" / "federation.yaml").read_bytes()
    )
    (places["federation"] / "federation.yaml").chmod(0o444)
    for path, name in (
        ("/var/lib/stic", "state"),
        ("/run/stic", "memory"),
        ("/federation/", "federation"),
        ("/keys/", "keys"),
    ):
        assert path in script
        script = script.replace(path, f"{places[name]}{'/' if path.endswith('/') else ''}")
    key, server = places["memory"] / "server.key", places["state"] / "server"
    for _ in range(2):
        key.unlink(missing_ok=True)  # memory is empty when a pod starts
        subprocess.run([*pod["initContainers"][0]["command"], script], check=True)
        for name in ("federation.yaml", "ca.crt", "server.crt", "server.key"):
            assert stat.S_IMODE((server / name).stat().st_mode) == 0o600  # and can be replaced by its owner
    check_keys(server)
    assert config_files.load(server / "federation.yaml", FederationConfig).name == "stic"
    assert (server / "server.key").is_symlink()  # the key itself is never on the volume
    assert (server / "sites").is_dir()


def test_what_is_optional_is_named_and_fits(resources: dict[str, Resource]) -> None:
    """Both files stand in the kustomization as a comment, and name our Service, port and labels."""
    text = (SOURCE / "kustomization.yaml").read_text()
    found = {path.name: yaml.safe_load(path.read_text()) for path in (SOURCE / "optional").glob("*.yaml")}
    assert found.keys() == {"tlsroute.yaml", "podmonitor.yaml"}
    for name in found:
        assert f"# - optional/{name}" in text
    service = resources["Service"]
    (backend,) = found["tlsroute.yaml"]["spec"]["rules"][0]["backendRefs"]
    assert backend == {"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]}
    labels = resources["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    monitor = found["podmonitor.yaml"]["spec"]
    assert monitor["selector"]["matchLabels"] == labels
    assert [one["port"] for one in monitor["podMetricsEndpoints"]] == ["metrics"]


def test_the_page_says_what_is_added() -> None:
    """The line of federation.yaml that opens the ports that Kubernetes asks."""
    page = Path(__file__).parents[3] / "docs" / "deploy" / "kubernetes.md"
    assert MONITORING in page.read_text()
