"""Joining the federation, and what a site agrees with it: keys, plans, the log."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stic_client.cli.options import CONFIG_HELP, SITE_HELP, Named, SiteFile, app, site_of
from stic_client.connection.keys import SiteKeys
from stic_client.connection.waiting_times import Intervals
from stic_core import __version__, config_files
from stic_core.errors import RefusedError, UsageError
from stic_core.service import service_terminal
from stic_core.system.command_line import LOG_HELP, VERBOSE_HELP, LogFormat
from stic_core.system.terminal import Terminal

if TYPE_CHECKING:
    from stic_client.participation.approvals import PlanStore
    from stic_core.config import SiteConfig
    from stic_core.protocol.messages import RunPlan


_SILENT_S = 14_400.0
"""A client that shows no sign of life for so long hangs; a round of training without a GPU may be one silence.

The systemd unit's WatchdogSec is the same.
"""


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        from stic_core.protocol.fields import VERSION

        print(f"stic-client {__version__} (protocol version {VERSION})")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def join(
    context: typer.Context,
    site: Annotated[str | None, typer.Option(help=SITE_HELP)] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help=CONFIG_HELP)] = None,
    once: Annotated[bool, typer.Option("--once", help="Exit when a run is over.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help=VERBOSE_HELP)] = False,
    log: Annotated[LogFormat, typer.Option("--log", help=LOG_HELP)] = LogFormat.TEXT,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Join the federation and serve until interrupted."""
    del verbose, log, version  # read where lines and errors are shown
    context.obj = Named(site, config_file)
    if context.invoked_subcommand is None:
        _serve(site_of(context), once=once)


def _serve(site: SiteFile, *, once: bool) -> None:
    loaded = site.load()
    intervals = Intervals().scaled(config_files.interval_scale())
    keys = SiteKeys(loaded.key)
    key = keys.current()
    with service_terminal(loaded, folder=site.path.resolve().parent) as terminal, _failure_told(terminal):
        terminal.stage("starting")
        # torch and flwr take seconds to import: errors of configuration come before.
        from stic_client.flower_app import client_app
        from stic_client.flower_link import FleetLink
        from stic_client.metrics import ClientMetrics
        from stic_client.participation.participant import Participant
        from stic_core.monitoring.families import registry_of
        from stic_core.monitoring.ports import monitoring_ports

        # A service manager stops with SIGTERM; leave as with Ctrl-C, signing off.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        metrics = ClientMetrics(terminal, silent_s=lambda: terminal.silent_s)
        participant = Participant(loaded, metrics)
        link = FleetLink(
            loaded.server.address,
            ca=loaded.server.ca,
            key=key,
            state=site.path.resolve().parent / "node.json",
            observer=metrics,
            keys=keys,
            intervals=intervals,
        )

        try:
            with monitoring_ports(
                loaded.monitoring, serving=partial(_serves, terminal), registry=registry_of(metrics)
            ):
                link.serve(
                    client_app(participant),
                    node_config={},
                    until=lambda: once and participant.finished is not None,
                    ready=participant.disk.can_log,
                )
        finally:
            participant.close()


def _serves(terminal: Terminal) -> bool:
    """What health says: the client's work goes on, whether it reaches the server or not."""
    return terminal.silent_s < _SILENT_S


@contextmanager
def _failure_told(terminal: Terminal) -> Iterator[None]:
    """Whoever is notified learns that the client ended by an error, of which only the kind is told."""
    try:
        yield
    except Exception as error:
        terminal.event(
            "run-failed", f"the client ended with {type(error).__name__}", error=type(error).__name__
        )
        raise


@app.command()
def enroll(
    context: typer.Context,
    server: Annotated[str, typer.Option(help="host:port of the server.")],
    ca: Annotated[Path, typer.Option(help="The CA's certificate (ca.crt) that the operator sent.")],
    data: Annotated[Path, typer.Option(help="Folder that holds manifest.csv and the images.")],
    crop_mm: Annotated[
        float | None, typer.Option(help="Side of the square around the lesion, mm; as in the federation.")
    ] = None,
) -> None:
    """Create this site's key pair and its site.yaml; run once."""
    from stic_client.connection.enroll import enroll as make

    site = site_of(context)
    if not data.is_dir():
        raise UsageError(
            f"the data folder {data} {'is not a folder' if data.exists() else 'does not exist'}",
            expected="a folder with manifest.csv and the images",
            advice="Correct --data, or make the folder first; is a share not mounted?",
        )
    made = make(site.path.parent, site=site.name, address=server, ca=ca, root=data.resolve(), crop_mm=crop_mm)
    print(f"configuration    {made.config}")
    print(f"public key       {made.public_key}  (send this file to the operator)")
    print(f"key fingerprint  {made.key_fingerprint}  (read it to the operator by telephone)")
    print(f"CA fingerprint   {made.ca_fingerprint}  (compare with the operator's)")


