"""Nothing of a patient leaves a hospital: marked data, every feature on, errors provoked, the wire tapped."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from stic_core.data.dataset import load_dataset
from support.accidents import tapped as tap
from support.canary import TAP, Canaries, find, pixel_marks
from support.federation_kit import Home, make_home
from support.ingest_files import write_manifest, write_slices
from support.waiting import PATIENCE_S

SITES = ("center1", "center2")
LABELS = ("HCC", "ICC", "META")
SPLITS = ("train", "train", "train", "val", "test", "test")

# A client whose training fails once with an error that quotes the data, whose files once cannot
# be read, and whose ClientApp itself fails once: the three places from which a text could leave.
FAILING = """
import sys
from pathlib import Path
from stic_client import flower_app
from stic_core.training.trainer import Trainer

subject, folder = sys.argv.pop(), sys.argv.pop()
run, asked = Trainer.run, 0

def failing(self, *args, **kwargs):
    global asked
    asked += 1
    if asked == 1:
        raise ValueError(f"patient {subject} has {str(vars(self))[:2000]}")
    if asked == 2:
        Path(folder, "CANARY-GONE", "image.npy").read_bytes()
    return run(self, *args, **kwargs)

Trainer.run = failing
answer, told = flower_app._answer, 0

def raising(message, participant):
    global told
    told += 1
    if told == 4:
        raise RuntimeError(f"{subject} in {folder}")
    return answer(message, participant)

