"""The report: one file that needs nothing else, and shows the numbers of the run folder."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stic_core.errors import DataError, UsageError
from stic_core.evaluation import evaluation_of, held_out_table, p_text, points
from stic_core.evaluation.document import Comparison, PairFigures
from stic_core.evaluation.figures import AucFigure
from stic_core.statistics import FEW_DISCORDANT, Absent, AucTest, NotEstimable
from stic_server.report import plots, write_report
from stic_server.report.comparison import non_inferiority
from stic_server.report.model_card import write_model_card
from stic_server.report.rounds import learning, missed_spans, traffic
from stic_server.report.wording import human_bytes, human_seconds, title_of
from support.sample_run import write_reader_release, write_sample_run

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects text, ids, addresses and the rows of tables."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.section = ""
        self.rows: dict[str, list[list[str]]] = {}

    def table(self, section: str) -> list[list[str]]:
        """Rows of a section's tables, each cell's text with single spaces."""
        return [[" ".join(cell.split()) for cell in row] for row in self.rows[section]]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag, and that it is open."""
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        elif tag == "tr":
            self.rows.setdefault(self.section, []).append([])
        elif tag in {"td", "th"}:
            self.rows[self.section][-1].append("")
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
        if {"td", "th"} & set(self.open):
            self.rows[self.section][-1][-1] += data + " "


def read(run: Path, *, readers: tuple[Path, ...] = ()) -> tuple[str, Page]:
    """The report's source and what a reader sees of it."""
    source = write_report(run, readers=readers).read_text(encoding="utf-8")
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
    """The held-out table is, cell by cell, the one that the command line prints; Brier scores are the document's."""
    document = json.loads((phantom_run / "evaluation.json").read_text())

    def as_the_page_has_it(text: str) -> str:
        """An interval stands in a line of its own, with a dash between its ends."""
        return re.sub(r"\((\S+?)-(\S+)\)", "\\1\N{EN DASH}\\2", text)

    expected = [
        [as_the_page_has_it(text) for text in row[1:]] for row in held_out_table(evaluation_of(document))
    ]
    assert len(expected) == 1 + 4 * 4  # four models on two hospitals, the tiny one, and all together
    shown = [row for row in page[1].table("held-out") if len(row) > 1]  # the others name the models
    assert shown == expected
    macro = document["pooled"]["auc_macro"]
    assert f"reaches a macro AUC of {macro['value']:.3f}" in page[1].text
    brier = {row[0]: row[1] for row in page[1].table("calibration")[1:]}
    blocks = document["sites"] | {"pooled": document["pooled"]}
    told = {
        name: f"{block['calibration']['brier']:.3f}" for name, block in blocks.items() if name != "center3"
    }
    assert brier == told | {"center3": brier["center3"]}
    assert brier["center3"].startswith("suppressed")


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
    assert "Bytes are counted at the server" in text
    assert human_bytes(sum(line["bytes_up"] for line in rounds)) in text
    assert "Not a medical device" in text
    best = json.loads((phantom_run / "record.json").read_text())["best_round"]
    assert f"round {best} kept" in page[0]


def test_what_protected_the_updates_is_said(tmp_path: Path, page: tuple[str, Page]) -> None:
    """Masks and noise are named where the run had them, and not where it had none."""
    assert "under masks" not in page[0]
    assert "differential privacy" not in page[0]
    folder = write_sample_run(tmp_path, rounds=2)
    record = json.loads((folder / "record.json").read_text())
    record["config"]["secure_aggregation"] = {"threshold": 0.667}
    record["config"]["training"]["privacy"] = {"epsilon": 3.0, "delta": 1e-4, "max_grad_norm": 1.0}
    (folder / "record.json").write_text(json.dumps(record))
    text = write_report(folder).read_text()
    assert "left under masks" in text
    assert "differential privacy" in text


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
    assert "No round has been averaged yet" in read(run)[1].text


