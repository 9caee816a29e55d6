"""docs/configuration.md, the schemas and the files that `init` and `enroll` write are what the models say."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from typer.testing import CliRunner

from stic_client.cli import app as client
from stic_client.connection.enroll import enroll
from stic_core.config import FederationConfig, SiteConfig
from stic_core.config_files import load
from stic_core.config_schema import schema
from stic_server.cli.app import app as server
from stic_server.setup import NewFederation, initialise

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_configuration_page.py"
Kind = Literal["federation", "site"]


def _fields(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, model in {"": document, **document["$defs"]}.items():
        for key, field in model["properties"].items():
            yield f"{name}.{key}", field


@pytest.mark.parametrize("kind", ["federation", "site"])
def test_every_key_says_what_it_is(kind: Kind) -> None:
    """In the schema, from the model's docstring."""
    for key, field in _fields(schema(kind)):
        assert field.get("description"), key


def test_the_page_is_current() -> None:
    """It is made again and compared, and has the keys that no template writes."""
    spec = importlib.util.spec_from_file_location("make_configuration_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = script.make_page()
    assert page == script.PAGE.read_text(encoding="utf-8"), "run python scripts/make_configuration_page.py"
    for key in (
        "training.schedule",
        "training.early_stopping",
        "warm_start",
        "notify.webhook",
        "policy.min_cell",
    ):
        assert f"| `{key}` |" in page


@pytest.mark.parametrize(
    ("program", "words", "kind"),
    [(server, ["schema"], "federation"), (server, ["schema", "site"], "site"), (client, ["schema"], "site")],
)
def test_the_schema_is_printed(program: Any, words: list[str], kind: Kind) -> None:
    """As JSON, for an editor; unknown keys are wrong there, too."""
    printed = json.loads(CliRunner().invoke(program, words).stdout)
    assert printed == schema(kind)
    assert printed["additionalProperties"] is False


def test_the_written_files_have_known_keys_and_say_where_all_are(tmp_path: Path) -> None:
    """Also what stands there as a comment is a file that can be used."""
    new = NewFederation(name="liver", host="127.0.0.1", port=8443, names=["localhost"])
    federation, _ = initialise(tmp_path / "server", new)
    enrolled = enroll(
        tmp_path / "site",
        site="s1",
        address="localhost:8443",
        ca=tmp_path / "server" / "ca.crt",
        root=tmp_path,
        crop_mm=None,
    )
    kinds: tuple[tuple[Path, Kind], ...] = ((federation, "federation"), (enrolled.config, "site"))
    for path, kind in kinds:
        text = path.read_text(encoding="utf-8")
        assert yaml.safe_load(text).keys() <= schema(kind)["properties"].keys()
        assert "docs/configuration.md" in text
        assert f"schema{' federation' if kind == 'federation' else ''} > {kind}.schema.json" in text
        head, *rest = text.split("\n\n")
        more = "\n\n".join(rest).replace("# notify:", "notify:").replace("#   command", "  command")
        more = more.replace("# log:", "log:").replace("# schedule", "schedule")
        path.write_text(f"{head}\n\n{more}", encoding="utf-8")
    changed = load(federation, FederationConfig)
    assert changed.notify is not None
    assert changed.training.schedule == "plateau"
    assert changed.log.keep == 4
    assert load(enrolled.config, SiteConfig).notify == changed.notify


def test_a_webhook_is_in_no_dump(tmp_path: Path) -> None:
    """A run's record keeps the configuration; its address may hold a secret."""
    found = FederationConfig.model_validate({"notify": {"webhook": "https://chat.example/hooks/s3cret"}})
    assert "s3cret" not in found.model_dump_json() + repr(found)
    site = {"site": "s1", "server": {"address": "a:1"}, "notify": {"webhook": "https://chat.example/s3cret"}}
    kept = SiteConfig.model_validate(site)
    assert "s3cret" not in kept.model_dump_json() + repr(kept)
