"""How both programs are used: help that is complete, `-h`, `--version`, and options that may stand anywhere.

Sentences of help are never cut, and a default is shown as it is typed.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.utils import get_params_from_function

from stic_core.system.given_files import check_path


class LogFormat(enum.StrEnum):
    """How lines on stderr are written."""

    TEXT = "text"
    JSON = "json"


LOG_HELP = "Lines on stderr: text, or one JSON object per line."
VERBOSE_HELP = "Show the log and tracebacks."


class _HelpText(click.HelpFormatter):
    """typer escapes brackets for a terminal's markup; there is none here."""

    def write_dl(self, rows: Sequence[tuple[str, str]], *args: Any, **options: Any) -> None:
        """Names and what they mean."""
        super().write_dl([(name, text.replace("\\[", "[")) for name, text in rows], *args, **options)


class _Context(click.Context):
    formatter_class = _HelpText


class Command(TyperCommand):
    """A command that also takes the options that every command takes."""

    context_class = _Context

    def __init__(self, *args: Any, params: Sequence[click.Parameter] | None = None, **options: Any) -> None:
        super().__init__(*args, params=[*(params or ()), *self.everywhere()], **options)
        _restore_help(self)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Click's, and paths that could never be any are refused here, for every command."""
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            value = ctx.params.get(parameter.name or "")
            if value is not None and isinstance(parameter.type, click.Path):
                for path in value if isinstance(value, list | tuple) else [value]:
                    check_path(Path(path))
        return rest

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Click 8.5 lists them here; typer does so among the options."""

    @staticmethod
    def everywhere() -> list[click.Parameter]:
        """What may be given before the command as well as after it."""
        return []


def _restore_help(command: click.Command) -> None:
    """Click 8.5 has help for arguments of its own, and empties what typer 0.20 put there before."""
    if command.callback is None:
        return
    given = get_params_from_function(inspect.unwrap(command.callback))
    for parameter in command.params:
        if isinstance(parameter, TyperArgument) and not parameter.help and parameter.name in given:
            parameter.help = getattr(given[parameter.name].default, "help", None)


class Group(TyperGroup):
    """A program, or a group of its commands, that lists each command with its whole sentence."""

    context_class = _Context

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Click cuts the sentence at the end of the line."""
        listed = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, _sentence(one.help or "")) for name, one in listed if one is not None and not one.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _sentence(text: str) -> str:
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())


class CommandLine(typer.Typer):
    """A typer application whose commands are of one kind.

    Args:
        command: the kind.
        options: as typer takes them.
    """

    def __init__(self, *, command: type[Command] = Command, **options: Any) -> None:
        self._kind = command
        super().__init__(
            cls=Group,
            suggest_commands=False,  # click suggests
            rich_markup_mode=None,
            no_args_is_help=True,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
            **options,
        )

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """As typer's."""
        return super().command(name, cls=self._kind, **options)


def log_options() -> list[click.Parameter]:
    """`--verbose` and `--log`, which `command_errors` reads: here they are known, checked and described."""
    return [
        click.Option(["--verbose"], is_flag=True, expose_value=False, help=VERBOSE_HELP),
        click.Option(
            ["--log"], type=click.Choice([one.value for one in LogFormat]), expose_value=False, help=LOG_HELP
        ),
    ]


class LogCommand(Command):
    """A command that also takes the options of the log."""

    @staticmethod
    def everywhere() -> list[click.Parameter]:
        """See `Command`."""
        return log_options()