def test_a_site_that_suppresses_validation_is_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation score that a site kept back is no point of its curve; where it kept all, it has no curve."""
    run = write_sample_run(tmp_path, rounds=3)
    rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]

    drawn: dict[str, dict[str, list[float | None]]] = {}

    def draw(numbers: list[int], curves: dict[str, list[float | None]], *, label: str, **_: object) -> str:
        drawn[label] = curves
        return ""

    monkeypatch.setattr(plots, "learning_curve", draw)

    def curves() -> dict[str, list[float | None]]:
        learning(rounds, sites=("center1", "center2"), best=None)
        return drawn["Validation loss"]

    whole = curves()
    rounds[1]["val"]["center2"] = {"n": 3, "suppressed": "fewer than 5 patients"}
    assert curves() == whole | {"center2": [whole["center2"][0], None, whole["center2"][2]]}
    for line in rounds:
        line["val"]["center2"] = {"n": 3, "suppressed": "fewer than 5 patients"}
    assert curves() == {name: curve for name, curve in whole.items() if name != "center2"}


def test_a_site_that_releases_everything(tmp_path: Path, page: tuple[str, Page]) -> None:
    """With min_cell: 1 the confusion stands there in full, the document's; otherwise small cells are kept back."""
    run = write_sample_run(tmp_path, min_cell=1, rounds=2)
    document = json.loads((run / "evaluation.json").read_text())
    assert "Most counts are withheld" in page[1].text
    cells = [row[1:] for row in read(run)[1].table("confusion") if row[0] in document["classes"]]
    blocks = [*document["sites"].values(), document["pooled"]]
    assert cells == [[str(count) for count in row] for block in blocks for row in block["confusion"]]


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


def test_a_run_whose_files_were_altered(tmp_path: Path) -> None:
    """An evaluation or a record that no run writes is a usage error for report and card, which says where."""
    run = write_sample_run(tmp_path, rounds=2)
    good = (run / "evaluation.json").read_text()
    document = json.loads(good)
    document["pooled"]["auc_macro"] = {"value": "high"}
    (run / "evaluation.json").write_text(json.dumps(document))
    for write in (write_report, write_model_card):
        with pytest.raises(UsageError) as caught:
            write(run)
        assert str(caught.value.got).startswith("pooled.auc_macro")
    (run / "evaluation.json").write_text(good)
    record = json.loads((run / "record.json").read_text())
    for wrong in ({"n": -1, "classes": {}}, None):
        record["sites"]["center1"]["patients"]["val"] = wrong
        if wrong is None:
            del record["sites"]["center1"]["patients"]["val"]
        (run / "record.json").write_text(json.dumps(record))
        with pytest.raises(UsageError):
            write_report(run)


def test_figures_lie_beside_as_tables(phantom_run: Path, page: tuple[str, Page]) -> None:
    """Every figure is a CSV too, with the numbers of evaluation.json and the reasons of what is absent."""
    assert page
    document = json.loads((phantom_run / "evaluation.json").read_text())
    tables = {}
    for path in (phantom_run / "report").glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as lines:
            tables[path.stem] = list(csv.DictReader(lines))
    assert set(tables) == {
        *("held_out", "cross_site", "comparison", "roc", "confusion", "calibration", "calibration_summary"),
        *("between_sites", "heterogeneity", "learning", "rounds", "traffic"),
    }
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


def test_two_classes_have_one_auc_everywhere(tmp_path: Path) -> None:
    """Page, card and tables show one AUC, one curve and one slope, and nowhere a macro average of two."""
    run = write_sample_run(tmp_path, classes=("HCC", "ICC"))
    source, parsed = read(run)
    card = write_model_card(run)
    texts = (source, card.read_text(), card.with_suffix(".html").read_text())
    for text in texts:
        assert "macro" not in text.lower()
        assert not re.search(r"AUC (HCC|ICC)", text)
    assert parsed.table("held-out")[0] == ["Held-out set", "n", "Accuracy", "AUC"]
    assert parsed.table("calibration")[0][-1] == "Slope"
    assert source.count("ROC curve of") == 1
    assert "HCC against ICC" in parsed.text
    document = json.loads((run / "evaluation.json").read_text())
    assert f"reaches an AUC of {document['pooled']['auc']['ICC']['value']:.3f}" in parsed.text
    found = {}
    for path in (run / "report").glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as lines:
            found[path.stem] = list(csv.DictReader(lines))
    for name in ("held_out", "comparison", "between_sites"):
        assert {row["figure"] for row in found[name] if "AUC" in row["figure"]} == {"AUC"}
    assert {row["class"] for row in found["roc"]} == {"HCC"}


