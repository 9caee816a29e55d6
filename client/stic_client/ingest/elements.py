"""Elements of a DICOM header as plain values; a broken one is a missing one.

Texts are for comparing, never for showing: where a code should stand there may be a name.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Sequence

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Sequence_

from stic_client.ingest.source import Source, quiet


def open_dataset(source: Source, *, pixels: bool) -> Dataset:
    """Parse a file.

    Args:
        pixels: False stops before the pixel data.

    Raises:
        PatientError: it is no DICOM file, or is broken.
    """
    try:
        with quiet():
            dataset = dcmread(source.path, stop_before_pixels=not pixels)
            # Elements are parsed when they are first read: a broken one shall fail here.
            for element in dataset:
                _ = element.value
            return dataset
    except InvalidDicomError:
        raise source.refuse(
            "it is not a DICOM file",
            expected="DICOM part 10 with its preamble",
            advice="Export the series again.",
        ) from None
    except Exception as error:  # noqa: BLE001 - pydicom raises almost anything on broken files
        raise source.unreadable("DICOM", error) from None


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


def acquired(dataset: Dataset) -> float | None:
    """Acquisition time, or content or series time, in seconds since day 1; None where unknown."""
    both = text(dataset, "AcquisitionDateTime")
    if not both:
        for name in ("Acquisition", "Content", "Series"):
            if clock := text(dataset, f"{name}Time"):
                day = text(dataset, f"{name}Date") or text(dataset, "StudyDate") or "19000101"
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


def digest_of(dataset: Dataset, keyword: str) -> str:
    """sha256 of an identifier, for comparing in memory and in the dataset's own folder."""
    found = text(dataset, keyword)
    return hashlib.sha256(found.encode()).hexdigest() if found else ""


def is_phantom(dataset: Dataset) -> bool:
    """Whether the files say that no patient stands behind them."""
    return text(dataset, "ManufacturerModelName").startswith("PHANTOM")
