"""`predict`: images that are not what they should be, undecided scores, and a folder that holds one run's results."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from typer.testing import CliRunner

import stic_client
from stic_client.cli import app
from stic_client.inference import predict as predictions
from stic_client.inference import result_folder
from stic_client.inference.plausibility import DOUBTS, Range, examine, is_doubt, site_range
from stic_client.inference.predict import Prediction, predict
from stic_client.inference.verdict import verdict_of
from stic_client.ingest.manifest import read_manifest
from stic_client.preparation.prepare import prepare
from stic_core.config import SiteConfig
from stic_core.errors import ConfigError, DataError, UsageError
from stic_core.evaluation.reliability import Reliability, ScoreGroup, write_reliability
from stic_core.models.saved import read_model
from support.federation_kit import site_config, write_small_model
from support.ingest_files import (
    PHASES,
    body,
    ct_dataset,
    manifest_row,
    save,
    write_hospital,
    write_manifest,
    write_slices,
)

CLASSES = ("HCC", "ICC", "META")


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Two patients as DICOM slices, one of them with its lesion's place, and a model."""
    config = site_config(tmp_path, site="s1")
    write_small_model(
        tmp_path / "model", backbone=config.backbone_weights["tiny"], phantom=False, run_id="run-1"
    )
    rows = [
        write_slices(tmp_path, subject="P1", seed=1) | {"lesion_row": "46", "lesion_col": "28", "afp": "20"},
        write_slices(tmp_path, subject="P2", seed=2) | {"age": "39"},
    ]
    write_manifest(tmp_path, rows)
    return tmp_path


def scored(hospital: Path, **changes: object) -> Prediction:
    """Score the manifest's patients."""
    config = site_config(hospital, site="s1")
    settings = config.dataset.model_copy(update=changes)
    return predict(
        config.model_copy(update={"dataset": settings}),
        model=hospital / "model",
        manifest=hospital / "manifest.csv",
        out=hospital / "out",
        workers=0,
    )


def table(found: Prediction) -> dict[str, dict[str, str]]:
    """Rows of scores.csv by subject."""
    return {row["subject_id"]: row for row in csv.DictReader(found.scores.read_text().splitlines())}


def rows_of(hospital: Path) -> list[dict[str, str]]:
    """Rows of the manifest."""
    return list(csv.DictReader((hospital / "manifest.csv").read_text().splitlines()))


# ---- images -------------------------------------------------------------------------------


def test_three_slices_without_contrast_are_doubted(hospital: Path) -> None:
    """On the patient's page, in the table and on the list; the patient beside is not."""
    for number, phase in enumerate(PHASES):
        save(
            ct_dataset(body("nc", seed=10 + number), phase=phase, subject="P3"),
            hospital / "P3" / f"{phase}.dcm",
        )
    paths = {f"{phase}_path": f"P3/{phase}.dcm" for phase in PHASES}
    write_manifest(hospital, [*rows_of(hospital), manifest_row("P3", **paths)])
    found = scored(hospital)
    rows = table(found)
    assert rows["P3"]["verdict"] == found.verdicts["P3"] == "images doubtful"
    assert "without contrast" in rows["P3"]["doubts"]
    assert rows["P1"]["doubts"] == ""
    assert "as if without contrast" in (found.pages / "P3.html").read_text()
    index = found.index.read_text()
    assert re.findall(r"patients/(P\d)\.html", index)[0] == "P3"


@pytest.mark.parametrize(
    "order", [(0, 2, 1), (2, 1, 0), (1, 2, 0), (2, 0, 1), (1, 0, 2), (2, 2, 2), (0, 0, 0)]
)
def test_phases_in_a_wrong_order_are_doubted(order: tuple[int, ...]) -> None:
    """By what contrast does to soft tissue, one patient at a time; in the right order there is no doubt."""
    rng = np.random.default_rng(0)
    tissue = 130 + rng.normal(0, 12, (1, 28, 28)).repeat(8, 1).repeat(8, 2)
    right = np.stack([tissue, tissue + 15, tissue + 35], axis=-1)

    def noisy(phases: np.ndarray) -> np.ndarray:
        return np.clip(phases + rng.normal(0, 5, phases.shape), 1, 254).astype(np.uint8)

    assert examine(noisy(right), "nothing to compare with")[0].doubts == ()
    assert examine(noisy(right[..., list(order)]), "nothing to compare with")[0].doubts


