"""The report: one file that needs nothing else, and shows the numbers of the run folder."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sample_run import CLASSES, write_sample_run
from stic_core.errors import UsageError
from stic_core.evaluation import held_out_table
from stic_server.model_card import write_model_card
from stic_server.report import human_bytes, human_seconds, write_report

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects text, ids and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag, and that it is open."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """It closes the one that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep what a reader sees."""
        if not {"style", "script"} & set(self.open):
            self.text += data


def read(run: Path) -> tuple[str, Page]:
    """The report's source and what a reader sees of it."""
    source = write_report(run).read_text(encoding="utf-8")
    page = Page()
    page.feed(source)
    assert page.open == []
    page.text = re.sub(r"\s+", " ", page.text)
    return source, page


@pytest.fixture(scope="module")
def phantom_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two phantom centres, and one with a single patient."""
    return write_sample_run(tmp_path_factory.mktemp("run"), tiny_site=True)


@pytest.fixture(scope="module")
def page(phantom_run: Path) -> tuple[str, Page]:
    """Its report."""
    return read(phantom_run)


def test_the_report_needs_no_network(page: tuple[str, Page]) -> None:
    """Nothing is loaded from anywhere: no address in any attribute or style, no script."""
    source, parsed = page
    assert "://" not in source
    assert "@import" not in source
    for tag, attributes in parsed.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed"}
        for name in ("src", "href", "data", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")


def test_ids_are_unique_and_references_resolve(page: tuple[str, Page]) -> None:
    """Figures side by side on one page do not take each other's clip paths or markers."""
    source, parsed = page
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", source)) <= set(ids)
    assert set(re.findall(r'href="#([^"]+)"', source)) <= set(ids)


def test_colours_follow_the_page(page: tuple[str, Page]) -> None:
    """Figures hold no colours of their own, so that dark mode is legible."""
    for figure in re.findall(r"<svg.*?</svg>", page[0], flags=re.DOTALL):
        assert not re.findall(r"#[0-9a-f]{6}\b", figure)
        assert "var(--" in figure


def test_phantom_data_say_so(page: tuple[str, Page], tmp_path: Path) -> None:
    """The band is there for phantoms, and only for them."""
    assert "PHANTOM DATA" in page[1].text
    assert "PHANTOM" not in read(write_sample_run(tmp_path, phantom=False, rounds=2))[1].text


def test_numbers_are_those_of_the_evaluation(phantom_run: Path, page: tuple[str, Page]) -> None:
    """Every cell of the held-out table stands in the report as the command line prints it."""
    document = json.loads((phantom_run / "evaluation.json").read_text())
    for row in held_out_table(document)[1:]:
        for text in row[2:]:
            for part in text.replace("(", "").replace(")", "").replace("-", "\N{EN DASH}").split(" "):
                assert part in page[1].text
    macro = document["pooled"]["auc_macro"]
    assert f"reaches a macro AUC of {macro['value']:.3f}" in page[1].text
    for block in (*document["sites"].values(), document["pooled"]):
        calibration = block["calibration"]
        if "brier" in calibration:
            assert f"{calibration['brier']:.3f}" in page[1].text


def test_absent_figures_say_why(page: tuple[str, Page]) -> None:
    """One patient gives no AUC and no accuracy: both in words, with the reason, never as 0."""
    text = page[1].text
    assert "center3: suppressed by the hospital's policy: fewer than 5 patients (accuracy)" in text
    assert "center3: not estimable: one patient cannot give an AUC" in text
    assert "nan" not in text.lower()
    assert "None" not in text
    assert "Undefined" not in text


def test_drop_outs_and_traffic(phantom_run: Path, page: tuple[str, Page]) -> None:
    """Who dropped out when, and what left each hospital."""
    text = page[1].text
    rounds = [json.loads(line) for line in (phantom_run / "rounds.jsonl").read_text().splitlines()]
    assert "center2 in round 7" in text
    assert "19 of 20" in text
    assert human_bytes(sum(line["bytes_up"] for line in rounds)) in text
    assert "Not a medical device" in text
    best = json.loads((phantom_run / "record.json").read_text())["best_round"]
    assert f"round {best} kept" in page[0]


def test_names_are_escaped(tmp_path: Path) -> None:
    """What a configuration says cannot become markup."""
    run = write_sample_run(tmp_path, rounds=2)
    record = json.loads((run / "record.json").read_text())
    record["name"] = "<script>alert(1)</script>"
    (run / "record.json").write_text(json.dumps(record))
    assert "<script>" not in write_report(run).read_text()