@app.command()
def schema() -> None:
    """Print the JSON Schema of site.yaml, with which an editor completes and checks keys."""
    from stic_core.config_schema import schema as made

    print(json.dumps(made("site"), indent=1))


@app.command()
def health(context: typer.Context) -> None:
    """Ask this site's running client whether it serves (monitoring.health_port); exit code 1 if it does not."""
    from stic_core.monitoring import ports

    answer = ports.health(site_of(context).load().monitoring)
    print(answer)
    raise typer.Exit(0 if answer == "serving" else 1)


@app.command("rotate-key")
def rotate_key(context: typer.Context) -> None:
    """Make a new key for this site; the old one stays in use until the operator has admitted the new one."""
    keys = SiteKeys(site_of(context).load().key)
    fingerprint = keys.make_next()
    print(f"public key       {keys.next_public}  (send this file to the operator)")
    print(f"key fingerprint  {fingerprint}  (read it to the operator by telephone)")


@app.command()
def approve(
    context: typer.Context,
    plan: Annotated[
        str | None,
        typer.Argument(
            help="The file that the operator sent, or the beginning of a hash; default: the plan that is waiting, "
            "with --withdraw the one that is approved."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    listed: Annotated[
        bool, typer.Option("--list", help="Only list the plans that are waiting or approved.")
    ] = False,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Withdraw an approval instead.")] = False,
) -> None:
    """Review the plan of a run and approve it; this site takes part in no other run."""
    from stic_client.participation.approvals import PlanStore, check_beforehand, read_plan
    from stic_client.participation.looks_summary import looks_in_words

    config = site_of(context).load()
    store = PlanStore(config.plans)
    if listed:
        for state, plans in (("waiting", store.waiting()), ("approved", store.approved())):
            for one in plans:
                work = "evaluates one model" if one.evaluates else f"at most {one.rounds} rounds"
                print(f"{state:9}{one.digest[:12]}  {one.name}, task {one.task.name}, {work}")
        for path in store.unreadable():
            print(f"{'unusable':9}{path.stem[:12]}  not a plan of this version: {path}")
        return
    if plan is None and not withdraw and not store.waiting():
        raise UsageError(
            "no plan is waiting for approval",
            advice="Join first (the server's plan is then kept here), or name the file that the operator sent; "
            "`approve --list` shows what is already approved.",
        )
    found = (
        (store.approved_alone() if withdraw else store.waiting()[0])
        if plan is None
        else read_plan(Path(plan))
        if os.path.isfile(plan) or plan.endswith(".json")  # noqa: PTH113 - a hash may be too long for a path
        else store.find(plan)
    )
    _show_plan(found, config, store)
    if not withdraw:
        print(f"{'patients here':21}{check_beforehand(found, config)}")
    print("\n" + looks_in_words(config.held_out, allowed=config.policy.held_out_models))
    if not yes and not sys.stdin.isatty():
        raise UsageError(
            "no terminal to ask for confirmation", advice="Review the plan above, then add --yes."
        )
    if not yes and not typer.confirm(
        "Withdraw the approval?" if withdraw else "Approve this plan?", err=True
    ):
        raise RefusedError("nothing was changed")
    (store.withdraw if withdraw else store.approve)(found)
    print("withdrawn" if withdraw else "approved")


def _show_plan(plan: RunPlan, config: SiteConfig, store: PlanStore) -> None:
    """What leaves under it and this site's policy, what is known of its model, and what changed since the last yes."""
    from stic_client.participation.final_models import FinalModels
    from stic_core.protocol.plan_summary import described

    for name, value in described(plan, config.policy):
        print(f"{name:21}{value}")
    if plan.evaluates and (trained_in := FinalModels(config.models).run_of(plan.evaluates)):
        print(f"{'known here as':21}the final model of run {trained_in}")
    for line in store.differences(plan):
        print(f"{'differs':21}{line}")


@app.command()
def audit(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(help="A run's id; default: all runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every line as JSON, for programs.")] = False,
) -> None:
    """Verify the log of every message in and out, and summarise it."""
    from stic_client.participation.looks_summary import looks_in_words
    from stic_core.protocol.audit_log import AuditLog, describe

    config = site_of(context).load()
    print(describe(AuditLog(config.audit), run=run, as_json=as_json))
    if not as_json:
        print("\n" + looks_in_words(config.held_out, allowed=config.policy.held_out_models, run=run))