@pytest.mark.parametrize("part", DOUBTS)
def test_what_doubts_images_is_said_somewhere(part: str) -> None:
    """A warning that was reworded would no longer put images in doubt."""
    sources = [path.read_text() for path in Path(stic_client.__path__[0]).rglob("*.py")]
    assert sum(part in text for text in sources) > 1  # the list itself, and where it is said
    assert is_doubt(f"PV{part}something") == is_doubt(part) is True
    assert not is_doubt("3 files in the folder are not images")


def test_an_image_that_shows_nothing_is_refused(hospital: Path) -> None:
    """There is nothing to score: the phase is named, and the others are scored."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(60, 200, (224, 224, 3), dtype=np.uint8)
    pixels[..., 1] = 30 + pixels[..., 1] % 2
    Image.fromarray(pixels).save(hospital / "p.png")
    row = {"subject_id": "P3", "layout": "rgb_png", "rgb_path": "p.png", "age": "50", "gender": "male"}
    write_manifest(hospital, [*rows_of(hospital), row | {"registered": "1"}])
    found = scored(hospital)
    (refusal,) = found.refused
    assert (refusal.subject, refusal.reason) == ("P3", "an image shows nothing")
    assert "ART" in refusal.message
    assert set(table(found)) == {"P1", "P2"}


def test_patients_unlike_the_sites_own_are_doubted(tmp_path: Path) -> None:
    """Against prepared training patients, if they were prepared alike; a training patient is recognised."""
    write_hospital(tmp_path / "data")
    config = site_config(tmp_path, site="s1")
    settings = config.dataset.model_copy(update={"root": tmp_path / "data"})
    config = config.model_copy(update={"dataset": settings})
    write_small_model(tmp_path / "model", backbone=config.backbone_weights["tiny"], phantom=False)
    description = read_model(tmp_path / "model").description
    assert "prepared dataset is missing" in str(site_range(config, description))
    prepared = prepare(config, workers=0).dataset
    assert "fewer than" in str(site_range(config, description))
    few = _range(config, least=3)
    assert isinstance(few, Range)
    images = np.asarray(prepared.images)
    assert [found.learned for found in examine(images, few)] == [split != "test" for split in prepared.splits]
    assert not any(found.doubts for found in examine(images, few))
    brighter = np.clip(images[:1].astype(int) + 60, 0, 255).astype(np.uint8)
    assert any("unlike this site's training patients" in doubt for doubt in examine(brighter, few)[0].doubts)
    cropped = description.model_copy(
        update={"image": description.image.model_copy(update={"crop_mm": 100.0})}
    )
    assert "crop_mm" in str(site_range(config, cropped))


def _range(config: SiteConfig, *, least: int) -> Range | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stic_client.inference.plausibility.LEAST_PATIENTS", least)
        return site_range(config, read_model(config.dataset.prepared.parent / "model").description)


def test_patients_who_share_images(hospital: Path) -> None:
    """The same lesion twice and a phase of another patient are doubted; two lesions of one study are a note."""
    one, two = rows_of(hospital)
    rows = [
        one,
        two,
        one | {"subject_id": "twice"},
        two | {"subject_id": "mixed", "pv_path": "P1/pv.dcm"},
    ]
    write_manifest(hospital, rows)
    found = table(scored(hospital))
    assert "same images and lesion as P1" in found["twice"]["doubts"]
    assert "some phases are also those of" in found["mixed"]["doubts"]
    assert "mixed" in found["P2"]["doubts"]


def test_a_whole_slice_is_no_crop(hospital: Path) -> None:
    """A model that learned from crops doubts a patient whose lesion has no place; pictures are a note."""
    path = hospital / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image": {"crop_mm": 160.0}}))
    found = table(scored(hospital))
    assert found["P1"]["doubts"] == ""
    assert "place is not known" in found["P2"]["doubts"]
    assert "Whole slices" in (hospital / "out" / "patients" / "P1.html").read_text()


def test_the_way_of_prepare_is_gone_whole(hospital: Path) -> None:
    """Checksums and units count here, too."""
    with pytest.raises(ConfigError):
        scored(hospital, units={"afp": "furlong"})
    (hospital / "SHA256SUMS").write_text(f"{'0' * 64}  P1/nc.dcm\n")
    (refusal,) = scored(hospital).refused
    assert (refusal.subject, "checksum" in refusal.reason) == ("P1", True)


# ---- the manifest -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["absent", "empty", "anything"])
def test_split_and_label_are_not_looked_at(hospital: Path, kind: str) -> None:
    """They may be missing, empty, or words of the hospital's own."""
    rows = rows_of(hospital)
    for row in rows:
        for column in ("split", "label", "label_source"):
            if kind == "absent":
                del row[column]
            else:
                row[column] = "" if kind == "empty" else "not known yet!"
    path = write_manifest(hospital, rows)
    assert len(read_manifest(path, labelled=False).rows) == 2
    assert not scored(hospital).refused
    with pytest.raises(DataError) if kind == "absent" else _nothing():
        assert not read_manifest(path).rows


