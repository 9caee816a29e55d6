"""Slices to phases: told apart, counted against what the manifest names, and put in order.

An export may hold several phases in one folder, in one series, or in one enhanced file.
Slices are told apart by series, then by reconstruction, acquisition number and time. Which
group is which phase is said by the descriptions where they name each, else by time.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stic_client.ingest.elements import comparable
from stic_client.ingest.exam import Exam
from stic_client.ingest.source import Source
from stic_client.ingest.words import PHASE_NAMES
from stic_core.data.ct import Grid
from stic_core.tensors.array_types import HUSlice

SAME_Z_MM = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One slice before it is decoded.

    Args:
        position: of the first stored pixel, x y z, mm.
        series, acquisition: what groups are told apart by.
        flip: its rows and columns that were reversed.
        instance, number: of the file; "" and None for frames, which share one.
        warnings: what an engineer should look at, if this slice is used.
    """

    grid: Grid
    z_mm: float
    position: tuple[float, float, float]
    series: str
    acquisition: str
    time_s: float | None
    exam: Exam
    load: Callable[[], HUSlice]
    flip: tuple[bool, bool] = (False, False)
    instance: str = ""
    number: float | None = None
    warnings: tuple[str, ...] = ()


Group = list[Plane]


def group_phases(
    planes: Sequence[Plane], *, phases: Sequence[str], source: Source
) -> tuple[list[Group], tuple[str, ...]]:
    """The slices of each phase, and warnings of what was left out.

    Args:
        phases: those of the manifest's row that name this path.

    Returns:
        One group per phase, in their order.

    Raises:
        PatientError: another number of groups, or nothing that tells which is which.
    """
    kept = _without_copies(planes)
    warnings = (
        [f"identical copies of slices, ignored: {len(planes) - len(kept)}"] if len(kept) < len(planes) else []
    )
    by_series = _by(kept, lambda plane: plane.series)
    if len(by_series) > len(phases) and all(len(group) == 1 for group in by_series.values()):
        by_series = {"": kept}  # an anonymiser gave each slice a series of its own
    groups = [group for found in by_series.values() for group in _split(found, source=source)]
    named = _by_words(groups, phases=phases)
    if named is None and len(groups) > len(phases):
        usual = [group for group in groups if not _caveats(group) and _phase(group) != "other"]
        if len(usual) == len(phases):
            left = len(groups) - len(usual)
            groups, named = usual, _by_words(usual, phases=phases)
            warnings.append(f"series of other phases or kinds in the folder, ignored: {left}")
    elif named is not None and len(groups) > len(phases):
        warnings.append(
            f"series of other phases or kinds in the folder, ignored: {len(groups) - len(phases)}"
        )
    if named is not None:
        return named, tuple(warnings)
    if len(groups) != len(phases):
        raise source.refuse(
            "the number of series differs from the number of phases that name this path",
            got=len(groups),
            expected=len(phases),
            advice="Keep one series per phase, or name a folder for each phase; "
            "stic-client --site S prepare --scan DIR shows what is there.",
        )
    ordered = _by_time(groups, phases=phases, source=source)
    if ordered is not None:
        return ordered, tuple(warnings)
    if (filled := _by_what_is_left(groups, phases=phases)) is not None:
        ordered, phase = filled
        warnings.append(
            f"{phase.upper()}: taken for this phase because descriptions name the others; no time confirms it"
        )
        return ordered, tuple(warnings)
    raise source.refuse(
        "several phases share one path, and their times do not tell them apart",
        expected="different acquisition times, or descriptions that name the phases",
        advice="Put each phase into a folder of its own.",
    )


def start_of(group: Sequence[Plane]) -> float | None:
    """When a group's first slice was acquired; None where no slice says."""
    return min((plane.time_s for plane in group if plane.time_s is not None), default=None)


def _by(planes: Sequence[Plane], key: Callable[[Plane], Hashable]) -> dict[Hashable, Group]:
    groups: dict[Hashable, Group] = defaultdict(list)
    for plane in planes:
        groups[key(plane)].append(plane)
    return dict(groups)


def _phase(group: Group) -> str:
    return group[0].exam.phase


def _caveats(group: Group) -> tuple[str, ...]:
    return group[0].exam.reconstruction.caveats


# Which group is which phase


def _by_words(groups: list[Group], *, phases: Sequence[str]) -> list[Group] | None:
    """The groups that the descriptions name, None unless each phase is named, and by one fittest group."""
    chosen: dict[str, Group] = {}
    for phase in phases:
        named = sorted(
            (group for group in groups if _phase(group) == phase),
            key=lambda group: group[0].exam.reconstruction.rank,
        )
        ranks = [group[0].exam.reconstruction.rank for group in named]
        if not named or ranks.count(ranks[0]) > 1:
            continue
        chosen[phase] = named[0]
    return [chosen[phase] for phase in phases] if len(chosen) == len(phases) else None


def _by_what_is_left(groups: list[Group], *, phases: Sequence[str]) -> tuple[list[Group], str] | None:
    """The groups where descriptions name all phases but one, and that phase; None where they do not."""
    words = [_phase(group) for group in groups]
    missing = [phase for phase in phases if phase not in words]
    if len(missing) != 1 or sorted(words) != sorted({"", *phases} - set(missing)):
        return None
    by_phase = dict(zip(words, groups, strict=True))
    return [by_phase["" if phase in missing else phase] for phase in phases], missing[0]


