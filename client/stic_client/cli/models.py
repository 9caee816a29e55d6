"""A site's use of models: scoring patients, cross-validation, a reader study, a privacy audit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stic_client.cli.options import app, model_folder, site_of
from stic_core import config_files
from stic_core.errors import DataError
from stic_core.system.terminal import Terminal
from stic_core.tasks import task_named

if TYPE_CHECKING:
    from stic_client.inference.predict import Prediction


@app.command()
def predict(
    context: typer.Context,
    model: Annotated[
        Path, typer.Option(help="Folder of a model, or the id of a run whose final model is here.")
    ],
    manifest: Annotated[
        Path, typer.Option(help="Table of the patients, as for prepare; split and label may be missing.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for scores.csv and the pages; an earlier run's are replaced.")
    ] = Path("predictions"),
    root: Annotated[
        Path | None, typer.Option(help="What the manifest's paths are relative to; default: its own folder.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Number of processes that read images.")] = 1,
) -> None:
    """Score new patients with a model: a table and pages. Exit code 1 if some cannot be scored. Nothing is sent."""
    loaded = site_of(context).load()
    with Terminal(prefix=loaded.site) as terminal:
        terminal.stage("reading the model")
        from stic_client.inference.predict import predict as run

        found = run(
            loaded,
            model=model_folder(model, loaded),
            manifest=manifest,
            out=out,
            root=root,
            workers=workers,
            progress=terminal.progress,
        )
    show_prediction(found)
    raise typer.Exit(1 if found.refused else 0)


def show_prediction(found: Prediction) -> None:
    """What `predict` did, on stdout: what needs a look before where the tables are."""
    from stic_client.inference.verdict import DOUBTFUL
    from stic_client.preflight.outcome import some

    if found.phantom:
        print(
            "PHANTOM: computed patients, or a model that learned from them; says nothing about real patients"
        )
    kinds = Counter(found.verdicts.values())
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(kinds.items()))
    print(f"{len(found.verdicts)} patients scored: {said}")
    doubtful = [subject for subject, verdict in found.verdicts.items() if verdict == DOUBTFUL]
    if doubtful:
        print(f"images doubtful, look at their pages first: {some(doubtful)}")
    if found.not_compared:
        print(f"images were not compared with this site's own: {found.not_compared}")
    if not found.reliable:
        print("how often the model is right is not known here: no held-out figures came with it")
    for refusal in found.refused:
        print(f"not scored: {refusal.message}")
    print(
        f"scores  {found.scores}  ({len(found.verdicts)} of {len(found.verdicts) + len(found.refused)} patients)"
    )
    print(f"pages   {found.index}")


@app.command("model")
def final_model(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Argument(help="A run's id: print its model's folder; default: list all.")
    ] = None,
) -> None:
    """Show which runs' final models are here, and which this site has not received; nothing is sent."""
    from stic_client.participation.final_models import FinalModels

    models = FinalModels(site_of(context).load().models)
    here, lacking = models.here(), models.lacking()
    if run is None:
        for one in here:
            print(f"here     {one}  {models.path(one)}")
        for one in lacking:
            print(f"missing  {one}")
    elif run in here:
        print(models.path(run))
    else:
        raise DataError(
            f"the final model of run {run} is not here",
            got="not received yet" if run in lacking else "a run that this site took no part in",
            advice="It is sent when this site next takes part in a run of the same server; until then the "
            "coordinator can send it with stic-server send-model, while the client of this site runs.",
        )


