"""What the report says of the rounds: learning curves, traffic by hospital, who dropped out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from stic_server.report import plots

Json: TypeAlias = Any


def learning(rounds: Sequence[Json], *, sites: Sequence[str], best: int | None) -> list[tuple[str, str]]:
    """Panels: what is shown, and the figure; a quantity that no round has gets none."""
    if not rounds:
        return []
    numbers = [line["round"] for line in rounds]

    def validation(name: str, key: str) -> list[float | None]:
        return [line.get("val", {}).get(name, {}).get(key) for line in rounds]

    def by_site(key: str) -> dict[str, list[float | None]]:
        return {site: [line.get(key, {}).get(site) for line in rounds] for site in sites}

    names = [*sites, "pooled"]
    return [
        (title, plots.learning_curve(numbers, told, sites=sites, label=title, best=best))
        for title, curves in (
            ("Training loss", by_site("train_loss")),
            ("Validation loss", {name: validation(name, "loss") for name in names}),
            ("Validation accuracy", {name: validation(name, "accuracy") for name in names}),
            ("How far a round moved the weights", by_site("update_norm")),
        )
        if (told := _told(curves))
    ]


def traffic_rows(rounds: Sequence[Json], *, sites: Sequence[str]) -> list[dict[str, Json]]:
    """A row a round and hospital: `round`, `site`, `took_part`, `down`, `up`, `exact`.

    Rounds written by older versions hold sums alone. There each hospital is given an equal
    share (all send and get the same weights); one that dropped out was sent the model too.
    """
    rows = []
    for line in rounds:
        exact = line.get("bytes_by_site")
        for site in sites:
            took_part = site in line["sites"]
            if exact is not None:
                found = exact.get(site, {"down": 0, "up": 0})
                down, up = found["down"], found["up"]
            else:
                down = line.get("bytes_down", 0) / len(sites)
                up = line.get("bytes_up", 0) / len(line["sites"]) if took_part else 0.0
            rows.append(
                {
                    "round": line["round"],
                    "site": site,
                    "took_part": took_part,
                    "down": down,
                    "up": up,
                    "exact": exact is not None,
                }
            )
    return rows


def traffic(rounds: Sequence[Json], *, sites: Sequence[str]) -> Json:
    """Bytes that left and reached each hospital, rounds that it took part in, and whether all is exact."""
    rows = traffic_rows(rounds, sites=sites)

    def total(key: str) -> dict[str, float]:
        return {site: sum(row[key] for row in rows if row["site"] == site) for site in sites}

    return {
        "sent": total("up"),
        "received": total("down"),
        "rounds": total("took_part"),
        "shared_rounds": len({row["round"] for row in rows if not row["exact"]}),
    }


def missed(rounds: Sequence[Json], *, sites: Sequence[str]) -> dict[int, list[str]]:
    """Hospitals that a round was averaged without, by round: they had left, had not joined yet, or did not answer."""
    found = {line["round"]: [site for site in sites if site not in line["sites"]] for line in rounds}
    return {number: gone for number, gone in found.items() if gone}


def missed_spans(rounds: Sequence[Json], *, sites: Sequence[str]) -> list[tuple[str, str]]:
    """For each hospital that missed a round, which ones, such as `3, 7 to 9`."""
    gone = missed(rounds, sites=sites)
    spoken = []
    for site in sites:
        numbers = [number for number, absent in gone.items() if site in absent]
        if numbers:
            spoken.append((site, spans(numbers)))
    return spoken


def kept(record: Mapping[str, Json], *, rounds: Sequence[Json]) -> str | None:
    """Which round's model was kept and why; None where the run trained none, or is not that far."""
    best = record.get("best_round")
    if not best or not rounds:
        return None
    losses = {line["round"]: line.get("val", {}).get("pooled", {}).get("loss") for line in rounds}
    known = [loss for loss in losses.values() if loss is not None]
    if not known:
        return f"The model of round {best}, the last one, was kept: no hospital released a validation loss."
    if losses.get(best) == min(known):
        return f"The model of round {best} was kept: it has the lowest pooled validation loss."
    return (
        f"The model of round {best} was kept. In some rounds no hospital released a validation loss, so another "
        "round's may have been lower."
    )


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers, neighbours drawn together.

    Example:
        >>> spans([1, 2, 3, 7])
        '1 to 3, 7'
    """
    drawn: list[list[int]] = []
    for number in numbers:
        if drawn and number == drawn[-1][-1] + 1:
            drawn[-1].append(number)
        else:
            drawn.append([number])
    return ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]} to {span[-1]}" for span in drawn)


def _told(curves: Mapping[str, Sequence[Json]]) -> dict[str, Sequence[Json]]:
    """Curves with a number in them; what a site suppressed is a gap."""
    numbers = {
        name: [value if isinstance(value, int | float) else None for value in values]
        for name, values in curves.items()
    }
    return {name: values for name, values in numbers.items() if set(values) != {None}}