class _nothing:  # noqa: N801 - reads as a function beside pytest.raises
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


# ---- verdicts and pages -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "observed", "doubts", "kind"),
    [
        ((0.534, 0.426, 0.04), None, (), "undecided"),
        ((0.66, 0.2, 0.14), None, (), "undecided"),
        ((0.67, 0.2, 0.13), None, (), "class"),
        ((0.9, 0.06, 0.04), 0.9, (), "class"),
        ((0.9, 0.06, 0.04), 0.5, (), "undecided"),
        ((0.9, 0.06, 0.04), 0.9, ("phases look swapped",), "doubtful"),
        ((0.534, 0.426, 0.04), 0.9, (), "undecided"),
    ],
)
def test_the_verdict(
    scores: tuple[float, ...], observed: float | None, doubts: tuple[str, ...], kind: str
) -> None:
    """Below 2/3 nothing is decided, nor where the model was right in fewer than 2 of 3 held-out patients."""
    known = None
    if observed is not None:
        group = ScoreGroup(n=20, predicted=0.88, observed=observed)
        known = Reliability(model_digest="0" * 64, classes={"HCC": (group,)})
    assert verdict_of(CLASSES, scores, doubts=doubts, reliability=known).kind == kind


def test_a_page_is_in_words(hospital: Path) -> None:
    """Age group and levels, lesion, scale and side, what the score was worth, no script and no address."""
    found = scored(hospital)
    page = (found.pages / "P1.html").read_text()
    for words in (
        "60 to 69 years",
        "AFP raised, level 2",
        "not known",
        "yellow ticks",
        "R</text>",
        "10 cm",
        "HU",
    ):
        assert words in page, words
    assert "_age" not in page
    assert "abnormal" not in page
    assert "under 40 years" in (found.pages / "P2.html").read_text()
    assert "lesion's position is not known" in (found.pages / "P2.html").read_text()
    digest = read_model(hospital / "model").description.digest
    groups = tuple(ScoreGroup(n=20, predicted=(at + 0.5) / 10, observed=0.35) for at in range(10))
    known = Reliability(model_digest=digest, classes=dict.fromkeys(CLASSES, groups))
    write_reliability(hospital / "model", known)
    page = (scored(hospital).pages / "P1.html").read_text()
    assert re.search(r"Of 20 held-out patients with a score for \w+ near 0\.\d5, 7 had", page)
    for name in ("P1.html", "../index.html"):
        text = (found.pages / name).read_text()
        assert "<script" not in text
        assert "http" not in text.replace("http-equiv", "")
        assert "default-src 'none'" in text
        assert (found.pages / name).stat().st_mode & 0o077 == 0


def test_figures_of_another_model_are_refused(hospital: Path) -> None:
    """What one model's scores were worth says nothing of another's."""
    write_reliability(hospital / "model", Reliability(model_digest="0" * 64, classes={}))
    with pytest.raises(DataError, match="belongs to another model"):
        scored(hospital)


# ---- the folder ---------------------------------------------------------------------------