def test_a_run_without_evaluation_has_a_report(tmp_path: Path) -> None:
    """An interrupted run can be reported: what there is, and that it was not evaluated."""
    run = write_sample_run(tmp_path, rounds=3)
    (run / "evaluation.json").unlink()
    record = json.loads((run / "record.json").read_text())
    for key in ("finished", "wall_seconds", "best_round", "model_digest", "local_only"):
        del record[key]
    record["status"] = "interrupted"
    (run / "record.json").write_text(json.dumps(record))
    with (run / "rounds.jsonl").open("a") as torn:
        torn.write('{"round": 4, "si')
    text = read(run)[1].text
    assert "has not been evaluated" in text
    assert "status: interrupted" in text
    (run / "rounds.jsonl").unlink()
    assert "over 0 rounds" in read(run)[1].text


def test_a_site_that_suppresses_validation_is_a_gap(tmp_path: Path) -> None:
    """A validation score that a site kept back is no point of its curve, and no error."""
    run = write_sample_run(tmp_path, rounds=2)
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line["val"]["center2"] = {"n": 3, "suppressed": "fewer than 5 patients"}
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Validation loss" in read(run)[1].text


def test_a_site_that_releases_everything(tmp_path: Path) -> None:
    """With min_cell: 1 the confusion stands there in full."""
    run = write_sample_run(tmp_path, min_cell=1, rounds=2)
    document = json.loads((run / "evaluation.json").read_text())
    assert document["pooled"]["confusion"][0][0] > 0
    assert "kept</td>" not in write_report(run).read_text()


def test_equal_runs_give_equal_reports(tmp_path: Path) -> None:
    """Nothing of the moment gets into the file, so a rebuilt report is the same."""
    run = write_sample_run(tmp_path, rounds=2)
    first = write_report(run).read_text()
    assert write_report(run).read_text() == first


@pytest.mark.parametrize("text", [None, "not JSON", "[]"])
def test_a_folder_that_is_no_run(tmp_path: Path, text: str | None) -> None:
    """A missing or broken record is a usage error, not a traceback."""
    if text is not None:
        (tmp_path / "record.json").write_text(text)
    with pytest.raises(UsageError):
        write_report(tmp_path)


def test_figures_lie_beside_as_tables(phantom_run: Path, page: tuple[str, Page]) -> None:
    """Every figure is a CSV too, with the numbers of evaluation.json and the reasons of what is absent."""
    assert page
    document = json.loads((phantom_run / "evaluation.json").read_text())
    tables = {}
    for path in (phantom_run / "report").glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as lines:
            tables[path.stem] = list(csv.DictReader(lines))
    assert set(tables) == {"held_out", "roc", "confusion", "calibration", "learning"}
    macro = next(
        row
        for row in tables["held_out"]
        if (row["model"], row["held_out_set"], row["figure"], row["interval"])
        == ("federated", "pooled", "macro AUC", "ci95_logit")
    )
    assert float(macro["value"]) == document["pooled"]["auc_macro"]["value"]
    assert [float(macro["lower"]), float(macro["upper"])] == document["pooled"]["auc_macro"]["ci95_logit"]
    kept = [row for row in tables["confusion"] if row["held_out_set"] == "center3"]
    assert all(row["patients"] == "" and row["why_absent"].startswith("suppressed") for row in kept)
    assert len([row for row in tables["learning"] if row["site"] == "pooled"]) == 20


def test_model_card(phantom_run: Path, tmp_path: Path) -> None:
    """The card says what the model is for, its results as the table has them, and that it is no device."""
    card = write_model_card(phantom_run).read_text(encoding="utf-8")
    document = json.loads((phantom_run / "evaluation.json").read_text())
    for row in held_out_table(document):
        assert "| " + " | ".join(row) + " |" in card
    assert "Phantom data" in card
    assert "Not a medical device" in card
    assert document["model_digest"] in card
    assert "\n\n\n" not in card
    with pytest.raises(UsageError, match="evaluated"):
        write_model_card(tmp_path)


def test_units() -> None:
    """Bytes and seconds as people say them."""
    assert [human_bytes(x) for x in (0, 999, 1000, 12_908_028, 5e9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "12.9 MB",
        "5.0 GB",
    ]
    assert [human_seconds(x) for x in (2.13, 161.2, 7400)] == ["2.1 s", "2 min 41 s", "2 h 3 min"]
    assert len(CLASSES) == 3
