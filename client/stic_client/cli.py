"""`stic-client`: the command of a hospital."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from stic_core import commands, config
from stic_core.config import SiteConfig
from stic_core.errors import UsageError
from stic_core.keys import load_private
from stic_core.terminal import Terminal

if TYPE_CHECKING:
    from stic_client.prepare import PrepareSummary

_WARNINGS = 10

app = typer.Typer(
    name="stic-client",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A hospital's side of STIC-Federated. Without a command: join the federation and serve.",
)


class _Site:
    """What the options before a command say."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path

    def load(self) -> SiteConfig:
        loaded = config.load(self.path, SiteConfig)
        if loaded.site != self.name:
            raise UsageError(
                f"{self.path} is the configuration of another site", got=loaded.site, expected=self.name
            )
        return loaded


@app.callback(invoke_without_command=True)
def join(
    context: typer.Context,
    site: Annotated[str, typer.Option(help="The site's name, such as center2.")],
    config_file: Annotated[
        Path | None, typer.Option("--config", help="site.yaml; default $STIC_HOME/sites/SITE/site.yaml.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Leave when a run is over.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log and tracebacks.")] = False,
) -> None:
    """Join the federation and serve until interrupted."""
    del verbose  # read where errors are shown
    context.obj = _Site(site, config_file or config.home() / "sites" / site / "site.yaml")
    if context.invoked_subcommand is None:
        _serve(context.obj, once=once)


def _serve(site: _Site, *, once: bool) -> None:
    loaded = site.load()
    key = load_private(loaded.key)
    with Terminal(prefix=loaded.site) as terminal:
        terminal.stage("starting")
        # torch and flwr take seconds to import: errors of configuration come before.
        from stic_client import flower_app
        from stic_client.flower_link import FleetLink
        from stic_client.participant import Participant

        # A service manager stops with SIGTERM; leave as with Ctrl-C, signing off.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        participant = Participant(loaded, terminal)
        flower_app.participants[str(site.path)] = participant
        link = FleetLink(
            loaded.server.address,
            ca=loaded.server.ca,
            key=key,
            state=site.path.resolve().parent / "node.json",
            observer=terminal,
        )
        link.serve(
            flower_app.app,
            node_config={"site-config": str(site.path)},
            until=lambda: once and participant.finished is not None,
        )


@app.command()
def enroll(
    context: typer.Context,
    server: Annotated[str, typer.Option(help="host:port of the server.")],
    ca: Annotated[Path, typer.Option(help="The CA's certificate (ca.crt) that the operator sent.")],
    data: Annotated[Path, typer.Option(help="Folder that holds manifest.csv and the images.")],
    crop_mm: Annotated[
        float | None, typer.Option(help="Crop around the lesion, mm; as the federation says.")
    ] = None,
) -> None:
    """Make this site's key pair and its site.yaml; once."""
    from stic_client.enroll import enroll as make

    site: _Site = context.obj
    made = make(site.path.parent, site=site.name, address=server, ca=ca, root=data.resolve(), crop_mm=crop_mm)
    print(f"configuration    {made.config}")
    print(f"public key       {made.public_key}  (send this file to the operator)")
    print(f"key fingerprint  {made.key_fingerprint}  (tell it the operator by telephone)")
    print(f"CA fingerprint   {made.ca_fingerprint}  (compare with the operator's)")


@app.command()
def prepare(
    context: typer.Context,
    workers: Annotated[int | None, typer.Option(help="Processes; default one a core.")] = None,
) -> None:
    """Read, register, crop and store the site's images; again, only what changed."""
    from stic_client.prepare import prepare as run

    loaded = context.obj.load()
    with Terminal(prefix=loaded.site) as terminal:
        terminal.stage("preparing patients")
        summary = run(
            loaded,
            workers=workers,
            progress=lambda done, total: terminal.progress("preparing patients", done, total),
        )
    show_prepared(summary)


def show_prepared(summary: PrepareSummary) -> None:
    """What a preparation did, on stdout."""
    console = Console(highlight=False, soft_wrap=True)
    labels = sorted({label for counts in summary.counts.values() for label in counts})
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    for label in labels:
        table.add_column(label or "(no label)", justify="right")
    for split, counts in summary.counts.items():
        table.add_row(split, *(str(counts.get(label, 0)) for label in labels))
    console.print(table)
    missing = ", ".join(f"{name} {share:.0%}" for name, share in summary.missing.items())
    console.print(f"missing clinical values: {missing}")
    console.print(
        f"{summary.prepared} patients prepared, {summary.reused} unchanged, {len(summary.quarantined)} quarantined, "
        f"{summary.rejected} of {summary.registrations} registrations rejected, "
        f"{summary.without_place} without a known lesion place, in {summary.seconds:.1f} s"
    )
    for reason, count in summary.reasons.items():
        console.print(f"quarantined: {count}, {reason}", markup=False)
    for refusal in summary.quarantined[:_WARNINGS]:
        console.print(f"  {refusal.message}", markup=False)
    if summary.quarantined:
        console.print(f"all of them: {summary.dataset.folder / 'quarantine.csv'}", markup=False)
    for subject, warning in summary.warnings[:_WARNINGS]:
        console.print(f"warning: {subject}: {warning}", markup=False)
    if len(summary.warnings) > _WARNINGS:
        console.print(f"and {len(summary.warnings) - _WARNINGS} more warnings")


def main() -> None:
    """Entry point."""
    commands.run(app, name="stic-client")
