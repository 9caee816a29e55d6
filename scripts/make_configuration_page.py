"""docs/configuration.md from the models of the configuration files: `python scripts/make_configuration_page.py`.

A test makes the page again and compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from stic_core.config_schema import schema
from stic_core.system.names import SITE_NAME

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"

HEAD = """\
# Every key of federation.yaml and site.yaml

`stic-server init` and `stic-client enroll` write a file with the keys that most need a look; every other key below
may be added, and has its default where it is absent. Relative paths are relative to the file. A key that is unknown
or out of range is refused, with what was expected.

An editor that knows JSON Schema (VS Code with its YAML extension, JetBrains, vim with a language server) completes
and checks the keys. Write the schema once beside the file, and name it in the file's first line:

```
stic-server schema federation > federation.schema.json
stic-client schema > site.schema.json
```

```yaml
# yaml-language-server: $schema=federation.schema.json
```

This page is made from the models by `python scripts/make_configuration_page.py`; do not edit it.
"""

NOTIFY = """\
## Notifications

With `notify`, each side tells somebody of events while it runs. A command is started without a shell and gets the
event on its stdin; a webhook gets the same in a POST, over https, through the proxy of the environment. Both are
ended after `timeout_s`; what fails is said on stderr and never stops a run. At most 50 events wait to be sent.

```yaml
notify:
  command: [/usr/local/bin/page-me, --group, liver]
  webhook: https://chat.example.org/hooks/0123456789
  events: [approval-waiting, site-gone, run-failed]
```

| event | sent by | when |
|---|---|---|
| `approval-waiting` | a site; the server | a plan waits for its operator; a site has not approved the plan |
| `site-gone`, `site-back` | the server | a site is offline for ten seconds or longer; it is back |
| `run-over` | both | a run is complete |
| `run-failed` | both | a run failed, or the site's client ended with an error: only its kind is sent |

This is all that is sent:

```json
{"event": "site-gone", "time": "2026-11-30T23:11:49+01:00", "side": "server", "name": "liver",
 "text": "center2 (last seen 41 s ago) is not online", "site": "center2"}
```

`name` is the federation's or the site's; beside `text` there may be `run` (the run's id), `site`, `plan` (the plan's
hash) and `error` (the kind of an error). Nothing of a patient, no figure, no file name and no error text of a site is
sent.

## Log files

While `stic-server start` and the client serve, everything that they say on stderr also goes into the file of `log`,
with the time of each line (ISO 8601, local time with its offset). It has mode 0600 and is replaced when it is full:
with the defaults, at most 25 MB. It holds names of sites, ids and figures of runs; nothing of a patient. An error
that nobody foresaw is written as its kind and place, without its text; the traceback is on stderr alone. `--log json`
writes one JSON object per line on stderr instead of text (`time`, `level`, `source`, `text`, and `done` and `total`,
or `exit_code`, where they apply).
"""

TRACKING = """\
## Tracking

With `tracking`, MLflow and TensorBoard show what the report shows: settings, versions and digests; losses, accuracies,
norms of updates, bytes and seconds by round and site; and the held-out figures with their intervals. They are read from
`record.json`, `rounds.jsonl` and `evaluation.json` of the run, so what a site suppressed is not there either.
`pip install 'stic-federated[tracking]'` installs both.

```yaml
tracking:
  mlflow: https://user:password@mlflow.example.org   # or sqlite:///mlflow.db, beside this file
  tensorboard: true                                  # runs/RUN-ID/tensorboard; or a folder for all runs
```