def test_the_card_is_a_page_too(phantom_run: Path) -> None:
    """Both forms have one source: the same sentences and the same cells, tags that nest, no address."""
    card = write_model_card(phantom_run)
    source = card.with_suffix(".html").read_text(encoding="utf-8")
    assert "://" not in source
    parsed = Page()
    parsed.feed(source)
    assert parsed.open == []

    def words(text: str) -> str:
        """The text without marks and spaces, which the two forms set differently."""
        return "".join(re.sub(r"[*`#|]|^- |---", " ", text, flags=re.MULTILINE).split())

    shown = words(parsed.text)
    lines = [words(line) for line in card.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if line not in shown] == []


def test_what_to_know_stands_before_the_figures(tmp_path: Path) -> None:
    """A run at chance says so in its first sentence, in the box and on the card; a run that is well has no box."""
    run = write_sample_run(tmp_path / "chance", skill={"center1": 0.0, "center2": 0.0})
    source, parsed = read(run)
    assert "which is no better than chance as far as these patients show" in parsed.text
    assert source.index('class="notices"') < source.index('id="held-out"')
    assert "**No better than chance, as far as these patients show.**" in write_model_card(run).read_text()
    well = write_sample_run(tmp_path / "well")
    lines = [json.loads(line) for line in (well / "rounds.jsonl").read_text().splitlines()]
    (well / "rounds.jsonl").write_text(
        "".join(json.dumps(line | {"sites": ["center1", "center2"]}) + "\n" for line in lines)
    )
    assert 'class="notices"' not in read(well)[0]


def test_model_card(phantom_run: Path, tmp_path: Path) -> None:
    """The card says what the model is for, its results as the table has them, and that it is no device."""
    card = write_model_card(phantom_run).read_text(encoding="utf-8")
    document = json.loads((phantom_run / "evaluation.json").read_text())
    for row in held_out_table(evaluation_of(document)):
        assert "| " + " | ".join(row) + " |" in card
    assert "Phantom data" in card
    assert "Not a medical device" in card
    assert document["model_digest"] in card
    assert "\n\n\n" not in card
    with pytest.raises(UsageError):
        write_model_card(tmp_path)
    unevaluated = write_sample_run(tmp_path, rounds=2)
    (unevaluated / "evaluation.json").unlink()
    with pytest.raises(UsageError) as caught:
        write_model_card(unevaluated)
    assert caught.value.expected == "evaluation.json"


def number(text: str) -> float:
    """A number of the page."""
    return float(text.replace("\N{MINUS SIGN}", "-"))


def test_the_matrix_is_every_model_on_every_held_out_set(phantom_run: Path, page: tuple[str, Page]) -> None:
    """Macro AUC and interval of each model and hospital stand in the matrix, and in its CSV, as computed."""
    document = json.loads((phantom_run / "evaluation.json").read_text())
    heading, *rows = page[1].table("matrix")
    columns = [*document["sites"], "pooled"]
    assert [text.split()[0] for text in heading] == ["Model", *columns]
    models = evaluation_of(document).models
    assert list(models) == ["federated", "center1 alone", "center2 alone", "ensemble"]
    assert [row[0] for row in rows] == [title_of(name) for name in models]
    for row, block in zip(rows, models.values(), strict=True):
        for cell, where in zip(row[1:], columns, strict=True):
            auc = block.sets[where].auc_macro
            if isinstance(auc, NotEstimable):
                assert cell == "not estimable"
                continue
            assert isinstance(auc, AucFigure)
            assert isinstance(auc.ci95_logit, tuple)
            low, high = auc.ci95_logit
            assert cell == f"{auc.value:.3f} {low:.3f}\N{EN DASH}{high:.3f}"
    with (phantom_run / "report" / "cross_site.csv").open(newline="", encoding="utf-8") as lines:
        found = {(row["model"], row["held_out_set"]): row for row in csv.DictReader(lines)}
    assert (
        float(found["ensemble", "pooled"]["macro_auc"])
        == document["ensemble"]["pooled"]["auc_macro"]["value"]
    )
    assert found["federated", "center3"]["why_absent"].startswith("not estimable")
    assert page[0].count('class="own"') == 2


