"""From a drawn patient to Hounsfield units: paint the parts, move the patient, add the scanner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from scipy import fft, ndimage

from stic_core.data.ct import AIR_HU, PHASES
from stic_core.phantom.anatomy import Part
from stic_core.phantom.contrast import PhaseHU
from stic_core.phantom.lesion import Lesion
from stic_core.phantom.patient import PhantomPatient
from stic_core.phantom.shapes import ANGLES, Grid, Outline, Patch, Window, depth, ramp, tube
from stic_core.tensors.array_types import HUSlice


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """What one part covers, and how bright it is by phase.

    Args:
        window: rows and columns it takes up.
        cover: 0 to 1.
        hu: by phase; a number, or a value for each pixel.
        grain: texture, HU at amplitude 1, that `amplitude` scales by phase.
    """

    window: Window
    cover: Patch
    hu: tuple[float | Patch, float | Patch, float | Patch]
    grain: Patch | None = None
    amplitude: PhaseHU = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A patient's layers in the order of painting; the three phases share them."""

    layers: tuple[Layer, ...]
    liver: Float32[np.ndarray, "h w"]
    lesion: Float32[np.ndarray, "h w"]


# Texture by tissue: which field, and its standard deviation by phase, HU. The spleen's arterial
# phase is striped because its red and white pulp fill at different speeds.
_GRAIN: dict[str, tuple[str, PhaseHU]] = {
    "fat": ("coarse", (4.0, 4.0, 4.0)),
    "visceral": ("coarse", (9.0, 9.0, 10.0)),
    "muscle": ("coarse", (6.0, 6.0, 7.0)),
    "cancellous": ("fine", (28.0, 28.0, 28.0)),
    "spleen": ("stripes", (1.5, 22.0, 3.0)),
    "fluid": ("coarse", (5.0, 5.0, 5.0)),
    "pancreas": ("fine", (12.0, 14.0, 14.0)),
    "liver": ("fine", (2.0, 3.0, 3.5)),
}
_FIELDS_MM = {"fine": 1.6, "coarse": 4.5, "stripes": 3.2}


def scene(patient: PhantomPatient) -> Scene:
    """Work out what every part covers; costly, and the same for all phases."""
    grid = patient.grid
    rng = np.random.default_rng(patient.noise[0])
    fields = {name: _field(rng, grid=grid, width_mm=width) for name, width in _FIELDS_MM.items()}
    regions: dict[str, Patch] = {}
    layers = _part_layers(patient.anatomy.under, patient=patient, fields=fields, regions=regions)
    lesion_cover = np.zeros((grid.size, grid.size), dtype=np.float32)
    for lesion in reversed(patient.lesions):
        layer = _lesion_layer(lesion, patient=patient, cavity=regions["cavity"], grain=fields["coarse"])
        layers.append(layer)
        np.maximum(lesion_cover[layer.window], layer.cover, out=lesion_cover[layer.window])
    layers += _part_layers(patient.anatomy.over, patient=patient, fields=fields, regions=regions)
    return Scene(tuple(layers), regions["liver"], lesion_cover)


def _part_layers(
    parts: tuple[Part, ...],
    *,
    patient: PhantomPatient,
    fields: Mapping[str, Patch],
    regions: dict[str, Patch],
) -> list[Layer]:
    """A layer a part; regions that parts ask to be kept are added to `regions`."""
    grid = patient.grid
    layers: list[Layer] = []
    last: tuple[Outline, Window, Patch] | None = None
    for part in parts:
        if not isinstance(part.shape, Outline):
            window, inside = tube(grid, part.shape)
        else:
            # Shells are neighbours in the list and share their outline's distances.
            if last is None or last[0] is not part.shape:
                where = depth(part.shape, grid, margin_mm=max(2.0, 2.0 - part.inset_mm))
                last = part.shape, where.window, where.inside_mm
            _, window, inside = last
        cover = ramp(inside - np.float32(part.inset_mm), soft_mm=part.soft_mm)
        if part.above_mm is not None:
            _, down = grid.offsets(window, x=0.0, y=part.above_mm)
            cover = cover * ramp(-down, soft_mm=2.0)
        if part.within is not None:
            cover = cover * regions[part.within][window]
        if part.keep is not None:
            regions[part.keep] = np.zeros((grid.size, grid.size), dtype=np.float32)
            regions[part.keep][window] = cover
        grain, amplitude = _grain(part.tissue, patient=patient, fields=fields, window=window)
        layers.append(Layer(window, cover, patient.tissue[part.tissue], grain, amplitude))
    return layers


