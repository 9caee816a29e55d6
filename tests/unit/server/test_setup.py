"""Configurations, keys, certificates, enrolment and admission: what can be wrong is said in one line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from pydantic import BaseModel

from stic_client.connection.enroll import enroll
from stic_core import config_files
from stic_core.config import FederationConfig, SiteConfig
from stic_core.errors import ConfigError, UsageError
from stic_core.faults import PATTERNS
from stic_core.system.keys import (
    certificate_fingerprint,
    key_fingerprint,
    load_private,
    load_public,
    make_key_pair,
)
from stic_server.admission.certificates import make_certificates
from stic_server.admission.registry import admit, admitted
from stic_server.setup import NewFederation, initialise

SITE = {"site": "center1", "server": {"address": "localhost:8443"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, r"site\.yaml: colour: no such key"),
        ({"dataset": {"rot": "x"}}, r"site\.yaml: dataset\.rot: no such key"),
        ({"site": "Center 1"}, r"site\.yaml: site; got 'Center 1'; expected"),
        ({"server": {}}, r"site\.yaml: server\.address: missing"),
        ({"server": {"address": "localhost"}}, r"server\.address; got 'localhost'"),
        ({"policy": {"min_cell": 0}}, r"policy\.min_cell; got 0; expected at least 1"),
        ({"device": "gpu"}, r"device; got 'gpu'; expected auto, cpu"),
        ({"site": 7}, r"site; got 7; expected text, in quotes"),
        (
            {"dataset": {"decimal": "dot"}},
            r"dataset\.decimal; got 'dot'; expected comma or point or a table of keys$",
        ),
        (
            {"dataset": {"decimal": {"afp": "dot"}}},
            r"dataset\.decimal\.afp; got 'dot'; expected comma or point",
        ),
        (
            {"dataset": {"decimal": {"apf": "comma"}}},
            r"dataset\.decimal\.apf; .*expected plt or tbil or afp .*mean afp\?",
        ),
        (
            {"dataset": {"image": {"crop_mm": "wide"}}},
            r"dataset\.image\.crop_mm; got 'wide'; expected a number$",
        ),
        (
            {"policy": {"plans": "Any"}},
            r"policy\.plans; got 'Any'; expected approved or any\. Did you mean any\?",
        ),
        ({"policy": {"approved": ["x"]}}, r"policy\.approved\.0; got 'x'; expected 64 hexadecimal"),
        ({"dataset": "data"}, r"dataset; got 'data'; expected a table of keys"),
        ({"policy": {"local_only": "maybe"}}, r"local_only; got 'maybe'; expected true or false"),
        ({"cache_limit_gb": None}, r"cache_limit_gb; got nothing; expected a number"),
    ],
)
def test_a_wrong_site_configuration_names_the_key(change: dict, message: str) -> None:
    """The key's path, what it got, what it expected."""
    with pytest.raises(ConfigError, match=message):
        config_files.parse(SITE | change, SiteConfig, source="site.yaml")


def test_a_task_by_name_or_spelled_out() -> None:
    """`malignant` is the paper's; a user's own task needs no code; an unknown name lists the known ones."""
    named = config_files.parse({"task": "malignant"}, FederationConfig, source="f")
    assert named.task.classes == ("HCC", "ICC", "META")
    own = {"task": {"name": "grade", "classes": ["LOW", "HIGH"]}}
    assert config_files.parse(own, FederationConfig, source="f").task.index("HIGH") == 1
    with pytest.raises(ConfigError, match="malignant or hcc-icc or benign-malignant"):
        config_files.parse({"task": "liver"}, FederationConfig, source="f")


