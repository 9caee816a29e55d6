"""Configuration files, parsed once at the edge, and what the environment sets.

`STIC_HOME` (default `~/.stic`) holds `server/federation.yaml` and `sites/<site>/site.yaml`.
Relative paths in a file are relative to that file. `STIC_INTERVALS` (default 1) is for tests and for slow lines.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from stic_core.config import FederationConfig, ModelConfig, SiteConfig
from stic_core.errors import ConfigError
from stic_core.faults import MISSING, UNKNOWN, Fault, first_fault
from stic_core.system.given_files import holds_private_key

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
    if not text.strip():
        raise ConfigError(
            f"{path} is an empty file", expected="a configuration in YAML", advice="Restore it."
        )
    if holds_private_key(text.encode()):
        raise ConfigError(f"{path} holds a private key", expected="a configuration in YAML")  # never shown
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
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader
    except _TwiceError as error:
        raise ConfigError(
            f"{source}, line {error.line}: {error.key}: the key is there twice",
            got=f"the first in line {error.first}",
            expected="each key once",
            advice="Remove one of them.",
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{source}{line} is not YAML", advice="Look for a bracket, quote, tab or indentation there."
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
        fault = first_fault(error, data)
        raise ConfigError(
            f"--{fault.key.replace('_', '-')}"
            if fault.key
            else "options of the model that do not go together",
            got=fault.got if fault.key else None,
            expected=fault.expected,
            advice=_did_you_mean(fault),
        ) from None


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
        fault = first_fault(error, data)
        key = fault.key or "(whole file)"
        more = f" ({fault.more} more)" if fault.more else ""
        if fault.kind == UNKNOWN:
            raise ConfigError(
                f"{source}: {key}: no such key{more}", advice="Remove it, or correct its spelling."
            ) from None
        if fault.kind == MISSING:
            raise ConfigError(f"{source}: {key}: missing{more}", advice="Add it.") from None
        # A rule over several keys has the whole file as its input, which nobody wants to read.
        got = fault.got if fault.key or not isinstance(data, dict) else None
        raise ConfigError(
            f"{source}: {key}", got=got, expected=fault.expected + more, advice=_did_you_mean(fault)
        ) from None


def _did_you_mean(fault: Fault) -> str | None:
    return f"Did you mean {fault.meant}?" if fault.meant else None


class _TwiceError(Exception):
    """A mapping has a key twice.

    Args:
        key: the key.
        line, first: of it, and of its first place; from 1.
    """

    def __init__(self, key: str, *, line: int, first: int) -> None:
        super().__init__(key)
        self.key, self.line, self.first = key, line, first


class _Loader(yaml.SafeLoader):
    """YAML's plain values; of a key that is there twice it would otherwise silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines:
                    raise _TwiceError(key.value, line=line, first=lines[name])
                lines[name] = line
        return node