def test_the_comparison_says_what_was_counted(phantom_run: Path, page: tuple[str, Page]) -> None:
    """Counts, differences, intervals and p values of each pair are those of evaluation.json, in words too."""
    document = json.loads((phantom_run / "evaluation.json").read_text())
    rows = page[1].table("comparison")
    titles = ["center1's own model", "center2's own model", "the average of the hospitals' own models"]
    folded, rows = rows[1:4], rows[4:]
    assert [row[0] for row in folded] == titles
    tests = 0
    for number, (other, block) in enumerate(document["comparison"].items()):
        title = titles[number]
        pooled = block["pooled"]["accuracy"]
        if "p" in pooled:
            said = f"the federated model was right on {pooled['b']} that {title} got wrong"
            assert f"{said}, and {title} on {pooled['c']} that the federated" in page[1].text
            assert p_text(pooled["p"]) in page[1].text.replace("\N{NO-BREAK SPACE}", " ")
        else:
            assert f"is right more often than {title} cannot be said" in page[1].text
        _, *own = rows[5 * number : 5 * number + 5]
        shown = {row[0]: row for row in own}
        assert shown["pooled"][1:] == folded[number][1:]
        for where, pair in [*block["sites"].items(), ("pooled", block["pooled"])]:
            row = shown[where]
            accuracy = pair["accuracy"]
            if "p" not in accuracy:
                assert row[4] in {"not estimable", "suppressed"}
            else:
                low, high = accuracy["ci95"]
                assert row[1:5] == [
                    *(str(x) for x in (pair["n"], accuracy["b"], accuracy["c"])),
                    f"{points(accuracy['difference'])} {points(low)} to {points(high)}",
                ]
                exact = accuracy["b"] + accuracy["c"] < FEW_DISCORDANT
                told = p_text(accuracy["p_exact"] if exact else accuracy["p"]).removeprefix("p ")
                assert row[5] == told.removeprefix("= ") + (" exact" if exact else "")
                tests += 1
            for cell, test in zip(row[6:], pair["auc"].values(), strict=True):
                if "p" not in test:
                    continue
                low, high = test["ci95"]
                assert cell == f"{test['difference']:+.3f} {low:+.3f} to {high:+.3f} {p_text(test['p'])}"
                tests += 1
        assert other in (phantom_run / "report" / "comparison.csv").read_text()
    assert f"{tests} tests are shown, and no p value is corrected" in page[1].text
    assert "significant" not in page[1].text.lower()


def test_confusion_and_calibration_are_those_of_the_evaluation(
    phantom_run: Path, page: tuple[str, Page]
) -> None:
    """Every count, sensitivity, slope and score of the page is the document's; what is kept back says so."""
    document = json.loads((phantom_run / "evaluation.json").read_text())
    classes = document["classes"]
    blocks = {**document["sites"], "pooled": document["pooled"]}
    assert "confusion" not in page[1].rows  # no grid of withheld counts: what was released, in words
    shown = [
        f"{true} called {said}: {count}"
        for block in blocks.values()
        if isinstance(block["confusion"], list)
        for true, row in zip(classes, block["confusion"], strict=True)
        for said, count in zip(classes, row, strict=True)
        if isinstance(count, int)
    ]
    assert [words for words in shown if words not in page[1].text] == []
    for block in blocks.values():
        for name in classes:
            rate = block["sensitivity"][name]
            if "value" in rate:
                low, high = rate["ci95"]
                assert f"Sensitivity {name} {rate['value']:.3f} {low:.3f}\N{EN DASH}{high:.3f}" in " ".join(
                    re.sub(r"(Sensitivity|Specificity)", r" \1", page[1].text).split()
                ).replace(f"{name}{rate['value']:.3f}", f"{name} {rate['value']:.3f}")
    found = {row[0]: row for row in page[1].table("calibration")}
    for where, block in blocks.items():
        calibration = block["calibration"]
        if "brier" not in calibration:
            assert "suppressed" in found[where][1]
            continue
        brier, log_loss, ece, *slopes = found[where][1:]
        assert [number(brier), number(log_loss), number(ece)] == pytest.approx(
            [calibration[key] for key in ("brier", "log_loss", "ece")], abs=5e-4
        )
        for cell, name in zip(slopes, classes, strict=True):
            fit = calibration["classes"][name]["recalibration"]
            assert cell.split() == [f"{fit['slope']:.2f}", "\N{PLUS-MINUS SIGN}", f"{fit['slope_se']:.2f}"]


