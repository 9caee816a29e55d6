"""The documents can't lie: every command and option that they show exists, and every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from stic_client.cli import app as client
from stic_server.cli.app import app as server

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PROGRAMS = {"stic-server": server, "stic-client": client}


def _commands(text: str) -> list[list[str]]:
    """Command lines of ours in code blocks and in code spans that begin with a program's name."""
    lines = [
        line for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
    ]
    lines += re.findall(r"`((?:stic-server|stic-client) [^`]+)`", text)
    return [shlex.split(line) for line in lines if line.split(" ")[0] in PROGRAMS]


def _options(command: click.Command) -> dict[str, click.Option]:
    return {name: o for o in command.params if isinstance(o, click.Option) for name in o.opts}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_documents_exist(document: Path) -> None:
    """Each word that looks like a subcommand or an option is one."""
    for words in _commands(document.read_text(encoding="utf-8")):
        command = typer.main.get_command(PROGRAMS[words[0]])
        rest = words[1:]
        while rest:
            word = rest.pop(0)
            options = _options(command)
            if word.startswith("--"):
                assert word in options, f"{' '.join(words)}: no option {word}"
                if not options[word].is_flag and rest:
                    rest.pop(0)
            elif isinstance(command, click.Group):
                assert word in command.commands, f"{' '.join(words)}: no command {word}"
                command = command.commands[word]


def test_getting_started_shows_the_commands() -> None:
    """The parser above finds something to check."""
    text = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    found = {tuple(words[:2]) for words in _commands(text)}
    assert {("stic-server", "init"), ("stic-server", "admit"), ("stic-server", "start")} <= found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Relative links and pictures are files of the project."""
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("program", list(PROGRAMS))
def test_every_command_says_what_it_does(program: str) -> None:
    """No command or option without a line of help."""
    group = typer.main.get_command(PROGRAMS[program])
    assert isinstance(group, click.Group)
    for name, command in group.commands.items():
        assert command.help, name
        for option in _options(command).values():
            if option.name != "help":
                assert option.help, f"{name} {option.name}"