def _grain(
    tissue: str, *, patient: PhantomPatient, fields: Mapping[str, Patch], window: Window
) -> tuple[Patch | None, PhaseHU]:
    if tissue not in _GRAIN:
        return None, (0.0, 0.0, 0.0)
    field, amplitude = _GRAIN[tissue]
    grain = fields[field][window]
    if tissue == "liver" and patient.anatomy.nodularity:
        grain = grain + np.float32(patient.anatomy.nodularity / 4) * fields["coarse"][window]
    return grain, amplitude


def _lesion_layer(lesion: Lesion, *, patient: PhantomPatient, cavity: Patch, grain: Patch) -> Layer:
    """A lesion from the inside out; it may bulge from the liver but not through the wall."""
    liver = patient.tissue["liver"]
    where = depth(lesion.outline, patient.grid, margin_mm=lesion.soft_mm + 1)
    cover = where.cover(soft_mm=lesion.soft_mm) * cavity[where.window]
    gaps = np.float32(1) - np.float32(lesion.rim_gaps[0] / 2) * (
        1 + np.cos((where.angle * np.float32(2 * np.pi / ANGLES)) * 2 + np.float32(lesion.rim_gaps[1]))
    )
    inside = []
    for phase in range(3):
        values = np.full(cover.shape, lesion.core[phase], dtype=np.float32)
        thick = lesion.rim_mm[phase]
        if thick:
            edge = ramp(np.float32(thick) - where.inside_mm, soft_mm=0.8 * thick + 1.0) * gaps
            values += edge * np.float32(lesion.rim[phase] - lesion.core[phase])
        for nodule in lesion.nodules:
            deep = nodule.depth_mm[phase]
            if deep:
                turn = where.angle * np.float32(2 * np.pi / ANGLES) - np.float32(nodule.angle)
                turn = np.abs((turn + np.float32(np.pi)) % np.float32(2 * np.pi) - np.float32(np.pi))
                spot = 1 - np.hypot(
                    turn / np.float32(nodule.half_width * (1 + 0.2 * phase)),
                    where.inside_mm / np.float32(deep),
                )
                values += ramp(spot, soft_mm=0.5) * (np.float32(lesion.nodule[phase]) - values)
        if lesion.capsule_mm:
            shell = 1 - np.abs(where.inside_mm - np.float32(lesion.capsule_mm / 2)) / np.float32(
                lesion.capsule_mm
            )
            values += np.clip(shell, 0, 1) * np.float32(lesion.capsule[phase] - values.mean())
        if lesion.necrosis_share:
            middle = ramp(np.float32(lesion.necrosis_share) - where.share, soft_mm=0.25)
            # Necrosis does not enhance: it stays near 20 HU in every phase.
            values += middle * (np.float32(20 - liver[phase]) - values)
        if lesion.scar_share:
            wide = np.float32(lesion.scar_share) * (
                1 + np.float32(0.5) * np.cos(3 * where.angle * np.float32(2 * np.pi / ANGLES))
            )
            values += ramp(wide - where.share, soft_mm=0.1) * np.float32(-22)
        inside.append(values + np.float32(liver[phase]))
    return Layer(where.window, cover, (inside[0], inside[1], inside[2]), grain[where.window], lesion.mosaic)


def clean(patient: PhantomPatient, phase: str, *, drawn: Scene | None = None) -> HUSlice:
    """The slice without motion and scanner, in the place of the non-contrast phase."""
    number = PHASES.index(phase)
    image = np.full((patient.grid.size, patient.grid.size), AIR_HU, dtype=np.float32)
    for layer in (drawn or scene(patient)).layers:
        part = image[layer.window]
        hu = layer.hu[number]
        new = np.float32(hu) if isinstance(hu, float | int) else hu
        if layer.grain is not None and layer.amplitude[number]:
            new = new + np.float32(layer.amplitude[number]) * layer.grain
        part += layer.cover * (new - part)
    return image


