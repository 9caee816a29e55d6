"""`stic-client`: the command of a hospital."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from stic_core import commands, config
from stic_core.config import SiteConfig
from stic_core.ct import PHASES
from stic_core.errors import UsageError
from stic_core.keys import load_private
from stic_core.tasks import TASKS
from stic_core.terminal import Terminal

if TYPE_CHECKING:
    from stic_client.ingest.scan import Proposal
    from stic_client.preflight import Result
    from stic_client.prepare import PrepareSummary

_WARNINGS = 10
_NAMED = 5
_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}

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
    site: Annotated[
        str | None, typer.Option(help="The site's name, such as center2; every command but import needs it.")
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="site.yaml; default $STIC_HOME/sites/SITE/site.yaml.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Leave when a run is over.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log and tracebacks.")] = False,
) -> None:
    """Join the federation and serve until interrupted."""
    del verbose  # read where errors are shown
    if site is not None:
        context.obj = _Site(site, config_file or config.home() / "sites" / site / "site.yaml")
    if context.invoked_subcommand is None:
        _serve(_site(context), once=once)


def _site(context: typer.Context) -> _Site:
    if context.obj is None:
        raise UsageError(
            "no site is named", advice="Name it before the command, such as stic-client --site center2 check."
        )
    return context.obj


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

    site = _site(context)
    made = make(site.path.parent, site=site.name, address=server, ca=ca, root=data.resolve(), crop_mm=crop_mm)
    print(f"configuration    {made.config}")
    print(f"public key       {made.public_key}  (send this file to the operator)")
    print(f"key fingerprint  {made.key_fingerprint}  (tell it the operator by telephone)")
    print(f"CA fingerprint   {made.ca_fingerprint}  (compare with the operator's)")


@app.command()
def prepare(
    context: typer.Context,
    workers: Annotated[int | None, typer.Option(help="Processes; default one a core.")] = None,
    checkerboards: Annotated[
        bool,
        typer.Option(
            "--checkerboards", help="Also write a PNG a registered phase, NC and that phase in turn."
        ),
    ] = False,
    scan: Annotated[
        Path | None,
        typer.Option(help="Propose a manifest for this folder of DICOM files instead; nothing is prepared."),
    ] = None,
) -> None:
    """Read, register, crop and store the site's images; again, only what changed."""
    loaded = _site(context).load()
    if scan is not None:
        _propose(loaded, folder=scan)
        return
    from stic_client.prepare import prepare as run

    with Terminal(prefix=loaded.site) as terminal:
        terminal.stage("preparing patients")
        summary = run(
            loaded,
            workers=workers,
            progress=lambda done, total: terminal.progress("preparing patients", done, total),
            checkerboards=checkerboards,
        )
    show_prepared(summary)
    if checkerboards:
        print(f"checkerboards: {loaded.dataset.prepared / 'checkerboards'}")


def _propose(loaded: SiteConfig, *, folder: Path) -> None:
    from stic_client.ingest.scan import scan, write_proposal

    root = loaded.dataset.root
    beside = (root / loaded.dataset.manifest).parent
    if taken := list(beside.glob("manifest.proposed*.csv")):
        raise UsageError(
            f"{taken[0]} exists",
            advice="Somebody may be completing it: it is left as it is; move it away first.",
        )
    with Terminal(prefix=loaded.site) as terminal:
        terminal.stage(f"looking through {folder}")
        proposal = scan(folder, root=root)
    manifest, notes = write_proposal(proposal, folder=beside)
    show_proposal(proposal, manifest=manifest, notes=notes)


