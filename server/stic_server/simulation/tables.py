"""A simulation as tables: plain text for the terminal, Markdown for people, CSV for those who plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from stic_core.evaluation import multiplicity, overall_auc, paired_sentence
from stic_core.evaluation.figures import PairedAccuracy, paired_accuracy
from stic_core.system.files import write_csv
from stic_server.report.cues import CHANCE
from stic_server.simulation.summary import BEST, CENTRALISED, CROSS, ENSEMBLE, FEDERATED, FIGURES, POOLED

Json: TypeAlias = Any
Row: TypeAlias = tuple[str, ...]

TITLES = {POOLED: "all held-out patients", CROSS: "mean of the sites"}
ORDER = (FEDERATED, CENTRALISED, ENSEMBLE, BEST)


def summary_rows(simulation: Mapping[str, Json]) -> list[Row]:
    """Macro AUC of each model and the federated one's differences, mean (95 % t interval) over seeds."""
    summary = simulation["summary"]
    models = summary["models"]
    rows = [(heading(simulation), *(TITLES[figure] for figure in FIGURES))]
    rows += [
        (name, *(_spread(models[name][figure]) for figure in FIGURES)) for name in ordered_models(simulation)
    ]
    rows += [
        (f"federated minus {other}", *(_spread(block[figure], signed=True) for figure in FIGURES))
        for other, block in summary["federated_minus"].items()
    ]
    return rows


def heading(simulation: Mapping[str, Json]) -> str:
    """What the figure of every table is called, at the beginning of a line."""
    name = overall_auc(simulation["settings"]["federation"]["task"]["classes"])
    return name[0].upper() + name[1:]


def seed_rows(simulation: Mapping[str, Json], figure: str) -> list[Row]:
    """One row a seed, one column a model."""
    names = ordered_models(simulation)
    return [
        ("Seed", *names),
        *(
            (seed, *(_number(one["models"][name][figure]) for name in names))
            for seed, one in simulation["results"].items()
        ),
    ]


def ordered_models(simulation: Mapping[str, Json]) -> list[str]:
    """The models, in the order of the tables."""
    models = simulation["summary"]["models"]
    return [*(name for name in ORDER if name in models), *(name for name in models if name not in ORDER)]


def claim(simulation: Mapping[str, Json]) -> str:
    """What was registered, and what came out."""
    registered = simulation["registered"]
    return (
        f"Registered before the first seed ({registered['at']}): {registered['hypothesis']} "
        f"Margin {registered['margin']:g}. {simulation['summary']['non_inferiority']['words']}"
    )


def cautions(simulation: Mapping[str, Json]) -> list[str]:
    """What to know before the figures are quoted: the mean against chance, and the cues of the seeds' runs."""
    found = []
    mean, name = simulation["summary"]["models"][FEDERATED][POOLED], heading(simulation)
    ends = mean.get("ci95")
    if isinstance(ends, list) and ends[0] <= CHANCE:
        found.append(
            f"No better than chance, as far as these seeds show: the t interval of the federated model's {name}, "
            f"{ends[0]:.3f} to {ends[1]:.3f}, does not lie above {CHANCE}."
        )
    results = simulation["results"].values()
    counted = Counter(
        headline for one in results for headline in one.get("cues", ())
    )  # older results have none
    found += [
        f"{headline}: {seeds} of {len(results)} seed{'' if len(results) == 1 else 's'}; the report of each says more."
        for headline, seeds in counted.items()
    ]
    return found


def pairs(simulation: Mapping[str, Json]) -> list[str]:
    """The same patients under two models, all seeds added up; or why they are not."""
    found = simulation["summary"]["same_patients"]
    if "not_estimable" in found:
        return [f"Patients under two models are not counted together: {found['not_estimable']}."]
    return [
        *(
            paired_sentence("the federated model", _named(other), pair, n=counts["n"])
            for other, counts in found.items()
            if isinstance(
                pair := paired_accuracy(b=counts["b"], c=counts["c"], n=counts["n"]), PairedAccuracy
            )
        ),
        (
            f"Patients of {len(simulation['results'])} seeds are added up, and each seed has its own models: "
            "the counts compare ways of training, and the tests do not account for chance between seeds. "
            f"{multiplicity(len(found))}"
        ),
    ]


