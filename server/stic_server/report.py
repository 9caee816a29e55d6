"""`report.html` of a run: one file that opens without a network, for readers who are no programmers.

Everything in it comes from the run folder (`record.json`, `rounds.jsonl`, `evaluation.json`),
so the report can be rebuilt at any time and shows the numbers that those files hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from stic_core.errors import UsageError
from stic_core.evaluation import figure, held_out_table
from stic_server import report_figures
from stic_server.report_tables import write_tables

Json: TypeAlias = Any
"""What `json.loads` gives."""

SPLITS = ("train", "val", "test")


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder, and its figures as tables into `report/`.

    Args:
        run: folder with `record.json`; `rounds.jsonl` and `evaluation.json` where the run
            got that far.

    Returns:
        The path of the report.

    Raises:
        UsageError: the folder holds no run, or a file of it is not what a run writes.
    """
    record = _read(run / "record.json")
    rounds_file, evaluation_file = run / "rounds.jsonl", run / "evaluation.json"
    rounds = _read_lines(rounds_file) if rounds_file.exists() else []
    evaluation = _read(evaluation_file) if evaluation_file.exists() else None
    write_tables(run / "report", rounds=rounds, evaluation=evaluation)
    target = run / "report.html"
    target.write_text(render(record, rounds=rounds, evaluation=evaluation), encoding="utf-8")
    return target


