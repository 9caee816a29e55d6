"""Help is whole: every command and option of both programs, at any width, in one style; and every way to ask for it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
import typer
from typer.testing import CliRunner

from stic_client.cli import app as client
from stic_core import __version__
from stic_core.system import command_errors
from stic_server.cli.app import app as server

PROGRAMS = {"stic-server": server, "stic-client": client}


def _tree(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from _tree(one, *words, name)


COMMANDS = [
    (program, words, command)
    for program, app in PROGRAMS.items()
    for words, command in _tree(typer.main.get_command(app))
]


@pytest.mark.parametrize(
    ("program", "words", "command"), COMMANDS, ids=[" ".join([name, *words]) for name, words, _ in COMMANDS]
)
def test_help_is_whole(program: str, words: tuple[str, ...], command: click.Command) -> None:
    """No escaped bracket, no sentence cut, a full stop behind each; `-h` shows what `--help` shows."""
    for columns in (80, 100):
        shown = CliRunner().invoke(PROGRAMS[program], [*words, "-h"], env={"COLUMNS": str(columns)}).stdout
        assert "\\" not in shown
        assert not re.search(r"\.\.\.\s*$", shown.partition("Options:")[2], re.MULTILINE)
        assert shown.lower().count("arguments:") <= 1
        assert max(map(len, shown.splitlines())) <= columns
    assert (command.help or "").endswith(".")
    together = " ".join(shown.split()).replace("- ", "-")
    for option in command.params:
        text = getattr(option, "help", None)
        assert text, f"{words} {option.name}"
        assert text.endswith("."), text
        assert " ".join(text.split()).replace("- ", "-") in together, option.name
    if isinstance(command, click.Group):
        for one in command.commands.values():
            assert " ".join((one.help or "").split()).replace("- ", "-") in together
    longer = CliRunner().invoke(PROGRAMS[program], [*words, "--help"], env={"COLUMNS": "100"}).stdout
    assert longer == shown


@pytest.mark.parametrize("program", list(PROGRAMS))
def test_the_version_is_shown(program: str) -> None:
    """The program's and the protocol's, on stdout, without a site or a command."""
    result = CliRunner().invoke(PROGRAMS[program], ["--version"])
    assert result.exit_code == 0
    assert re.fullmatch(rf"{program} {re.escape(__version__)} \(protocol version \d+\)\n", result.stdout)


@pytest.mark.parametrize("words", [[], ["import"]])
def test_a_bare_command_shows_its_help(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, and with the exit code of a wrong usage: a service that lost its arguments did no work."""
    monkeypatch.setattr("sys.argv", ["stic-client", *words])
    with pytest.raises(SystemExit) as ended:
        command_errors.run(client, name="stic-client")
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.match(rf"Usage: .*{' '.join(['stic-client', *words])} \[OPTIONS\]", said.err)


@pytest.mark.parametrize("program", list(PROGRAMS))
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(program: str, shell: str) -> None:
    """By the library that parses the command line; the script calls the program by its name."""
    app, variable = PROGRAMS[program], f"_{program.replace('-', '_').upper()}_COMPLETE"
    script = CliRunner().invoke(app, [], prog_name=program, env={variable: f"source_{shell}"}).stdout
    assert program in script
    line = {"COMP_WORDS": f"{program} aud", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": f"{program} aud"}
    action = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    found = CliRunner().invoke(
        app, [], prog_name=program, env={variable: f"complete_{shell}", **line, **action}
    )
    assert "audit" in found.stdout
