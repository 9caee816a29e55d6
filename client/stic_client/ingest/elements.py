"""Elements of a DICOM header as plain values; a broken one is a missing one.

Texts are for comparing, never for showing: where a code should stand there may be a name. The one
exception is `shown`.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Sequence_
from pydicom.uid import DeflatedExplicitVRLittleEndian

from stic_client.ingest.source import Source, quiet

_PIXEL_DATA, _UNDEFINED = 0x7FE00010, 0xFFFFFFFF


def open_dataset(source: Source, *, pixels: bool) -> Dataset:
    """Parse a file.

    Args:
        pixels: False stops before the pixel data.

    Raises:
        PatientError: it is no DICOM file, or is broken.
    """
    dataset = open_if_dicom(source, pixels=pixels)
    if dataset is None:
        raise source.refuse(
            "it is not a DICOM file", expected="a DICOM object", advice="Export the series again."
        )
    return dataset


def open_if_dicom(source: Source, *, pixels: bool) -> Dataset | None:
    """Parse a file; None where it is no DICOM file at all.

    Raises:
        PatientError: it is a broken one.
    """
    try:
        with quiet():
            dataset = _parse(source.path, pixels=pixels)
            cut = _is_cut(dataset, size=source.path.stat().st_size)
            # Elements are parsed when they are first read: a broken one shall fail here.
            for element in dataset:
                _ = element.value
    except InvalidDicomError:
        return None
    except Exception as error:  # noqa: BLE001 - pydicom raises almost anything on broken files
        raise source.unreadable("DICOM", error) from None
    if cut:
        raise source.refuse(
            "the file is cut short within its header", advice="Export or transfer the file again."
        )
    return dataset


def _is_cut(dataset: Dataset, *, size: int) -> bool:
    """Whether the last element before the pixels reaches beyond the end of the file; pydicom does not look.

    Args:
        size: of the file, bytes.
    """
    syntax = getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID")
    tags = {tag for tag in set(dataset.keys()) if tag < _PIXEL_DATA}
    if not tags or syntax == DeflatedExplicitVRLittleEndian:
        return not tags
    last = dataset.get_item(max(tags))
    return (
        isinstance(last, RawDataElement)
        and last.length != _UNDEFINED
        and last.value_tell + last.length > size
    )


def _parse(path: Path, *, pixels: bool) -> Dataset:
    """A file of DICOM part 10, or a bare object: old archives write neither preamble nor meta header.

    Raises:
        InvalidDicomError: it is neither.
    """
    try:
        return dcmread(path, stop_before_pixels=not pixels)
    except InvalidDicomError:
        with path.open("rb") as file:
            start = file.read(8)
        # A bare object begins with its meta header or with the identifying group, in either byte order. The
        # parser is forced only onto that: it would take any file for DICOM, and read it whole.
        if start[:2] not in {b"\2\0", b"\x08\0", b"\0\x08"}:
            raise
        dataset = dcmread(path, stop_before_pixels=not pixels, force=True)
        if not str(dataset.get("SOPClassUID", "")).startswith("1.2.840.10008."):
            raise
        return dataset


def value(dataset: Dataset, keyword: str) -> object:
    """An element's value, None where it is missing, empty or cannot be parsed."""
    try:
        with quiet():
            found = dataset.get(keyword)
    except Exception:  # noqa: BLE001 - see open_dataset
        return None
    return None if found is None or (isinstance(found, (str, list)) and len(found) == 0) else found


def numbers(dataset: Dataset, keyword: str, *, count: int) -> tuple[float, ...] | None:
    """Finite numbers, None where there are not `count` of them."""
    found = value(dataset, keyword)
    values = list(found) if isinstance(found, (list, MultiValue)) else [found]
    try:
        out = tuple(float(str(item)) for item in values)
    except (TypeError, ValueError):
        return None
    return out if len(out) == count and all(map(math.isfinite, out)) else None


def text(dataset: Dataset, keyword: str) -> str:
    """A text for comparing, upper case; never for showing."""
    found = value(dataset, keyword)
    if found is None:
        return ""
    words = list(found) if isinstance(found, (list, MultiValue)) else [found]
    return "\\".join(map(str, words)).strip().upper()


def shown(dataset: Dataset, keyword: str) -> str:
    """A text as it stands in the file, on one line: for the notes of a scan alone, which the hospital keeps."""
    found = value(dataset, keyword)
    return " ".join(str(found).split()) if found is not None else ""


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, none where there is no such sequence."""
    found = value(dataset, keyword)
    return [item for item in found if isinstance(item, Dataset)] if isinstance(found, Sequence_) else []


def first(dataset: Dataset, keyword: str) -> Dataset | None:
    """The first item of a sequence, None where there is none."""
    return next(iter(items(dataset, keyword)), None)


def known(word: str, words: Sequence[str]) -> str:
    """A word that may be shown, or that there is one which may not."""
    return word if word in words else ("nothing" if not word else "another value")


DAY_S = 86_400.0
_UNDATED = "19000101"
_UNDATED_S = (dt.datetime(1900, 1, 1) - dt.datetime(1, 1, 1)).total_seconds()  # noqa: DTZ001


def acquired(dataset: Dataset) -> float | None:
    """Acquisition time, or content or series time, in seconds since day 1; None where unknown.

    A clock time without any date counts as of 1 January 1900: see `comparable`.
    """
    both = text(dataset, "AcquisitionDateTime")
    if not both:
        for name in ("Acquisition", "Content", "Series"):
            if clock := text(dataset, f"{name}Time"):
                day = text(dataset, f"{name}Date") or text(dataset, "StudyDate") or _UNDATED
                both = day + clock
                break
    both = both.replace(":", "").split("+")[0].split("-")[0]
    for form in ("%Y%m%d%H%M%S.%f", "%Y%m%d%H%M%S", "%Y%m%d%H%M"):
        try:
            moment = dt.datetime.strptime(both, form)  # noqa: DTZ007 - differences only
            return (moment - dt.datetime(1, 1, 1)).total_seconds()  # noqa: DTZ001
        except ValueError:
            continue
    return None


def is_dated(time_s: float) -> bool:
    """Whether a time of `acquired` has a date: anonymisers remove it, or write 1 January 1900."""
    return time_s >= _UNDATED_S + DAY_S


def date_of(time_s: float | None) -> dt.date | None:
    """The day of a time of `acquired`, None where there is none."""
    if time_s is None or not is_dated(time_s):
        return None
    return dt.date(1, 1, 1) + dt.timedelta(seconds=time_s)


def comparable(times_s: Iterable[float]) -> list[float]:
    """Times of `acquired` on one scale: clock times alone where any of them has no date.

    Example:
        >>> comparable([_UNDATED_S + 60.0, _UNDATED_S + 90 * 365 * DAY_S + 30.0])
        [60.0, 30.0]
    """
    times = list(times_s)
    return times if all(map(is_dated, times)) else [time % DAY_S for time in times]


def is_phantom(dataset: Dataset) -> bool:
    """Whether the files say that no patient stands behind them."""
    return text(dataset, "ManufacturerModelName").startswith("PHANTOM")