flower_app._answer = raising
from stic_client.cli import main
main()
"""


def _write_hospital(folder: Path, *, site: str, seed: int) -> list[str]:
    """A cohort of DICOM files whose names, tags, identifiers and values are marked; the marks."""
    data = folder / f"CANARY-FOLDER-{site}"
    rows, marks = [], [f"CANARY-FOLDER-{site}", "CANARY-GONE"]
    for number, split in enumerate(SPLITS * 2):
        subject = f"CANARY-{site}-{seed * 7919 + number * 104729:06X}"
        row = write_slices(data, subject=subject, seed=seed * 100 + number)
        value = f"{41 + number}.{731946 + seed * 1000 + number}"
        rows.append(row | {"label": LABELS[number % 3], "split": split, "age": "61", "cea": value})
        marks += [subject, value]
        for path in sorted((data / subject).glob("*.dcm")):
            header = dcmread(path)
            marked = {
                "PatientName": f"CANARYNAME^{site}{number:03d}",
                "PatientID": f"CANARYID-{site}-{number:03d}",
                "AccessionNumber": f"CANARYACC{number:03d}",
                "InstitutionName": f"CANARYHOSPITAL {site}",
                "StudyInstanceUID": f"1.2.826.0.1.7319460.{seed}.{number}",
            }
            for keyword, text in marked.items():
                setattr(header, keyword, text)
            header.save_as(path)
            marks += marked.values()
    # One that cannot be used: its error names it, at the site.
    broken = data / "CANARY-BROKEN" / "nc.dcm"
    broken.parent.mkdir()
    broken.write_bytes(b"CANARY-NOT-DICOM" * 20)
    rows.append(rows[-1] | {"subject_id": "CANARY-BROKEN", "nc_path": "CANARY-BROKEN/nc.dcm"})
    write_manifest(data, rows)
    return [*dict.fromkeys(marks), "CANARY-BROKEN", "CANARY-NOT-DICOM"]


@dataclass(frozen=True)
class Leak:
    """A finished run over marked data, and where everything lies."""

    home: Home
    canaries: Canaries
    tapped: Path
    output: str
    site_output: str

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.home.run_folder()

    def of_the_server(self) -> list[Path]:
        """Every file that the coordinator has."""
        folders = (self.home.path / "server", self.home.path / "runs")
        return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def leak(tmp_path_factory: pytest.TempPathFactory) -> Leak:
    """Real DICOM through `prepare`; a run with everything released, the second site failing three times."""
    folder = tmp_path_factory.mktemp("canary")
    home = make_home(folder, rounds=3)
    home.edit(home.federation, min_sites=1, local_only=True)
    marks: list[str] = []
    pixels: list[bytes] = []
    for number, site in enumerate(SITES):
        hospital = folder / "hospitals" / site
        marks += _write_hospital(hospital, site=site, seed=number + 1)
        config = home.site(site) / "site.yaml"
        home.edit(
            config,
            dataset__root=str(hospital / f"CANARY-FOLDER-{site}"),
            dataset__prepared=str(hospital / "prepared"),
            policy__min_cell=1,
            policy__min_class=1,
        )
        prepared = home.run("stic-client", "--site", site, "prepare", "--workers", "1")
        assert prepared.returncode == 0, prepared.stderr
        dataset = load_dataset(hospital / "prepared")
        assert len(dataset.labels) == 12
        pixels += pixel_marks(np.asarray(dataset.images))
    tapped, startup = folder / "tapped", folder / "startup"
    tapped.mkdir()
    startup.mkdir()
    (startup / "sitecustomize.py").write_text(TAP)
    (startup / "failing.py").write_text(FAILING)
    path = os.pathsep.join(filter(None, (str(startup), os.environ.get("PYTHONPATH"))))
    environment = {"PYTHONPATH": path, "STIC_TAP": str(tapped)}
    subject = next(mark for mark in marks if mark.startswith("CANARY-center2-"))
    failing_log = (folder / "center2.log").open("w")  # a pipe that nobody reads would stop it
    failing = subprocess.Popen(
        [
            *(sys.executable, str(startup / "failing.py"), "--verbose", "--site", "center2", "--once"),
            *(str(folder / "hospitals" / "center2" / "CANARY-FOLDER-center2"), subject),
        ],
        env=home.environment() | environment,
        stdout=failing_log,
        stderr=subprocess.STDOUT,
    )
    log = folder / "center1.log"
    try:
        with (
            home.running(
                *("stic-client", "--site", "center1", "--once"),
                environment=environment,
                output=log,
                accident=tap(),
            ),
            home.running(
                *("stic-server", "--verbose", "start"), environment=environment, accident=tap()
            ) as server,
        ):
            output, _ = server.communicate(timeout=PATIENCE_S)
            failing.wait(PATIENCE_S)
        site_output = (folder / "center2.log").read_text()
        assert server.returncode == 0, output + site_output
    finally:
        failing.kill()
        failing.wait()
        failing_log.close()
    return Leak(home, Canaries(tuple(dict.fromkeys(marks)), tuple(pixels)), tapped, output, site_output)


pytestmark = [pytest.mark.processes, pytest.mark.long]


def test_the_run_did_all_that_could_leak(leak: Leak) -> None:
    """Errors came at the site with the data in their text, and evaluation, own models and report are there."""
    assert "CANARY-center2-" in leak.site_output
    assert "CANARY-GONE" in leak.site_output
    for code in ("ValueError", "FileNotFoundError", "RuntimeError"):
        assert f"center2 failed with {code}" in leak.output
    evaluation = json.loads((leak.run / "evaluation.json").read_text())
    assert set(evaluation["local_only"]) == set(SITES)
    for name in ("report.html", "model/MODEL_CARD.md", "model/model.safetensors", "record.json"):
        assert (leak.run / name).is_file()
    ways = {path.suffix for path in leak.tapped.iterdir()}
    assert ways == {".in", ".out"}
    assert len({path.stem for path in leak.tapped.iterdir()}) == 3  # the server and two sites
    wire = b"".join(path.read_bytes() for path in leak.tapped.iterdir())
    for spoken in (
        b"push-messages",
        b"round-report",
        b"held-out-answer",
        b"local-report",
    ):
        assert spoken in wire  # in clear: the tap is where it should be


def test_nothing_of_a_patient_crossed_the_wire(leak: Leak) -> None:
    """What every process wrote into TLS or read from it, both directions, holds no mark."""
    assert find(leak.canaries, sorted(leak.tapped.iterdir())) == {}


def test_nothing_of_a_patient_is_at_the_coordinator(leak: Leak) -> None:
    """Nor do its log, record, rounds, audit, evaluation, report, model card, model and checkpoints."""
    shown = leak.home.path / "server-output.txt"
    shown.write_text(leak.output)
    assert find(leak.canaries, [*leak.of_the_server(), shown]) == {}


def test_the_search_finds_what_is_there(leak: Leak, tmp_path: Path) -> None:
    """In the hospital's own files each mark is found, so that the search above means something."""
    hospitals = leak.home.path / "hospitals"
    own = [path for path in hospitals.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    found = find(leak.canaries, own)
    written = {mark for mark in leak.canaries.texts if any(what.startswith(mark) for what in found)}
    folders = {
        mark for mark in leak.canaries.texts if mark.startswith("CANARY-FOLDER") or mark == "CANARY-GONE"
    }
    assert set(leak.canaries.texts) - written <= folders  # those are names of folders, in no file
    assert sum(what.startswith("pixels") for what in found) > 50


@pytest.mark.parametrize("form", ["plain", "upper", "utf-16", "hex", "base64", "zlib", "gzip in base64"])
def test_a_leak_in_any_form_is_found(leak: Leak, tmp_path: Path, form: str) -> None:
    """One identifier, and one piece of an image, put into what crossed the wire, show."""
    mark, piece = leak.canaries.texts[2], leak.canaries.pixels[-2]
    raw = f"patient {mark}!".encode()
    forms = {
        "plain": raw + piece,
        "upper": raw.upper() + piece,
        "utf-16": raw.decode().encode("utf-16-le") + piece,
        "hex": raw.hex().encode() + piece,
        "base64": base64.b64encode(raw + piece),
        "zlib": zlib.compress(raw + piece),
        "gzip in base64": base64.b64encode(zlib.compress(raw + piece + bytes(400), level=0, wbits=31)),
    }
    wire = next(path for path in leak.tapped.iterdir() if path.suffix == ".out").read_bytes()[-100_000:]
    (tmp_path / "wire").write_bytes(wire + b"\n" + forms[form] + b"\n" + wire)
    found = find(leak.canaries, [tmp_path / "wire"])
    assert any(not what.startswith("pixels") for what in found)
    assert any(what.startswith("pixels") for what in found)
