"""`stic-client readers`: from diagnoses and a model to tables, a page, and a file of counts."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from stic_client.readers.study import Written, study_readers
from stic_client.readers.wording import summary
from stic_core.config import SiteConfig
from stic_core.errors import DataError, WeightsError
from stic_core.evaluation.figures import PairedAccuracy
from stic_core.evaluation.readers.study import evaluate_readers, read_diagnoses
from stic_core.protocol.audit_log import AuditLog, describe
from stic_core.statistics import delong, margins
from support.reader_files import TASK, dataset_of, held_out_truth, reader_site, write_readings, write_scores


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    """A site with 58 held-out phantom patients, a model, readings and a table of scores."""
    folder = tmp_path_factory.mktemp("site")
    config = reader_site(folder)
    truth = held_out_truth(dataset_of(config))
    write_readings(folder / "readings.csv", truth, classes=TASK.classes)
    write_scores(folder / "scores.csv", truth, classes=TASK.classes)
    return config


@pytest.fixture(scope="module")
def written(site: SiteConfig) -> Written:
    """A study from the table of scores, with an export."""
    folder = site.audit.parent
    return study_readers(
        site,
        readings=folder / "readings.csv",
        model=folder / "model",
        predictions=folder / "scores.csv",
        out=folder / "out",
        export=folder / "sent" / "study.json",
    )


def test_the_result_is_the_study(site: SiteConfig, written: Written) -> None:
    """Every figure of the JSON and of the tables is that of the study computed from the same file."""
    folder = site.audit.parent
    truth = held_out_truth(dataset_of(site))
    with (folder / "scores.csv").open(newline="") as lines:
        model = {row["subject_id"]: row["highest"] for row in csv.DictReader(lines)}
    diagnoses = read_diagnoses(folder / "readings.csv", truth=truth, classes=TASK.classes)
    study = evaluate_readers(diagnoses, model={s: model[s] for s in truth}, truth=truth, classes=TASK.classes)
    content = json.loads(written.result.read_text())
    assert list(content["readers"]) == ["Dr Li", "Dr Wang", "Dr Xu", "consensus"]
    for reader, by in study.readers.items():
        for condition, performance in by.items():
            found = content["readers"][reader][condition]
            assert found["accuracy"]["correct"] == performance.accuracy.hits
            assert tuple(found["accuracy"]["ci95"]) == performance.accuracy.ci95
            for name in TASK.classes:
                assert found["sensitivity"][name]["correct"] == performance.sensitivity[name].hits
                assert found["specificity"][name]["total"] == performance.specificity[name].total
            assert content["confusion"][reader][condition] == [list(row) for row in performance.confusion]
    for reader, pair in study.helped.items():
        assert content["helped"][reader]["p"] == pair.mcnemar.p
    assert content["between"]["alone"]["p"] == study.between["alone"].p
    with (written.result.parent / "reader_performance.csv").open(newline="") as lines:
        rows = [
            row for row in csv.DictReader(lines) if row["judge"] == "Dr Li" and row["condition"] == "aided"
        ]
    assert len(rows) == 7
    assert int(rows[0]["hits"]) == study.readers["Dr Li"]["aided"].accuracy.hits


def test_the_page_shows_points_where_the_readers_stand(written: Written) -> None:
    """A hollow and a filled point a reader and class at (1 - specificity, sensitivity), and the model's curve."""
    page = written.page.read_text(encoding="utf-8")
    content = json.loads(written.result.read_text(encoding="utf-8"))
    assert page.count('<circle class="alone" style="--c: var(--s') == 3 * 4
    assert page.count('<circle class="aided" style="--c: var(--s') == 3 * 4
    assert page.count('<polyline class="curve"') == 3
    figures = content["readers"]["Dr Li"]["aided"]
    x = 200 * (1 - figures["specificity"]["HCC"]["value"])
    y = 200 * (1 - figures["sensitivity"]["HCC"]["value"])
    assert f'cx="{x:.1f}" cy="{y:.1f}"' in page
    assert page.count('<text class="label"') == 3 * 5  # each reader's and the model's name on each plot
    assert page.index('class="changes"') < page.index('id="roc"')
    gains = {
        reader: by["aided"]["accuracy"]["value"] - by["alone"]["accuracy"]["value"]
        for reader, by in content["readers"].items()
    }
    first = page[page.index('class="changes"') : page.index('id="roc"')]
    assert sorted(gains, key=lambda reader: first.index(f">{reader}<")) == sorted(
        gains, key=lambda r: -gains[r]
    )
    for reader, by in content["readers"].items():
        assert reader in page
        assert f"{by['alone']['accuracy']['value']:.3f}" in page
    assert "FOR THIS HOSPITAL" in page
    assert "PHANTOM DATA" in page
    assert "://" not in page
    assert "<script" not in page
    assert written.page.stat().st_mode & 0o077 == 0