def show_proposal(proposal: Proposal, *, manifest: Path, notes: Path) -> None:
    """What a scan proposes and how sure it is, on stdout."""
    print(f"studies with CT: {len(proposal.patients)}")
    for phase in PHASES:
        sure = Counter(patient.confidence[phase] for patient in proposal.patients)
        shown = ", ".join(
            f"{sure[level]} {level}" for level in ("high", "medium", "low", "none") if sure[level]
        )
        print(f"  {phase.upper():4} confidence: {shown}")
    for note, count in Counter(note for patient in proposal.patients for note in patient.notes).most_common():
        print(f"  {count} to look at: {note}")
    for reason, count in proposal.skipped.items():
        print(f"  {count} files passed over: {reason}")
    print(f"proposed  {manifest}")
    print(f"notes     {notes}")
    print("Add label and split, correct the phases, remove what is not wanted, and save it as manifest.csv.")


@app.command()
def check(
    context: typer.Context,
    offline: Annotated[bool, typer.Option("--offline", help="Leave out what needs the server.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: JSON on stdout.")] = False,
    backbone: Annotated[
        str | None, typer.Option(help="The backbone that the federation uses, where you know it.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The federation's task, where you know it.")] = None,
) -> None:
    """Is this site ready? Data, disk, device, keys, clock and server; exit code 1 with problems."""
    site = _site(context)
    loaded = site.load()
    if task is not None and task not in TASKS:
        raise UsageError("no such task", got=repr(task), expected=" or ".join(TASKS))
    with Terminal(prefix=loaded.site) as terminal:
        terminal.stage("starting")
        from stic_client.preflight import check_site

        result = check_site(
            loaded,
            folder=site.path.resolve().parent,
            observer=terminal,
            ask=None if offline else _ask,
            backbone=backbone,
            task=None if task is None else TASKS[task],
        )
    if as_json:
        print(json.dumps({**result.outcome.document(), "page": result.page and str(result.page)}, indent=1))
    else:
        show_checks(result)
    raise typer.Exit(0 if result.outcome.passed else 1)


def _ask(loaded: SiteConfig) -> str:
    from stic_client.flower_link import ask_admission

    return ask_admission(loaded.server.address, ca=loaded.server.ca, key=load_private(loaded.key))


def show_checks(result: Result) -> None:
    """A line a check, and what to do about it, on stdout."""
    console = Console(highlight=False, soft_wrap=True)
    for one in result.outcome.checks:
        who = [result.subject(row) for row in one.patients]
        named = f": {', '.join(who[:_NAMED])}" + (" ..." if len(who) > _NAMED else "") if who else ""
        console.print(f"{one.status:8}", style=_STYLES[one.status], end="")
        console.print(f" {one.name:12} {one.found}{named}", markup=False)
        if one.mend:
            console.print(f"{'':22}-> {one.mend}", markup=False)
    counts = {status: result.outcome.count(status) for status in ("problem", "warning", "skipped")}
    parts = [
        f"{n} {status}{'s' if n != 1 and status != 'skipped' else ''}" for status, n in counts.items() if n
    ]
    verdict = "ready" if result.outcome.passed else "not ready"
    console.print(
        f"{result.outcome.site} is {verdict}{': ' + ', '.join(parts) if parts else ''}", markup=False
    )
    if result.page:
        console.print(f"page: {result.page}", markup=False)


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


@app.command()
def audit(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(help="A run's id; default all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every line, for programs.")] = False,
) -> None:
    """Verify the log of every message that came in and went out, and sum it up."""
    from stic_core.audit import AuditLog, describe

    print(describe(AuditLog(_site(context).load().audit), run=run, as_json=as_json))