def test_fingerprints_and_participants(phantom_run: Path, page: tuple[str, Page]) -> None:
    """Whole hashes of every site's data and of the model, versions, and patients by split and class."""
    record = json.loads((phantom_run / "record.json").read_text())
    for site, facts in record["sites"].items():
        assert facts["fingerprint"] in page[1].text
        assert facts["test_fingerprint"] in page[1].text
        row = next(row for row in page[1].table("sites") if row[0] == site)
        for cell, split in zip(row[1:4], ("train", "val", "test"), strict=True):
            counts = facts["patients"][split]
            classes = counts["classes"]
            spelt = "" if "suppressed" in classes else " " + " / ".join(map(str, classes.values()))
            assert cell == f"{counts['n']}{spelt}"
    assert record["model_digest"] in page[1].text
    for name, version in record["versions"].items():
        assert f"{name} {version}" in page[1].text


def test_a_released_audit_stands_in_a_table(tmp_path: Path) -> None:
    """One row per hospital that released one, with what it keeps back in words; without any there is no table."""
    run = write_sample_run(tmp_path, rounds=2)
    assert 'id="privacy-audit"' not in read(run)[0]
    record = json.loads((run / "record.json").read_text())
    record["sites"]["center2"]["privacy_audit"] = {
        "model": "ab" * 32,
        "train": 160,
        "held_out": 57,
        "loss": {"auc": 0.61, "ci95": [0.52, 0.7], "noticed": 0.57, "p": 0.012},
        "likelihood_ratio": {"not_estimable": "no shadow models were asked for"},
        "site": {"difference": -0.04, "ci95": [-0.1, 0.02], "p": 0.9},
    }
    (run / "record.json").write_text(json.dumps(record))
    _, parsed = read(run)
    rows = [row for row in parsed.table("privacy-audit") if row[0] == "center2"]
    assert rows == [
        [
            "center2",
            "ab" * 6,
            "160",
            "57",
            "0.61 0.52\N{EN DASH}0.70 p = 0.012",
            "not estimable",
            "-0.04 -0.10 to 0.02 p = 0.90",
        ]
    ]
    record["sites"]["center2"]["privacy_audit"]["loss"]["auc"] = 7
    (run / "record.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="privacy audits"):
        read(run)


def test_an_older_run_has_a_report(tmp_path: Path) -> None:
    """Without ensemble, comparison and bytes by site the page leaves out what it cannot know, and says so."""
    run = write_sample_run(tmp_path, rounds=2)
    document = json.loads((run / "evaluation.json").read_text())
    for key in ("ensemble", "comparison"):
        del document[key]
    (run / "evaluation.json").write_text(json.dumps(document))
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        del line["bytes_by_site"], line["update_norm"]
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "report").mkdir()
    (run / "report" / "comparison.csv").write_text("of a time when there was one")
    source, parsed = read(run)
    assert 'id="comparison"' not in source
    assert "Ensemble" not in parsed.text
    assert "shown in equal shares" in parsed.text
    assert not (run / "report" / "comparison.csv").exists()
    assert "| ensemble |" not in write_model_card(run).read_text()


