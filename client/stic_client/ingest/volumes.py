"""Layout `nifti`: a phase in HU."""

from __future__ import annotations

from stic_client.ingest import hounsfield, nifti
from stic_client.ingest.source import Source
from stic_client.ingest.stack import Stack
from stic_client.ingest.stored import Volume, turned
from stic_core.tensors.array_types import HUSlice


def read_nifti(source: Source) -> Stack:
    """A phase in HU.

    Raises:
        PatientError: anything wrong with it.
    """
    volume = read_volume(source)
    hounsfield.check_type(
        volume.values.dtype, scaled=(volume.slope, volume.intercept) != (1.0, 0.0), source=source
    )

    def load(index: int) -> HUSlice:
        hu = hounsfield.with_air(volume.scaled(volume.values[index]), source=source)
        return hounsfield.check_unless_empty(hu, source=source)

    every = max(1, len(volume.z_mm) // 9)
    notes = hounsfield.notes_on(volume.scaled(volume.values[len(volume.z_mm) // 2 % every :: every]))
    return Stack(
        source=source,
        grid=volume.grid,
        z_mm=volume.z_mm,
        load=load,
        turn=volume.turn,
        warnings=(*volume.warnings, *notes),
    )


def read_volume(source: Source) -> Volume:
    """Values and place of a NIfTI file.

    Raises:
        PatientError: not NIfTI, cut short, without a place, or tilted.
    """
    if not source.path.is_file():
        raise source.refuse("it is a folder", expected="a nifti file")
    return turned(nifti.read_file(source), source=source)