@app.command()
def predict(
    context: typer.Context,
    model: Annotated[Path, typer.Option(help="Folder of a model, such as runs/<run-id>/model.")],
    manifest: Annotated[
        Path, typer.Option(help="Table of the patients, as for prepare; labels may be empty.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for scores.csv and the pages.")] = Path("predictions"),
    root: Annotated[
        Path | None, typer.Option(help="What the manifest's paths are relative to; default its own folder.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 1,
) -> None:
    """Score new patients with a model: a table, and a page each. Nothing leaves this machine."""
    loaded = _site(context).load()
    with Terminal(prefix=loaded.site) as terminal:
        terminal.stage("reading the model")
        from stic_client.predict import predict as run

        found = run(
            loaded,
            model=model,
            manifest=manifest,
            out=out,
            root=root,
            workers=workers,
            progress=lambda done, total: terminal.progress("reading patients", done, total),
        )
    if found.phantom:
        print("PHANTOM: computed patients, or a model that learned from them; nothing here is of people")
    print(f"scores  {found.scores}  ({found.patients} patients)")
    print(f"pages   {found.pages}")
    for refusal in found.refused:
        print(f"not scored: {refusal.message}")


@app.command()
def crossval(
    context: typer.Context,
    task: Annotated[str, typer.Option(help="malignant, hcc-icc or benign-malignant.")] = "benign-malignant",
    architecture: Annotated[str, typer.Option(help="stic, naive-joint or naive-rgb.")] = "stic",
    backbone: Annotated[
        str, typer.Option(help="vgg16 (the paper's), tiny, or another of torchvision's.")
    ] = "vgg16",
    folds: Annotated[int, typer.Option(min=2, help="How many parts.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="At most; training stops early.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of folds, weights and shuffling.")] = 0,
    with_test: Annotated[bool, typer.Option("--with-test", help="Also use the held-out patients.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for crossval.json.")] = Path("crossval"),
) -> None:
    """Cross-validate a model on this site's prepared patients: mean ROC, accuracy and AUC."""
    loaded = _site(context).load()
    if task not in TASKS:
        raise UsageError("no such task", got=repr(task), expected=" or ".join(TASKS))
    model = config.parse_model({"architecture": architecture, "backbone": backbone})
    with Terminal(prefix=loaded.site) as terminal:
        terminal.stage("reading the dataset")
        from stic_client.crossval import RESULT_FILE, Study, described
        from stic_client.crossval import crossval as run

        study = Study(TASKS[task], model, folds=folds, epochs=epochs, seed=seed, with_test=with_test)
        document = run(loaded, study, out=out, progress=terminal.progress, note=terminal.note)
    print("\n".join(described(document)))
    print(f"written: {out / RESULT_FILE}")


imports = typer.Typer(help="Write manifests for a public cohort.", rich_markup_mode=None)
app.add_typer(imports, name="import")


@imports.callback()
def _cohorts() -> None:
    """One command a cohort."""


@imports.command("mct-ltdiag")
def mct_ltdiag(
    directory: Annotated[
        Path, typer.Argument(help="Folder with the patients' folders and meta_info_patient.csv.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the manifests.")],
    centres: Annotated[
        int | None,
        typer.Option(min=2, help="Deal the patients out to so many centres, for a simulated federation."),
    ] = None,
    task: Annotated[str, typer.Option(help="malignant, hcc-icc or benign-malignant.")] = "malignant",
    seed: Annotated[int, typer.Option(min=0, help="Draws centres and held-out patients.")] = 0,
) -> None:
    """MCT-LTDiag (doi 10.7910/DVN/S3RW15), as it is downloaded."""
    from stic_client.importers import import_mct_ltdiag

    if task not in TASKS:
        raise UsageError("no such task", got=repr(task), expected=" or ".join(TASKS))
    names = None if centres is None else [f"center{number}" for number in range(1, centres + 1)]
    out = out.resolve()
    summary = import_mct_ltdiag(directory, out=out, centres=names, task=TASKS[task], seed=seed)
    for name, path in summary.manifests.items():
        counts = ", ".join(f"{label} {count}" for label, count in summary.counts[name].items())
        print(f"{name + ': ' if name else ''}{counts}")
        print(f"  dataset.root: {summary.root}")
        print(f"  dataset.manifest: {path}")
    for reason, count in summary.left_out.items():
        print(f"left out: {count} {reason}")


def main() -> None:
    """Entry point."""
    commands.run(app, name="stic-client")
