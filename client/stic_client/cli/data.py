"""A site's data: preparing them, checking them, and manifests of public cohorts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from stic_client.cli.options import app, site_of
from stic_client.connection.keys import SiteKeys
from stic_core.config import SiteConfig
from stic_core.data.ct import PHASES
from stic_core.errors import UsageError
from stic_core.system.command_line import CommandLine, LogCommand
from stic_core.system.terminal import Terminal
from stic_core.tasks import task_named

if TYPE_CHECKING:
    from stic_client.ingest.proposal import Proposal
    from stic_client.preflight import Result
    from stic_client.preparation.prepare import PrepareSummary

_WARNINGS = 10
_NAMED = 5
_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}


@app.command()
def prepare(
    context: typer.Context,
    workers: Annotated[int | None, typer.Option(help="Number of processes; default: one per core.")] = None,
    checkerboards: Annotated[
        bool,
        typer.Option(
            "--checkerboards",
            help="Also write a PNG per registered phase, a checkerboard of NC and that phase.",
        ),
    ] = False,
    scan: Annotated[
        Path | None,
        typer.Option(help="Propose a manifest for this folder of DICOM files instead; nothing is prepared."),
    ] = None,
) -> None:
    """Read, register, crop and store the site's images; a rerun processes only what changed."""
    loaded = site_of(context).load()
    if scan is not None:
        _propose(loaded, folder=scan)
        return
    from stic_client.preparation.prepare import prepare as run

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
    from stic_client.ingest.proposal import write_proposal
    from stic_client.ingest.scan import scan

    root = loaded.dataset.root
    beside = (root / loaded.dataset.manifest).parent
    if taken := list(beside.glob("manifest.proposed*.csv")):
        raise UsageError(
            f"{taken[0]} exists",
            advice="Somebody may be editing it: it is not overwritten; move it away first.",
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
        print(f"  {count} files skipped: {reason}")
    print(f"proposed  {manifest}")
    print(f"notes     {notes}")
    print("The notes say who each patient is, for joining your own tables: they stay in the hospital.")
    print("Add label and split, correct the phases, remove what is not wanted, and save it as manifest.csv.")


@app.command()
def check(
    context: typer.Context,
    offline: Annotated[bool, typer.Option("--offline", help="Skip the checks that need the server.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    backbone: Annotated[
        str | None, typer.Option(help="The backbone that the federation uses, if you know it.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The federation's task, if you know it.")] = None,
) -> None:
    """Check whether this site is ready: data, disk, device, keys, clock, server; exit code 1 on problems."""
    site = site_of(context)
    loaded = site.load()
    chosen = None if task is None else task_named(task)
    with Terminal(prefix=loaded.site) as terminal:
        terminal.stage("starting")
        from stic_client.preflight import check_site

        result = check_site(
            loaded,
            folder=site.path.resolve().parent,
            observer=terminal,
            ask=None if offline else _ask,
            backbone=backbone,
            task=chosen,
        )
    if as_json:
        print(json.dumps({**result.outcome.document(), "page": result.page and str(result.page)}, indent=1))
    else:
        show_checks(result)
    raise typer.Exit(0 if result.outcome.passed else 1)


def _ask(loaded: SiteConfig) -> str:
    from stic_client.flower_requests import ask_admission

    keys = SiteKeys(loaded.key)
    known = ask_admission(loaded.server.address, ca=loaded.server.ca, key=keys.current())
    if known == "unknown" and (following := keys.next_key()) is not None:
        known = ask_admission(loaded.server.address, ca=loaded.server.ca, key=following)
    return known


def show_checks(result: Result) -> None:
    """A line a check, and what to do about it, on stdout."""
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    for one in result.outcome.checks:
        who = [result.subject(row) for row in one.patients]
        named = f": {', '.join(who[:_NAMED])}" + (" ..." if len(who) > _NAMED else "") if who else ""
        console.print(f"{one.status:8}", style=_STYLES[one.status], end="")
        console.print(f" {one.name:12} {one.found}{named}", markup=False)
        if one.remedy:
            console.print(f"{'':22}-> {one.remedy}", markup=False)
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
    console = Console(highlight=False, soft_wrap=True, emoji=False)
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
        f"{summary.without_place} without a known lesion position, in {summary.seconds:.1f} s"
    )
    for reason, count in summary.reasons.items():
        console.print(f"quarantined: {count}, {reason}", markup=False)
    for refusal in summary.quarantined[:_WARNINGS]:
        console.print(f"  {refusal.message}", markup=False)
    if summary.quarantined:
        console.print(f"full list: {summary.dataset.folder / 'quarantine.csv'}", markup=False)
    for subject, warning in summary.warnings[:_WARNINGS]:
        console.print(f"warning: {subject}: {warning}", markup=False)
    if len(summary.warnings) > _WARNINGS:
        console.print(f"and {len(summary.warnings) - _WARNINGS} more warnings")


imports = CommandLine(command=LogCommand, help="Write manifests for a public cohort.")
app.add_typer(imports, name="import")


@imports.callback()
def _cohorts() -> None:
    """One command per cohort."""


@imports.command("mct-ltdiag")
def mct_ltdiag(
    directory: Annotated[
        Path, typer.Argument(help="Folder with the patients' folders and meta_info_patient.csv.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the manifests.")],
    centres: Annotated[
        int | None,
        typer.Option(min=2, help="Divide the patients among this many centres, for a simulated federation."),
    ] = None,
    task: Annotated[str, typer.Option(help="malignant, hcc-icc or benign-malignant.")] = "malignant",
    seed: Annotated[int, typer.Option(min=0, help="Seed for drawing centres and held-out patients.")] = 0,
) -> None:
    """Write manifests for MCT-LTDiag (doi 10.7910/DVN/S3RW15) as downloaded."""
    from stic_client.preparation.public_cohorts import import_mct_ltdiag

    names = None if centres is None else [f"center{number}" for number in range(1, centres + 1)]
    out = out.resolve()
    summary = import_mct_ltdiag(directory, out=out, centres=names, task=task_named(task), seed=seed)
    for name, path in summary.manifests.items():
        counts = ", ".join(f"{label} {count}" for label, count in summary.counts[name].items())
        print(f"{name + ': ' if name else ''}{counts}")
        print(f"  dataset.root: {summary.root}")
        print(f"  dataset.manifest: {path}")
    for reason, count in summary.left_out.items():
        print(f"excluded: {count} {reason}")