def _by_time(groups: list[Group], *, phases: Sequence[str], source: Source) -> list[Group] | None:
    """The groups in the order of time, None where there is no such order.

    Raises:
        PatientError: a description contradicts it.
    """
    if len(groups) == 1:
        return groups
    starts = comparable(start for group in groups if (start := start_of(group)) is not None)
    if len(set(starts)) < len(groups):
        return None
    ordered = [groups[number] for number in np.argsort(starts)]
    words = [_phase(group) for group in ordered]
    seen = Counter(words)
    # One description for all, such as the protocol's, says nothing of any of them.
    if any(word and word != phase and seen[word] == 1 for word, phase in zip(words, phases, strict=True)):
        raise source.refuse(
            "descriptions contradict the phases that the manifest names",
            got=", ".join(PHASE_NAMES.get(word, "no phase") for word in words),
            expected=", ".join(PHASE_NAMES[phase] for phase in phases),
            advice="Put each phase into a folder of its own and name that folder.",
        )
    return ordered


# Which slices are one group


def _has_repeats(planes: Sequence[Plane]) -> bool:
    heights = np.sort([plane.z_mm for plane in planes])
    return bool(np.any(np.diff(heights) < SAME_Z_MM))


def _by_height(planes: Sequence[Plane]) -> list[Group]:
    found: list[Group] = []
    for plane in sorted(planes, key=lambda plane: plane.z_mm):
        if found and plane.z_mm - found[-1][-1].z_mm < SAME_Z_MM:
            found[-1].append(plane)
        else:
            found.append([plane])
    return found


def _without_copies(planes: Sequence[Plane]) -> list[Plane]:
    """Each instance once; one UID with different pixels is no copy."""
    kept: list[Plane] = []
    seen: dict[tuple[str, float], Group] = defaultdict(list)
    for plane in planes:
        same = seen[plane.instance, round(plane.z_mm, 3)]
        if plane.instance and any(np.array_equal(plane.load(), other.load()) for other in same):
            continue
        same.append(plane)
        kept.append(plane)
    return kept


def _split(planes: Group, *, source: Source) -> list[Group]:
    """One series as groups in which no height comes twice.

    Raises:
        PatientError: heights come twice, and nothing tells why.
    """
    if not _has_repeats(planes):
        return [planes]
    count = max(map(len, _by_height(planes)))
    labels: tuple[Callable[[Plane], Hashable], ...] = (
        lambda plane: plane.exam.reconstruction.rank,
        lambda plane: plane.acquisition,
    )
    for label in labels:
        groups = list(_by(planes, label).values())
        # As many as a height has slices: some scanners number each slice's acquisition.
        if len(groups) == count and not any(map(_has_repeats, groups)):
            return groups
    for order in _orders(planes):
        for cut in (_at_gaps, _by_rank):
            groups = cut(planes, order=order, count=count)
            if groups is not None:
                return groups
    once = [
        group[0] for group in _by_height(planes) if all(_same_pixels(group[0], other) for other in group[1:])
    ]
    if len(once) == len(_by_height(planes)):
        return [once]
    raise source.refuse(
        "several slices at the same height",
        got=f"{len(planes)} slices",
        expected="each height once, or acquisition numbers or times that tell phases apart",
        advice="Remove copies, and put each phase into a folder of its own.",
    )


def _same_pixels(one: Plane, other: Plane) -> bool:
    return np.array_equal(one.load(), other.load())


def _orders(planes: Group) -> list[Mapping[int, float]]:
    """What slices can be ordered by, where each has it: time, acquisition number, instance number."""
    times = [plane.time_s for plane in planes if plane.time_s is not None]
    acquisitions = [
        float(plane.acquisition) for plane in planes if re.fullmatch(r"\d{1,9}", plane.acquisition)
    ]
    numbers = [plane.number for plane in planes if plane.number is not None]
    return [
        {id(plane): value for plane, value in zip(planes, values, strict=True)}
        for values in (comparable(times), acquisitions, numbers)
        if len(values) == len(planes)
    ]


def _at_gaps(planes: Group, *, order: Mapping[int, float], count: int) -> list[Group] | None:
    """Cut where the order pauses, as a scanner does between phases; None unless that is clear."""
    ordered = sorted(planes, key=lambda plane: order[id(plane)])
    gaps = np.diff([order[id(plane)] for plane in ordered])
    largest = np.argsort(gaps)[::-1]
    cuts = sorted((largest[: count - 1] + 1).tolist())
    if gaps[largest[count - 2]] <= (gaps[largest[count - 1]] if len(gaps) >= count else 0):
        return None
    groups = [ordered[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(ordered)], strict=True)]
    return None if any(map(_has_repeats, groups)) else groups


def _by_rank(planes: Group, *, order: Mapping[int, float], count: int) -> list[Group] | None:
    """Each height's first, second, ... slice; None unless one group ends before the next begins."""
    heights = _by_height(planes)
    if any(len(same) != count for same in heights):
        return None
    ranked = [sorted(same, key=lambda plane: order[id(plane)]) for same in heights]
    groups = [[same[number] for same in ranked] for number in range(count)]
    spans = [
        (min(values), max(values)) for values in ([order[id(plane)] for plane in group] for group in groups)
    ]
    return groups if all(end < start for (_, end), (start, _) in pairwise(spans)) else None
