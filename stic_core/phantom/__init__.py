"""A phantom cohort: computed CT slices and clinical values of patients who do not exist.

A phantom result is a phantom result: every file, table and plot made from one says so.
"""

from stic_core.phantom.centres import CENTRES, DEMO_COUNTS, FULL_COUNTS, Centre
from stic_core.phantom.cohort import GENERATOR_VERSION, MANIFEST_COLUMNS, Member, members, write_cohort
from stic_core.phantom.dicom import MODEL_PREFIX, is_phantom
from stic_core.phantom.patient import Motion, PhantomPatient, draw_patient
from stic_core.phantom.render import Scene, clean, render, resample, scene

__all__ = [
    "CENTRES",
    "DEMO_COUNTS",
    "FULL_COUNTS",
    "GENERATOR_VERSION",
    "MANIFEST_COLUMNS",
    "MODEL_PREFIX",
    "Centre",
    "Member",
    "Motion",
    "PhantomPatient",
    "Scene",
    "clean",
    "draw_patient",
    "is_phantom",
    "members",
    "render",
    "resample",
    "scene",
    "write_cohort",
]