def test_only_counts_leave(site: SiteConfig, written: Written) -> None:
    """The export names no reader and no patient, holds no score and no curve, and is in the audit log."""
    assert written.export is not None
    text = written.export.read_text()
    content = json.loads(text)
    assert set(content["readers"]) == {"reader 1", "reader 2", "reader 3", "consensus"}
    for subject in dataset_of(site).subjects:
        assert subject not in text
    assert "Dr " not in text
    assert not {"roc", "confusion", "exported_as"} & set(content)
    assert content["min_cell"] == 5
    (line,) = [line for line in AuditLog(site.audit).read() if line["kind"] == "reader-study"]
    assert (line["direction"], line["decision"]) == ("out", "exported")
    assert line["bytes"] == len(text.encode())
    assert line["content"] == content
    assert "1 reader-study" in describe(AuditLog(site.audit), run=None, as_json=False)


def test_the_terminal_says_it_in_words(written: Written) -> None:
    """A line a judge, then the comparisons, without any patient."""
    lines = summary(written.figures)
    assert lines[0].startswith("PHANTOM")
    pair = written.figures.helped["Dr Xu"]
    assert isinstance(pair, PairedAccuracy)
    (found,) = [line for line in lines if line.startswith("Dr Xu: ")]
    assert re.search(rf"right on {pair.b} of the 58 .* wrong on {pair.c} that", found)
    assert "10 tests are shown" in lines[-1]


def test_scores_are_computed_where_no_table_is_named(site: SiteConfig, tmp_path: Path) -> None:
    """The model's AUC is that of its own scores on the prepared held-out patients; nothing is logged as sent."""
    from stic_client.readers.scores import computed_scores
    from stic_core.models.saved import read_model

    folder = site.audit.parent
    before = len(list(AuditLog(site.audit).read()))
    seen: list[tuple[int, int]] = []
    found = study_readers(
        site,
        readings=folder / "readings.csv",
        model=folder / "model",
        out=tmp_path / "out",
        progress=lambda done, total: seen.append((done, total)),
    )
    dataset = dataset_of(site)
    logits = computed_scores(
        site, read_model(folder / "model"), dataset, rows=dataset.indices("test", TASK)
    ).logits
    labels = dataset.label_indices("test", TASK)
    auc = delong(margins(logits)[:, 0], positive=labels == 0)
    content = json.loads(found.result.read_text(encoding="utf-8"))
    assert content["helped"]["Dr Xu"]["n"] == 58
    assert content["roc"]["classes"]["HCC"]["auc"]["value"] == pytest.approx(auc.value, abs=1e-12)
    said = logits.argmax(axis=1)
    assert content["model"]["accuracy"]["correct"] == int(np.sum(said == labels))
    assert seen[-1] == (58, 58)
    assert found.export is None
    assert len(list(AuditLog(site.audit).read())) == before


def test_what_cannot_be_used_is_said(site: SiteConfig, tmp_path: Path) -> None:
    """Scores of other patients, of other classes, or that are no probabilities; and another backbone."""
    folder = site.audit.parent
    scores = (folder / "scores.csv").read_text().splitlines()

    def attempt(lines: list[str]) -> None:
        table = tmp_path / "scores.csv"
        table.write_text("\n".join(lines) + "\n")
        study_readers(
            site,
            readings=folder / "readings.csv",
            model=folder / "model",
            predictions=table,
            out=tmp_path / "out",
        )

    with pytest.raises(DataError, match="got 57; expected 58"):
        attempt(scores[:1] + scores[2:])
    with pytest.raises(DataError, match="columns"):
        attempt([scores[0].replace("score_ICC", "score_OTHER"), *scores[1:]])
    with pytest.raises(DataError, match="line 2: invalid scores"):
        attempt([scores[0], scores[1].replace("0.", "7.", 1), *scores[2:]])
    with pytest.raises(DataError, match="second row"):
        attempt([*scores, scores[-1]])
    assert not (tmp_path / "out").exists()
    model = json.loads((folder / "model" / "model.json").read_text())
    other = tmp_path / "model"
    other.mkdir()
    (other / "model.json").write_text(json.dumps(model | {"backbone_digest": "0" * 64}))
    (other / "model.safetensors").write_bytes((folder / "model" / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError) as refused:
        study_readers(site, readings=folder / "readings.csv", model=other, out=tmp_path / "out")
    assert refused.value.expected == "0" * 12
    (other / "model.json").write_text(json.dumps(model | {"image": {"crop_mm": 80.0}}))
    with pytest.raises(DataError, match="expected crop_mm: 80"):
        study_readers(site, readings=folder / "readings.csv", model=other, out=tmp_path / "out")