def _named(model: str) -> str:
    """A model as a sentence names it."""
    return f"the model of {model}" if model.endswith(" alone") else f"the {model} model"


def as_text(rows: Sequence[Row]) -> list[str]:
    """Rows with columns that line up."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def as_markdown(rows: Sequence[Row]) -> list[str]:
    """Rows as a Markdown table."""
    first, *body = rows
    rule = tuple("---" for _ in first)
    return ["| " + " | ".join(row) + " |" for row in (first, rule, *body)]


def text(simulation: Mapping[str, Json]) -> str:
    """What the terminal shows."""
    lines = [*as_text(summary_rows(simulation)), "", claim(simulation)]
    lines += [line for caution in cautions(simulation) for line in ("", caution)]
    if simulation["phantom"]:
        lines = [
            "PHANTOM DATA: synthetic patients; says nothing about real patients",
            "",
            *lines,
        ]
    return "\n".join(lines)


def markdown(simulation: Mapping[str, Json]) -> str:
    """The simulation for readers, as one document."""
    registered, settings = simulation["registered"], simulation["settings"]
    overall = overall_auc(settings["federation"]["task"]["classes"])
    seeds = ", ".join(str(seed) for seed in settings["seeds"])
    lines = [
        f"# {'PHANTOM data: ' if simulation['phantom'] else ''}federated training compared with its alternatives",
        "",
        *(
            [
                "**The patients are computed, not scanned. This says nothing about real patients.**",
                "",
            ]
            if simulation["phantom"]
            else []
        ),
        "Four ways to train the same model on the same patients, judged on the same held-out patients:",
        "",
        "- **federated**: the sites' weights are averaged each round; no patient leaves a site.",
        "- **centralised**: one model on all sites' training patients in one place, which no federation may do.",
        "- **ensemble**: each site trains alone, and the models' probabilities are averaged.",
        (
            "- **alone**: one site's own model. *Best site alone* is chosen in each seed by its held-out mean "
            "of the sites, which favours it: nobody could make that choice beforehand."
        ),
        "",
        "## Result",
        "",
        (
            f"Mean over {len(settings['seeds'])} seeds (95 % t interval). *All held-out patients*: scores of "
            f"all sites ranked together. *Mean of the sites*: the mean of the {overall}s of the sites that hold "
            "out patients of every class. Both come from the scores themselves, which only a simulation may "
            f"see.{_estimated(simulation['summary'])}"
        ),
        "",
        *as_markdown(summary_rows(simulation)),
        "",
        claim(simulation),
        "",
        *(line for caution in cautions(simulation) for line in (f"**{caution}**", "")),
        "## The same patients under two models",
        "",
        *(line for sentence in pairs(simulation) for line in (sentence, "")),
        "## Each seed",
        "",
        *(
            line
            for figure in FIGURES
            for line in (
                f"{heading(simulation)}, {TITLES[figure]}:",
                "",
                *as_markdown(seed_rows(simulation, figure)),
                "",
            )
        ),
        "## How it was made",
        "",
        *(f"- {line}" for line in _settings(simulation)),
        (
            f"- Registered on {registered['at']}, before the first seed: {registered['hypothesis']} Figure: "
            f"{registered['figure']}. {registered['rule']} Margin {registered['margin']:g}. Seeds {seeds}."
        ),
        "",
    ]
    return "\n".join(lines)


def write_tables(folder: Path, simulation: Mapping[str, Json]) -> None:
    """`figures.csv`, every macro AUC of every seed, and `summary.csv`, the table with intervals."""
    write_csv(
        folder / "figures.csv",
        ("seed", "model", "held_out_set", "macro_auc"),
        _every_figure(simulation["results"]),
    )
    write_csv(
        folder / "summary.csv",
        ("row", "figure", "mean", "sd", "lower", "upper", "why_absent"),
        _every_mean(simulation["summary"]),
    )


def _every_figure(results: Mapping[str, Json]) -> Iterator[Sequence[object]]:
    for seed, one in results.items():
        for name, model in one["models"].items():
            where = {**model["sites"], **{one: model[one] for one in FIGURES}}
            for figure, value in where.items():
                yield seed, name, figure, "" if value is None else value


def _every_mean(summary: Mapping[str, Json]) -> Iterator[Sequence[object]]:
    blocks = {
        **summary["models"],
        **{f"federated minus {other}": block for other, block in summary["federated_minus"].items()},
    }
    for name, block in blocks.items():
        for figure in FIGURES:
            spread = block[figure]
            ends = spread.get("ci95")
            known = isinstance(ends, list)
            why = spread.get("not_estimable", "" if known else "one seed")
            yield (
                *(name, figure, spread.get("mean", "")),
                *((spread["sd"], *ends) if known else ("", "", "")),
                why,
            )


def _settings(simulation: Mapping[str, Json]) -> Iterator[str]:
    settings = simulation["settings"]
    source, split, federation = settings["source"], settings["split"], settings["federation"]
    if source["kind"] == "phantom":
        yield (
            f"Patients: the two phantom centres, {source['size']} size, drawn anew in each seed (generator "
            f"version {source['generator']}; phases aligned by the true transform, not by registration)."
        )
    else:
        yield f"Patients: prepared datasets {', '.join(source['fingerprints'])}."
    if split["kind"] == "dirichlet":
        yield (
            f"Sites: {split['sites']}, patients distributed by class with a Dirichlet distribution, "
            f"alpha {split['alpha']:g}."
        )
    first = next(iter(simulation["results"].values()))
    for name, counts in first["patients"].items():
        yield (
            f"{name}{'' if split['kind'] == 'centre' else ' (first seed)'}: {counts['train']} patients train, "
            f"{counts['val']} validate, {counts['test']} are held out."
        )
    training = federation["training"]
    work = (
        f"{training['local_steps']} steps"
        if training["local_steps"]
        else f"{training['local_epochs']} epochs"
    )
    yield (
        f"Model {federation['model']['architecture']} on backbone {federation['model']['backbone']}; "
        f"{federation['rounds']} rounds of {work} per site, batch {training['batch_size']}, AdamW "
        f"{training['learning_rate']:g}, schedule {training['schedule']}, {training['views']} augmented views "
        f"per patient; weights travel as {federation['transport']}. The other models get as many epochs. Each is "
        "the one with the best validation loss."
    )
    yield (
        f"Device {simulation['machine']['device']} ({simulation['machine']['cores']} cores); torch "
        f"{simulation['versions']['torch']}, stic-federated {simulation['versions']['stic-federated']}; "
        f"finished {simulation['finished']}."
    )


def _estimated(summary: Mapping[str, Json]) -> str:
    error = summary["estimation_error"]
    if "not_estimable" in error:
        return ""
    return (
        " The federation's estimate of the first, from histograms, was off by "
        f"{error['mean']:.4f} on average and {error['worst']:.4f} at worst ({error['n']} figures)."
    )


def _spread(block: Mapping[str, Json], *, signed: bool = False) -> str:
    if "not_estimable" in block:
        return "not estimable"
    sign = "+" if signed else ""
    ends = block["ci95"]
    if not isinstance(ends, list):
        return f"{block['mean']:{sign}.3f} (no interval)"
    return f"{block['mean']:{sign}.3f} ({ends[0]:{sign}.3f} to {ends[1]:{sign}.3f})"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