def render(record: Json, *, rounds: Sequence[Json], evaluation: Json | None) -> str:
    """The report as HTML.

    Args:
        record: `record.json`.
        rounds: lines of `rounds.jsonl`.
        evaluation: `evaluation.json`, None where there was no evaluation.
    """
    environment = Environment(
        loader=PackageLoader("stic_server", "templates"),
        autoescape=select_autoescape(["html.j2", "html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bytes=human_bytes, seconds=human_seconds, figure=figure, moment=_moment, thousands=_thousands
    )
    sites = sorted(record["sites"])
    classes = list(record["config"]["task"]["classes"])
    return environment.get_template("report.html.j2").render(
        absent=absent,
        record=record,
        sites=sites,
        classes=classes,
        splits=SPLITS,
        colours=report_figures.colour_names(sites),
        phantom=bool(record.get("phantom")) or bool(evaluation and evaluation["phantom"]),
        patients=_patients(record, sites=sites),
        rounds=rounds,
        traffic=_traffic(rounds, sites=sites),
        missed=_missed(rounds, sites=sites),
        learning=_learning(rounds, sites=sites, best=record.get("best_round")),
        evaluation=evaluation,
        held_out=None if evaluation is None else _held_out(evaluation, sites=sites, classes=classes),
    )


def human_bytes(count: float) -> str:
    """Decimal units, as network equipment counts.

    Example:
        >>> human_bytes(12_908_028)
        '12.9 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """A duration as one would say it.

    Example:
        >>> human_seconds(161.2), human_seconds(2.13), human_seconds(7400)
        ('2 min 41 s', '2.1 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def absent(value: Json) -> str | None:
    """Why there is no figure, or None where there is one."""
    if not isinstance(value, Mapping):
        return None
    if "suppressed" in value:
        return f"suppressed by the hospital's policy: {value['suppressed']}"
    if "not_estimable" in value:
        return f"not estimable: {value['not_estimable']}"
    return None


def _read(path: Path) -> Json:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path.parent} holds no run", expected=path.name) from None
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read as JSON", got=type(error).__name__) from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is not what a run writes", got=type(found).__name__, expected="an object")
    return found


def _read_lines(path: Path) -> list[Json]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # A line without its end was being written when the server stopped.
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read as JSON lines", got=type(error).__name__) from None


def _moment(text: str | None) -> str:
    if not text:
        return "not yet"
    moment = datetime.fromisoformat(text)
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()


def _thousands(count: int) -> str:
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _patients(record: Json, *, sites: Sequence[str]) -> Json:
    """Patients by site and split, with totals; a site's counts of classes may be suppressed."""
    table = {site: record["sites"][site]["patients"] for site in sites}
    totals = {split: sum(parts[split]["n"] for parts in table.values()) for split in SPLITS}
    return {"sites": table, "totals": totals, "all": sum(totals.values())}


def _traffic(rounds: Sequence[Json], *, sites: Sequence[str]) -> Json:
    """Bytes that left and reached each hospital, in equal parts: all send and get the same weights.

    What came in is shared by all hospitals, since one that drops out was sent the model too.
    """
    sent, received = dict.fromkeys(sites, 0.0), dict.fromkeys(sites, 0.0)
    for line in rounds:
        for site in line["sites"]:
            sent[site] = sent.get(site, 0.0) + line.get("bytes_up", 0) / len(line["sites"])
        for site in sites:
            received[site] += line.get("bytes_down", 0) / len(sites)
    part = {site: sum(site in line["sites"] for line in rounds) for site in sites}
    return {"sent": sent, "received": received, "rounds": part}


def _missed(rounds: Sequence[Json], *, sites: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Rounds that a site was absent from, of those after it first took part."""
    seen: set[str] = set()
    missed = []
    for line in rounds:
        seen |= set(line["sites"])
        if gone := [site for site in sites if site in seen and site not in line["sites"]]:
            missed.append((line["round"], gone))
    return missed


def _learning(rounds: Sequence[Json], *, sites: Sequence[str], best: int | None) -> list[tuple[str, str]]:
    """Panels: what is shown, and the figure."""
    if not rounds:
        return []
    numbers = [line["round"] for line in rounds]

    def validation(name: str, key: str) -> list[float | None]:
        return [line.get("val", {}).get(name, {}).get(key) for line in rounds]

    names = [*sites, "pooled"]
    train = {site: [line.get("train_loss", {}).get(site) for line in rounds] for site in sites}
    loss = {name: validation(name, "loss") for name in names}
    accuracy = {name: validation(name, "accuracy") for name in names}
    return [
        (
            title,
            report_figures.learning_curve(numbers, _told(curves), sites=sites, label=title, best=best),
        )
        for title, curves in (
            ("Training loss", train),
            ("Validation loss", loss),
            ("Validation accuracy", accuracy),
        )
        if _told(curves)
    ]


def _told(curves: Mapping[str, Sequence[Json]]) -> dict[str, Sequence[Json]]:
    """Curves with a number in them; what a site suppressed is a gap."""
    numbers = {
        name: [value if isinstance(value, int | float) else None for value in values]
        for name, values in curves.items()
    }
    return {name: values for name, values in numbers.items() if set(values) != {None}}


def _held_out(evaluation: Json, *, sites: Sequence[str], classes: Sequence[str]) -> Json:
    """All that the template shows of the evaluation, beside the document itself."""
    blocks = {**evaluation["sites"], "pooled": evaluation["pooled"]}
    known = [site for site in sites if site in evaluation["sites"]]
    heading, *rows = held_out_table(evaluation)
    pooled = evaluation["pooled"]["auc_macro"]
    alone = {
        owner: block["pooled"]["auc_macro"]
        for owner, block in evaluation["local_only"].items()
        if "value" in block["pooled"]["auc_macro"]
    }
    return {
        "blocks": blocks,
        "heading": heading,
        "groups": _groups(rows),
        "macro": pooled,
        # Those that the pooled AUC is over: a site that releases no scores is not among them.
        "counted": max(
            (
                auc["positives"] + auc["negatives"]
                for auc in evaluation["pooled"]["auc"].values()
                if "value" in auc
            ),
            default=0,
        ),
        "alone": alone,
        "models": _models_figure(pooled, alone),
        "roc": [
            (name, _roc_figure(blocks, name=name, sites=known, colours=sites), _captions(blocks, name))
            for name in classes
        ],
        "reliability": [(name, _reliability_figure(blocks, name=name, colours=sites)) for name in classes],
        "reasons": _reasons(evaluation),
    }


def _groups(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Rows of the held-out table by model."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for model, *cells in rows:
        groups.setdefault(model, []).append(tuple(cells))
    return list(groups.items())


def _models_figure(pooled: Json, alone: Mapping[str, Json]) -> str | None:
    if "value" not in pooled or not alone:
        return None
    rows = []
    for name, block in (
        ("federated", pooled),
        *((f"{owner} alone", block) for owner, block in alone.items()),
    ):
        ends = block["ci95_logit"] if isinstance(block["ci95_logit"], list) else (None, None)
        rows.append(
            {
                "name": name,
                "value": block["value"],
                "low": ends[0],
                "high": ends[1],
                "strong": name == "federated",
            }
        )
    return report_figures.models(rows, label="Macro AUC of each model on all held-out patients")


def _roc_figure(
    blocks: Mapping[str, Json], *, name: str, sites: Sequence[str], colours: Sequence[str]
) -> str | None:
    curves = {
        site: points for site in (*sites, "pooled") if isinstance(points := blocks[site]["roc"][name], list)
    }
    if not curves:
        return None
    return report_figures.roc(curves, sites=colours, label=f"ROC curve of {name} against the rest")


def _captions(blocks: Mapping[str, Json], name: str) -> list[tuple[str, Json]]:
    return [(site, block["auc"][name]) for site, block in blocks.items()]


def _reliability_figure(blocks: Mapping[str, Json], *, name: str, colours: Sequence[str]) -> str | None:
    curves = {
        site: block["calibration"]["classes"][name]["bins"]
        for site, block in blocks.items()
        if "classes" in block["calibration"]
    }
    if not curves:
        return None
    return report_figures.reliability(curves, sites=colours, label=f"Reliability of {name}")


def _reasons(evaluation: Json) -> list[str]:
    """Why figures of the federated model are absent: each reason once, with where it applies."""
    found: dict[str, list[str]] = {}
    for site, block in {**evaluation["sites"], "pooled": evaluation["pooled"]}.items():
        figures = {
            "accuracy": block["accuracy"],
            **{f"AUC {name}": auc for name, auc in block["auc"].items()},
            "macro AUC": block["auc_macro"],
        }
        for what, value in figures.items():
            reason = absent(value)
            if reason:
                found.setdefault(f"{site}: {reason}", []).append(what)
            elif isinstance(value, Mapping) and (reason := absent(value.get("ci95_logit"))):
                found.setdefault(f"{site}: interval {reason}", []).append(what)
    return [f"{where} ({', '.join(what)})" for where, what in found.items()]