Each runs in a process of its own. If it cannot be reached, hangs or fails, one line says so, it is tried again after a
minute at most, and the run goes on; what was missed is sent then. The end of a run waits for it for one minute at most
(10 s after Ctrl-C). A run that is resumed is the same MLflow run, with each round in it once. MLflow's own telemetry is
switched off. Figures leave the server for the address that you name: if that is outside of your institution, ask the
sites first. Neither plan nor record has the address. An MLflow server's user and password may also be in the variables
`MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`.
"""

PATTERNS = {
    SITE_NAME: "up to 32 lower-case letters, digits, hyphens",
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$": "up to 64 letters, digits, hyphens, underscores",
    r"^(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}$": "host:port",
    r"^(auto|cpu|cuda(:\d+)?)$": "`auto`, `cpu`, `cuda`, `cuda:0` and so on",
    r"^[A-Za-z0-9_-]{1,16}$": "a label: up to 16 letters, digits, hyphens, underscores",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits",
}
"""What the models' patterns mean; a new one needs its words here."""


def make_page() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    kinds: tuple[Literal["federation", "site"], ...] = ("federation", "site")
    for kind in kinds:
        document = schema(kind)
        parts += [f"## {kind}.yaml\n", f"{document['description'].partition(': ')[2].capitalize()}\n"]
        parts += ["| key | value | default | meaning |\n|---|---|---|---|"]
        parts += [*_rows(document, document, prefix=""), ""]
    return "\n".join([*parts, NOTIFY, TRACKING])


def _rows(model: Mapping[str, Any], document: Mapping[str, Any], *, prefix: str) -> Iterator[str]:
    """A row per key, those of a part after its own."""
    required = model.get("required", [])
    for key, field in model["properties"].items():
        part = _part(field, document)
        meaning = field.get("description") or (part["description"] if part else "")
        if part is not None and key != "task":
            optional = "default" in field and field["default"] is None
            values, default = ("keys below or null", "null") if optional else ("keys below", "")
            yield f"| `{prefix}{key}` | {values} | {default} | {_cell(meaning)} |"
            yield from _rows(part, document, prefix=f"{prefix}{key}.")
            continue
        default = "required" if key in required else _value(field.get("default", ""))
        yield f"| `{prefix}{key}` | {_cell(_values(field, document))} | {default} | {_cell(meaning)} |"


def _part(field: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part of the file that a key opens, where it opens one."""
    for one in (field, *field.get("anyOf", ())):
        if "$ref" in one:
            found: Mapping[str, Any] = document["$defs"][one["$ref"].rpartition("/")[2]]
            return found
    return None


def _values(field: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Which values a key takes."""
    match field:
        case {"anyOf": ways}:
            return " or ".join(_values(way, document) for way in ways)
        case {"$ref": _}:
            part = _part(field, document) or {}
            return "`" + "{" + ", ".join(f"{key}: ..." for key in part["properties"]) + "}`"
        case {"enum": known}:
            return ", ".join(f"`{one}`" for one in known)
        case {"const": one}:
            return f"`{one}`"
        case {"type": "array", "items": items}:
            return f"list of {_values(items, document)}"
        case {"type": "object", "additionalProperties": dict(items)}:
            return f"names, each with {_values(items, document)}"
    return _simple(field)


def _simple(field: Mapping[str, Any]) -> str:
    match field:
        case {"type": "null"}:
            return "null"
        case {"type": "boolean"}:
            return "true, false"
        case {"type": "string", "format": "path"}:
            return "path"
        case {"type": "string", "pattern": pattern}:
            return PATTERNS[pattern]
        case {"type": "string"}:
            return "text"
        case {"type": kind}:
            return f"{kind}{_bounds(field)}"
    raise ValueError(f"no rule for {field}")


def _bounds(field: Mapping[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    said = [f"{word} {_number(field[name])}" for name, word in words.items() if name in field]
    return f", {' and '.join(said)}" if said else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _value(default: object) -> str:
    match default:
        case "":
            return ""
        case None:
            return "null"
        case bool():
            return f"`{str(default).lower()}`"
        case [] | {}:
            return "none"
        case float():
            return f"`{_number(default)}`"
        case list():
            return f"`[{', '.join(map(str, default))}]`"
        case _:
            return f"`{default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
