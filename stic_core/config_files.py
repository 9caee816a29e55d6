"""Configuration files, parsed once at the edge, and what the environment sets.

`STIC_HOME` (default `~/.stic`) holds `server/federation.yaml` and `sites/<site>/site.yaml`.
Relative paths in a file are relative to that file. `STIC_INTERVALS` (default 1) is for tests and for slow lines.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from stic_core.config import FederationConfig, ModelConfig, SiteConfig
from stic_core.errors import ConfigError

ConfigT = TypeVar("ConfigT", FederationConfig, SiteConfig)


def home() -> Path:
    """`STIC_HOME`, default `~/.stic`."""
    return Path(os.environ.get("STIC_HOME") or "~/.stic").expanduser()


def interval_scale() -> float:
    """`STIC_INTERVALS`: how many times as long as usual every regular interval is, on both sides alike.

    Signs of life and when one is missed, looks for messages, for admissions and for who is online,
    pauses between tries. Tests take a fraction, so that nobody waits; more than 1 is for lines that
    are very slow. Timeouts that an operator sets in `federation.yaml` are as they are.

    Raises:
        ConfigError: it is no number in this range.
    """
    text = os.environ.get("STIC_INTERVALS") or "1"
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 0.01 <= scale <= 50:
        raise ConfigError("STIC_INTERVALS is out of range", got=text, expected="a number from 0.01 to 50")
    return scale


def load(path: Path, kind: type[ConfigT]) -> ConfigT:
    """Read and check a configuration file.

    Raises:
        ConfigError: the file is missing, is not YAML, or a key is unknown or out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        command = "stic-server init" if kind is FederationConfig else "stic-client --site SITE enroll"
        raise ConfigError(
            f"{path} does not exist", advice=f"Make one with `{command}`, or name another with --config."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", advice="Save it as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", got=error.strerror) from None
    return parse_text(text, kind, source=str(path), base=path.resolve().parent)


def parse_text(text: str, kind: type[ConfigT], *, source: str, base: Path | None = None) -> ConfigT:
    """Check a configuration given as YAML.

    Args:
        source: how messages call it.
        base: folder that relative paths are relative to; None leaves them as they are.

    Raises:
        ConfigError: it is not YAML, or a key is unknown or out of range.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{source}{line} is not YAML", advice="Look for a bracket, quote or indentation there."
        ) from None
    return parse(data if data is not None else {}, kind, source=source, base=base)


def parse_model(data: dict[str, object]) -> ModelConfig:
    """A model named on the command line.

    Raises:
        ConfigError: names the option that is wrong, what it got and what it expected.
    """
    try:
        return ModelConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"--{option}", got=repr(first["input"]), expected=_wanted(first["msg"])) from None


def parse(data: object, kind: type[ConfigT], *, source: str, base: Path | None = None) -> ConfigT:
    """Check what a configuration file says.

    Args:
        data: what the YAML holds.
        source: how messages call it.
        base: folder that relative paths are relative to; None leaves them as they are.

    Raises:
        ConfigError: names the first key that is wrong, what it got and what it expected.
    """
    try:
        return kind.model_validate(data, context={"base": base})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            raise ConfigError(
                f"{source}: {key}: no such key{more}", advice="Remove it, or correct its spelling."
            ) from None
        if first["type"] == "missing":
            raise ConfigError(f"{source}: {key}: missing{more}", advice="Add it.") from None
        # A rule over several keys has the whole file as its input, which nobody wants to read.
        got = repr(first["input"]) if first["loc"] or not isinstance(first["input"], dict) else None
        raise ConfigError(f"{source}: {key}", got=got, expected=_wanted(first["msg"]) + more) from None


def _wanted(message: str) -> str:
    """What pydantic expected, without the words before it that a sentence of ours does not need."""
    return message.removeprefix("Input should be ").removeprefix("Value error, ")