@app.command()
def crossval(
    context: typer.Context,
    task: Annotated[str, typer.Option(help="malignant, hcc-icc or benign-malignant.")] = "benign-malignant",
    architecture: Annotated[str, typer.Option(help="stic, naive-joint or naive-rgb.")] = "stic",
    backbone: Annotated[
        str, typer.Option(help="vgg16 (the paper's), tiny, or another of torchvision's.")
    ] = "vgg16",
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    epochs: Annotated[
        int, typer.Option(min=1, help="Maximum number of epochs; training may stop early.")
    ] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of folds, weights and shuffling.")] = 0,
    with_test: Annotated[bool, typer.Option("--with-test", help="Also use the held-out patients.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for crossval.json.")] = Path("crossval"),
) -> None:
    """Cross-validate a model on this site's prepared patients: mean ROC, accuracy and AUC."""
    loaded = site_of(context).load()
    chosen = task_named(task)
    model = config_files.parse_model({"architecture": architecture, "backbone": backbone})
    with Terminal(prefix=loaded.site) as terminal:
        terminal.stage("reading the dataset")
        from stic_client.inference.crossval import RESULT_FILE, CrossValidationConfig, described
        from stic_client.inference.crossval import crossval as run

        study = CrossValidationConfig(
            chosen, model, folds=folds, epochs=epochs, seed=seed, with_test=with_test
        )
        document = run(loaded, study, out=out, progress=terminal.progress, note=terminal.note)
    print("\n".join(described(document)))
    print(f"written: {out / RESULT_FILE}")


@app.command("readers")
def readers(
    context: typer.Context,
    readings: Annotated[
        Path, typer.Option(help="CSV of diagnoses: subject, reader, condition (alone, aided), diagnosis.")
    ],
    model: Annotated[
        Path, typer.Option(help="Folder of the model, or the id of a run whose final model is here.")
    ],
    predictions: Annotated[
        Path | None, typer.Option(help="The model's scores.csv from predict; default: computed here.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the page and the tables.")] = Path("readers"),
    export: Annotated[
        Path | None,
        typer.Option(help="Also write the file that may be sent: counts, small ones suppressed."),
    ] = None,
) -> None:
    """Compare readers without and with the model's help on the held-out patients. Nothing is sent."""
    loaded = site_of(context).load()
    with Terminal(prefix=loaded.site) as terminal:
        terminal.stage("reading the diagnoses")
        from stic_client.readers.study import study_readers
        from stic_client.readers.wording import summary

        written = study_readers(
            loaded,
            readings=readings,
            model=model_folder(model, loaded),
            predictions=predictions,
            out=out,
            export=export,
            progress=lambda done, total: terminal.progress("scoring held-out patients", done, total),
        )
    print("\n".join(summary(written.figures)))
    print(f"page    {written.page}  (contains readers' names and small counts: keep it here)")
    print(f"result  {written.result}")
    if written.export is not None:
        names = ", ".join(f"{own} as {sent}" for own, sent in written.called.items())
        print(f"export  {written.export}  (may be sent; it names {names})")


@app.command("privacy-audit")
def privacy_audit(
    context: typer.Context,
    model: Annotated[
        Path, typer.Option(help="Folder of the model, or the id of a run whose final model is here.")
    ],
    shadow_models: Annotated[
        int,
        typer.Option(min=0, max=256, help="Models trained here for the likelihood ratio; 0 leaves it out."),
    ] = 16,
    release: Annotated[
        bool,
        typer.Option(
            "--release", help="Let three figures stand in the next report, if the policy allows it."
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the page and the JSON.")] = Path("privacy-audit"),
) -> None:
    """Try to tell from a model which patients it learned from, with this site's own. Nothing is sent."""
    loaded = site_of(context).load()
    with Terminal(prefix=loaded.site) as terminal:
        terminal.stage("reading the model")
        from stic_client.privacy_audit.audit import PAGE_FILE, RESULT_FILE, audit_model
        from stic_client.privacy_audit.wording import described as in_words

        outcome = audit_model(
            loaded,
            model=model_folder(model, loaded),
            out=out,
            shadow_models=shadow_models,
            release=release,
            progress=terminal.progress,
            note=terminal.note,
        )
    print("\n".join(in_words(outcome)))
    print(f"page    {out / PAGE_FILE}  (figures of few patients: keep it here)")
    print(f"result  {out / RESULT_FILE}")