@pytest.mark.parametrize(("text", "said"), [
    ("task: HCC-ICC", "f: task; got 'HCC-ICC'; expected malignant or hcc-icc or benign-malignant, or a name and classes. Did you mean hcc-icc?"),
    ("task: {name: HCC, classes: [A, B]}", "f: task.name; got 'HCC'; expected 1 to 32 lower-case letters, digits and hyphens"),
    ("task: {name: x, classes: [A]}", "f: task.classes; got a list of 1; expected at least 2 of them"),
    ("model: {trainable_blocks: some}", "f: model.trainable_blocks; got 'some'; expected a whole number or all"),
    ("model: {trainable_blocks: -1}", "f: model.trainable_blocks; got -1; expected at least 0 or all"),
    ("rounds: 2.5", "f: rounds; got 2.5; expected a whole number"),
    ("min_sites: [", "is not YAML"),
    ("seed: 2020-13-45", "is not YAML"),
])  # fmt: skip
def test_a_wrong_federation_configuration_names_the_key(text: str, said: str) -> None:
    """In one sentence of this project's own words."""
    with pytest.raises(ConfigError) as caught:
        config_files.parse_text(text, FederationConfig, source="f")
    assert said in str(caught.value)


@pytest.mark.parametrize(("text", "key", "line", "first"), [
    ("rounds: 1\nseed: 2\nrounds: 3\n", "rounds", 3, 1),
    ("training:\n  views: 1\n  batch_size: 2\n  views: 3\n", "views", 4, 2),
    ("model: {backbone: tiny, backbone: vgg16}", "backbone", 1, 1),
    ("backbone_weights: {tiny: a, 'tiny': b}", "tiny", 1, 1),
    ("task:\n  name: x\n  classes: [{A: 1, A: 2}]\n", "A", 3, 3),
])  # fmt: skip
def test_a_key_that_is_there_twice_is_refused(text: str, key: str, line: int, first: int) -> None:
    """YAML's reader would take the last one without a word."""
    with pytest.raises(ConfigError) as caught:
        config_files.parse_text(text, FederationConfig, source="f")
    assert f"f, line {line}: {key}: the key is there twice; got the first in line {first}" in str(
        caught.value
    )


def test_keys_that_are_merged_are_not_twice() -> None:
    """YAML's `<<` may be overridden, also where what is merged was itself merged."""
    text = "backbone_weights: &a {tiny: x}\ntraining: &b {views: 2}\n"
    text += "model: {}\n"
    loaded = config_files.parse_text(text, FederationConfig, source="f")
    assert loaded.training.views == 2
    merged = "training: {<<: {views: 2, batch_size: 3}, views: 5}\n"
    assert config_files.parse_text(merged, FederationConfig, source="f").training.views == 5


def _patterns(kind: type[BaseModel]) -> set[str]:
    return set(re.findall(r'"pattern": (".*?[^\\]")', json.dumps(kind.model_json_schema())))