def render(patient: PhantomPatient, phase: str, *, drawn: Scene | None = None) -> HUSlice:
    """One slice as the scanner gives it, HU.

    Args:
        patient: what to render.
        phase: `nc`, `art` or `pv`.
        drawn: `scene(patient)`, where several phases are rendered.

    Returns:
        512 x 512, float32. Equal arguments give equal values.
    """
    grid, number = patient.grid, PHASES.index(phase)
    image = clean(patient, phase, drawn=drawn)
    if number:
        matrix = patient.transform(phase)
        back = np.linalg.inv(matrix[:, :2])
        image = resample(image, np.column_stack([back, -back @ matrix[:, 2]]))
    _paint_table(image, patient=patient)
    image = ndimage.gaussian_filter(image, patient.centre.blur_mm / grid.spacing_mm, truncate=3.0)
    rng = np.random.default_rng([patient.noise[1], number])
    # More photons are lost in a larger body, most of all along the rays through its middle.
    size = float(np.sqrt(patient.anatomy.semi_mm[0] * patient.anatomy.semi_mm[1]) / 138)
    across, down = grid.offsets(grid.whole, x=0.0, y=0.0)
    radius = (across / np.float32(patient.anatomy.semi_mm[0])) ** 2 + (
        down / np.float32(patient.anatomy.semi_mm[1])
    ) ** 2
    strength = np.float32(patient.centre.noise_hu * size**2) * (
        np.float32(1.1) - np.float32(0.3) * np.minimum(radius, 1.5)
    )
    return image + strength * _noise(rng, grid=grid, kernel_mm=patient.centre.kernel_mm)


def resample(image: HUSlice, matrix: np.ndarray) -> HUSlice:
    """A slice seen through a transform, bilinear; what lies outside is air.

    `resample(render(patient, phase), patient.transform(phase))` is the phase on the place of
    the non-contrast one: a registration that makes no error.

    Args:
        image: the slice to take values from.
        matrix: 2 x 3; pixel p of the result is at matrix[:, :2] @ p + matrix[:, 2] of `image`.
    """
    shift = tuple(matrix[:, 2].tolist())
    return ndimage.affine_transform(
        image,
        matrix[:, :2],
        offset=shift,  # pyright: ignore[reportArgumentType]  # its stub knows the default's type only
        order=1,
        mode="constant",
        cval=AIR_HU,
    )


def _paint_table(image: HUSlice, *, patient: PhantomPatient) -> None:
    """The table's two curved sheets and the foam between; it does not move with the patient."""
    grid = patient.grid
    top = patient.anatomy.semi_mm[1] + 3.0
    rows, _ = grid.window(x=0.0, y=top, reach_mm=36.0)
    window = rows, slice(0, grid.size)
    across, down = grid.offsets(window, x=0.0, y=top)
    sheet = down + across * across * np.float32(1 / 1500)
    part = image[window]
    empty = part < -700
    foam = np.where((sheet > 0) & (sheet < 14), np.float32(-930), part)
    for edge in (0.0, 14.0):
        line = ramp(np.float32(1.2) - np.abs(sheet - np.float32(edge)), soft_mm=1.0)
        foam = foam + line * (np.float32(60) - foam)
    part[empty] = foam[empty]


def _frequencies(grid: Grid) -> Patch:
    """Radial spatial frequency of a real transform, cycles a millimetre."""
    step = grid.spacing_mm
    return np.hypot(
        fft.fftfreq(grid.size, step).astype(np.float32)[:, None],
        fft.rfftfreq(grid.size, step).astype(np.float32)[None],
    )


def _shaped(rng: np.random.Generator, gain: Patch) -> HUSlice:
    """Gaussian noise with a given amplitude at each frequency, standard deviation 1."""
    rows, cols = gain.shape
    spectrum = rng.standard_normal((rows, cols, 2), dtype=np.float32).view(np.complex64)[..., 0] * gain
    spectrum[0, 0] = 0
    out = np.asarray(fft.irfft2(spectrum, s=(rows, rows)))
    return out * np.float32(1 / out.std())


def _noise(rng: np.random.Generator, *, grid: Grid, kernel_mm: float) -> HUSlice:
    """A scanner's noise: a ramp filter cut off by the kernel, so that grains have a size."""
    frequency = _frequencies(grid) * np.float32(kernel_mm)
    return _shaped(rng, np.sqrt(frequency) * np.exp(-2 * frequency * frequency))


def _field(rng: np.random.Generator, *, grid: Grid, width_mm: float) -> HUSlice:
    """A smooth random field whose grains are about `width_mm` in standard deviation."""
    frequency = _frequencies(grid) * np.float32(np.pi * width_mm)
    return _shaped(rng, np.exp(-frequency * frequency))