def test_nothing_of_an_earlier_run_remains(hospital: Path) -> None:
    """Its patients' pages go, also of one who is refused now; other people's files stay."""
    scored(hospital)
    (hospital / "out" / "patients" / "notes.html").write_text("<html>mine</html>")
    (hospital / "out" / "letter.txt").write_text("mine")
    (hospital / "P1" / "pv.dcm").unlink()
    found = scored(hospital)
    assert set(table(found)) == {"P2"}
    assert sorted(path.name for path in found.pages.iterdir()) == ["P2.html", "notes.html"]
    assert (hospital / "out" / "letter.txt").read_text() == "mine"
    (hospital / "P2" / "pv.dcm").unlink()
    with pytest.raises(DataError, match="no patient can be used"):
        scored(hospital)
    assert sorted(path.name for path in found.pages.iterdir()) == ["notes.html"]
    assert not found.scores.exists()
    assert {
        row["subject_id"]
        for row in csv.DictReader((hospital / "out" / "refused.csv").read_text().splitlines())
    } == {"P1", "P2"}


@pytest.mark.parametrize("at", ["page", "index", "refused", "scores"])
def test_a_run_that_is_killed_while_writing_leaves_no_table(
    hospital: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Neither the old one nor a new one; before that, the old results are whole; the next run mends all."""
    scored(hospital)
    before = {path: path.read_bytes() for path in (hospital / "out").rglob("*") if path.is_file()}

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(predictions, "examine", killed)
        with pytest.raises(Killed):
            scored(hospital)
    assert before == {path: path.read_bytes() for path in (hospital / "out").rglob("*") if path.is_file()}

    real_csv, real_page = result_folder.write_csv, result_folder.write_atomically

    def csv_until(path: Path, columns: Iterable[str], rows: Iterable[tuple[str]], **options: int) -> None:
        if at in path.name:
            raise Killed
        real_csv(path, tuple(columns), rows, **options)

    def page_until(path: Path, text: str, **options: int) -> None:
        if (at == "index" and path.name == "index.html") or (at == "page" and path.name == "P2.html"):
            raise Killed
        real_page(path, text, **options)

    with monkeypatch.context() as patch:
        patch.setattr(result_folder, "write_csv", csv_until)
        patch.setattr(result_folder, "write_atomically", page_until)
        with pytest.raises(Killed):
            scored(hospital)
    assert not (hospital / "out" / "scores.csv").exists()
    assert set(table(scored(hospital))) == {"P1", "P2"}


def test_other_peoples_files_are_not_replaced(hospital: Path) -> None:
    """A table or a page that predict did not write; a file where the folder should be; another run at work."""
    out = hospital / "out"
    out.mkdir()
    (out / "scores.csv").write_text("student,score\n")
    with pytest.raises(UsageError, match=r"scores\.csv was not written by predict"):
        scored(hospital)
    (out / "scores.csv").unlink()
    (out / "patients").mkdir()
    (out / "patients" / "P1.html").write_text("mine")
    with pytest.raises(UsageError, match=r"P1\.html was not written by predict"):
        scored(hospital)
    assert (out / "patients" / "P1.html").read_text() == "mine"
    shutil.rmtree(out)
    out.write_text("a file")
    with pytest.raises(UsageError, match="is not a folder"):
        scored(hospital)
    out.unlink()
    out.symlink_to(out.name)  # to itself
    with pytest.raises(UsageError, match=r"is not a folder|cannot be written"):
        scored(hospital)
    out.unlink()
    out.mkdir()
    with FileLock(out / ".predict.lock"), pytest.raises(UsageError, match="another predict is writing"):
        scored(hospital)


def test_the_exit_code_says_that_some_were_not_scored(
    hospital: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 with everybody, 1 with a refused patient after the others were written."""
    monkeypatch.setattr(
        "stic_client.cli.options.SiteFile.load", lambda self: site_config(hospital, site="s1")
    )
    words = ["--site", "s1", "predict", "--model", str(hospital / "model"), "--workers", "0"]
    words += ["--manifest", str(hospital / "manifest.csv"), "--out", str(hospital / "out")]
    assert CliRunner().invoke(app, words).exit_code == 0
    (hospital / "P1" / "pv.dcm").unlink()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "not scored: P1" in result.stdout
    assert "1 of 2 patients" in result.stdout