def test_bytes_by_hospital() -> None:
    """Exact where the run counted them for each hospital, equal shares where not, and mixed runs say so."""
    old = {"round": 1, "sites": ["a", "b"], "bytes_down": 20, "bytes_up": 8}
    alone = {"round": 2, "sites": ["a"], "bytes_down": 20, "bytes_up": 5}
    new = {
        "round": 3,
        "sites": ["a"],
        "bytes_down": 21,
        "bytes_up": 7,
        "bytes_by_site": {"a": {"down": 11, "up": 7}, "b": {"down": 10, "up": 0}},
    }
    assert traffic([old, alone, new], sites=["a", "b"]) == {
        "sent": {"a": 4 + 5 + 7, "b": 4},
        "received": {"a": 10 + 10 + 11, "b": 10 + 10 + 10},
        "rounds": {"a": 3, "b": 1},
        "shared_rounds": 2,
    }
    assert traffic([new], sites=["a", "b"])["shared_rounds"] == 0


def test_drop_outs_are_drawn_together() -> None:
    """Neighbouring rounds make a span; a hospital that never came is absent from the first round on."""
    rounds = [{"round": n, "sites": ["a"] if n in {1, 4, 5, 6, 9} else ["a", "b"]} for n in range(1, 10)]
    assert missed_spans(rounds, sites=["a", "b"]) == [("b", "1, 4 to 6, 9")]
    assert missed_spans(rounds, sites=["a", "b", "c"])[1] == ("c", "1 to 9")


def test_non_inferiority_by_hand() -> None:
    """The lower end of the mean difference against the margin; without a class there is no statement."""

    def pair(*differences: tuple[float, float]) -> Comparison:
        tests: dict[str, AucTest | Absent] = {
            f"c{i}": AucTest(d, (d - h, d + h), statistic=0.0, df=None, p=1.0)
            for i, (d, h) in enumerate(differences)
        }
        return Comparison({}, PairFigures(100, NotEstimable("not of interest"), tests))

    held = non_inferiority(pair((0.0, 0.03), (-0.02, 0.03)), classes=["c0", "c1"])
    assert held is not None
    assert "-0.010" in held
    assert "-0.040 to +0.020" in held
    assert "It is non-inferior" in held
    failed = non_inferiority(pair((0.0, 0.05), (-0.02, 0.05)), classes=["c0", "c1"])
    assert failed is not None
    assert "Non-inferiority is not shown" in failed
    assert "No conclusion is possible" in str(non_inferiority(pair((0.0, 0.05)), classes=["c0", "c1"]))
    assert non_inferiority(None, classes=["c0"]) is None


def test_a_simulation_reports_its_margin(tmp_path: Path) -> None:
    """Where a run trained on all data in one place, the page and the card say what the margin allows."""
    run = write_sample_run(tmp_path, rounds=2, simulated=True)
    text = read(run)[1].text
    assert "Centralised: one model on all data in one place (simulation only)" in text
    assert "the lower end of the 95 % interval of the difference in macro AUC lies above -0.05" in text
    card = write_model_card(run).read_text()
    assert "which only a simulation can do" in card
    assert "This was a simulation" in card
    assert "This was a simulation" in text
    assert "model weights and counts do." in text
    assert "record left a hospital" not in text + card