def test_every_pattern_of_the_configuration_has_words() -> None:
    """A regular expression is no answer to a hospital's engineer."""
    found = {json.loads(one) for kind in (FederationConfig, SiteConfig) for one in _patterns(kind)}
    assert len(found) > 4
    assert found <= PATTERNS.keys()


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """The working directory does not matter."""
    (tmp_path / "site.yaml").write_text("site: a\nserver: {address: 'h:1'}\ndataset: {root: images}\n")
    loaded = config_files.load(tmp_path / "site.yaml", SiteConfig)
    assert loaded.dataset.root == tmp_path / "images"
    assert loaded.key == tmp_path / "site.key"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "line 2 is not YAML"),
        ("- 1", "whole file"),
        ("", "is an empty file"),
        ("{}", "site: missing"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    """Broken YAML, a list, an empty file."""
    (tmp_path / "site.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=message):
        config_files.load(tmp_path / "site.yaml", SiteConfig)


def test_a_missing_configuration_says_how_to_make_one(tmp_path: Path) -> None:
    """Each side's message names its own command."""
    with pytest.raises(ConfigError, match="stic-client --site SITE enroll"):
        config_files.load(tmp_path / "site.yaml", SiteConfig)
    with pytest.raises(ConfigError, match="stic-server init"):
        config_files.load(tmp_path / "federation.yaml", FederationConfig)


def test_a_private_key_is_its_owners_alone(tmp_path: Path) -> None:
    """Made with mode 0600, refused with a looser one, and never written over."""
    path = tmp_path / "site.key"
    public = make_key_pair(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert key_fingerprint(load_private(path).public_key()) == key_fingerprint(load_public(public))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        make_key_pair(path)
    assert path.read_bytes() == before
    path.chmod(0o640)
    with pytest.raises(UsageError, match=r"got mode 0640; expected 0600\. Run chmod 600"):
        load_private(path)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_the_fingerprint_is_ssh_keygens(tmp_path: Path) -> None:
    """Anyone can check it with a tool that they have."""
    public = make_key_pair(tmp_path / "site.key")
    shown = subprocess.run(["ssh-keygen", "-lf", public], capture_output=True, text=True, check=True).stdout
    assert key_fingerprint(load_public(public)) in shown


def test_the_servers_certificate_comes_from_the_ca(tmp_path: Path) -> None:
    """It verifies against ca.crt, carries the names, and both keys are 0600."""
    make_certificates(tmp_path, names=["localhost", "127.0.0.1"])
    ca, server = (
        x509.load_pem_x509_certificate((tmp_path / f"{n}.crt").read_bytes()) for n in ("ca", "server")
    )
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert all((tmp_path / f"{name}.key").stat().st_mode & 0o777 == 0o600 for name in ("ca", "server"))


def test_init_makes_a_federation_once(tmp_path: Path) -> None:
    """The written file loads, with what was asked for; a second init leaves it alone."""
    new = NewFederation(name="liver", host="0.0.0.0", port=9000, names=("a.example.org",), crop_mm=160)
    path, fingerprint = initialise(tmp_path, new)
    loaded = config_files.load(path, FederationConfig)
    assert (loaded.listen.port, loaded.image.crop_mm, loaded.model.backbone) == (9000, 160, "vgg16")
    assert fingerprint == certificate_fingerprint(tmp_path / "ca.crt")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        initialise(tmp_path, new)
    assert path.read_bytes() == before


def test_a_site_enrolls_and_is_admitted(tmp_path: Path) -> None:
    """The public half and two fingerprints are all that is exchanged; paths may hold quotes."""
    make_certificates(tmp_path, names=["localhost"])
    root = tmp_path / "the hospital's data"
    root.mkdir()
    made = enroll(
        tmp_path / "site",
        site="center1",
        address="localhost:1",
        ca=tmp_path / "ca.crt",
        root=root,
        crop_mm=None,
    )
    loaded = config_files.load(made.config, SiteConfig)
    assert loaded.dataset.root == root
    assert made.ca_fingerprint == certificate_fingerprint(tmp_path / "ca.crt")
    sites = tmp_path / "sites"
    site = admit(sites, name="center1", public_key=made.public_key)
    assert site.fingerprint == made.key_fingerprint
    assert [known.name for known in admitted(sites)] == ["center1"]
    assert admit(sites, name="center1", public_key=made.public_key).fingerprint == site.fingerprint


def test_what_cannot_be_admitted(tmp_path: Path) -> None:
    """A private key, a key under a second name, another key under a known name, a name that is none."""
    keys = [make_key_pair(tmp_path / f"{name}.key") for name in ("a", "b")]
    sites = tmp_path / "sites"
    admit(sites, name="center1", public_key=keys[0])
    with pytest.raises(UsageError, match="already admitted as center1"):
        admit(sites, name="center2", public_key=keys[0])
    with pytest.raises(UsageError, match="--replace"):
        admit(sites, name="center1", public_key=keys[1])
    with pytest.raises(UsageError, match="must never leave its site"):
        admit(sites, name="center2", public_key=tmp_path / "b.key")
    with pytest.raises(UsageError) as refused:
        admit(sites, name="../x", public_key=keys[1])
    assert refused.value.got == repr("../x")


def test_a_rule_over_several_keys_does_not_show_the_whole_file() -> None:
    """A task's name that is mistyped: what it got and expected, and not every other key."""
    with pytest.raises(ConfigError) as caught:
        config_files.parse_text("name: liver\ntask: malignent\n", FederationConfig, source="federation.yaml")
    assert "task; got 'malignent'; expected malignant or" in str(caught.value)
    assert "liver" not in str(caught.value)