def test_readers_stand_beside_the_model(tmp_path: Path) -> None:
    """A site's exported study is kept with the run and shown: table, words, points on the ROC plots."""
    run = write_sample_run(tmp_path / "run", rounds=2)
    bare, _ = read(run)
    file = write_reader_release(run, tmp_path / "from-center1.json", min_cell=1)
    source, parsed = read(run, readers=(file,))
    study = json.loads(file.read_text())
    rows = {row[0]: row for row in parsed.table("readers")}
    for reader, by in study["readers"].items():
        for condition, said in (("alone", "alone"), ("aided", "with the model's help")):
            counts = by[condition]["accuracy"]
            cell = rows[f"{reader} {said}"][1]
            assert cell.startswith(
                f"{counts['correct']}/{counts['total']} {counts['correct'] / counts['total']:.3f}"
            )
    helped = study["helped"]["reader 1"]
    words = (
        f"right on {helped['b']} of the 58 patients that were wrong without it, and wrong on {helped['c']}"
    )
    assert words in parsed.text
    # Two filled marks a reader and plot: the point with help, and its border with the one alone.
    plots = source[source.index('id="roc"') : source.index('id="readers"')]
    old = bare[bare.index('id="roc"') : bare.index('id="confusion"')]
    assert plots.count("var(--paper)") - old.count("var(--paper)") == 3 * len(study["readers"])
    again, _ = read(run)
    assert again == source
    with (run / "report" / "readers.csv").open(newline="", encoding="utf-8") as lines:
        found = [row for row in csv.DictReader(lines) if row["judge"] == "reader 1"]
    assert len(found) == 2 * 7
    assert (run / "report" / "reader_comparisons.csv").exists()


def test_a_suppressed_reader_count_is_no_point(tmp_path: Path) -> None:
    """Under a strict policy counts are missing: the page says suppressed, and draws no point for them."""
    run = write_sample_run(tmp_path / "run", rounds=2)
    file = write_reader_release(run, tmp_path / "study.json", min_cell=40)
    source, parsed = read(run, readers=(file,))
    row = next(row for row in parsed.table("readers") if row[0] == "reader 1 alone")
    assert row[2:] == ["suppressed"] * 6
    plots = source[source.index('id="roc"') : source.index('id="readers"')]
    assert "var(--paper)" not in plots


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("site", "center9", "did not take part"),
        ("model_digest", "0" * 64, "its model is not this run's"),
        ("test_fingerprint", "0" * 64, "its set of held-out patients is not this run's"),
        ("n", 3, "not an exported reader study"),
        ("truth", ["p1"], "not an exported reader study"),
    ],
)
def test_a_study_that_is_not_of_this_run_is_refused(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    """Another site, model or set of patients, counts that do not add up, anything that is no count."""
    run = write_sample_run(tmp_path / "run", rounds=2)
    file = write_reader_release(run, tmp_path / "study.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(DataError, match=message):
        write_report(run, readers=[file])
    assert not (run / "readers").exists()


def test_a_kept_study_of_an_older_model_is_not_shown(tmp_path: Path) -> None:
    """After another evaluation the readers would stand beside a model that they never saw: it is said."""
    run = write_sample_run(tmp_path / "run", rounds=2)
    write_report(run, readers=[write_reader_release(run, tmp_path / "study.json")])
    document = json.loads((run / "evaluation.json").read_text()) | {"model_digest": "0" * 64}
    (run / "evaluation.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"readers/center1.json: its model is not"):
        write_report(run)


def test_a_comparison_that_a_site_keeps_back(tmp_path: Path) -> None:
    """A suppressed pair is said where it would stand, in the sentence and in the table of reasons."""
    run = write_sample_run(tmp_path, rounds=2)
    document = json.loads((run / "evaluation.json").read_text())
    few = {"suppressed": "fewer than 5 patients"}
    document["comparison"]["center1"]["sites"]["center2"] = few
    nothing = {"not_estimable": "no site releases it"}
    document["comparison"]["ensemble"]["pooled"] = {
        "n": 0,
        "accuracy": nothing,
        "auc": dict.fromkeys(("HCC", "ICC", "META"), nothing),
    }
    (run / "evaluation.json").write_text(json.dumps(document))
    page = read(run)[1]
    rows = page.table("comparison")
    assert ["center2", "suppressed by the hospital's policy: fewer than 5 patients"] in rows
    said = "Whether the federated model is right more often than the average of the hospitals' own models cannot be said: not estimable: no site releases it."
    assert said in page.text
    with (run / "report" / "comparison.csv").open(newline="", encoding="utf-8") as lines:
        kept = [
            row
            for row in csv.DictReader(lines)
            if (row["other_model"], row["held_out_set"]) == ("center1", "center2")
        ]
    assert len(kept) == 4
    assert {row["why_absent"] for row in kept} == {"suppressed: fewer than 5 patients"}


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
