"""`check`: a fault that is planted makes the right check fail, with a line that says how to mend it."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509

from stic_client.connection.enroll import enroll
from stic_client.preflight import Check, Result, check_site
from stic_client.preflight import images as image_checks
from stic_client.preflight.data import check_classes, check_subjects
from stic_client.preflight.identity import check_ca
from stic_client.preflight.network import Greeting, check_clock, check_online
from stic_client.preflight.outcome import worst
from stic_core import config_files
from stic_core.config import ImageConfig, PolicyConfig, SiteConfig
from stic_core.data.dataset import SiteDataset, Split, load_dataset, write_dataset
from stic_core.errors import ProtocolError, UsageError
from stic_core.tasks import TASKS
from stic_server.admission.certificates import make_certificates
from support.federation_kit import Home, free_port, site_config

CLASSES = ("HCC", "ICC", "META")
Plant = Callable[[dict], None]


class Quiet:
    """An observer that shows nothing."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Nothing."""


def cohort() -> dict:
    """Nine patients, one of each class and split, whose soft tissue takes up contrast as it should."""
    rng = np.random.default_rng(0)
    tissue = 130 + rng.normal(0, 12, (9, 28, 28)).repeat(8, 1).repeat(8, 2)
    images = np.stack([tissue, tissue + 15, tissue + 30], axis=-1) + rng.normal(0, 5, (9, 224, 224, 3))
    splits: list[Split] = ["train", "train", "train", "val", "val", "val", "test", "test", "test"]
    return {
        "images": np.clip(images, 1, 254).astype(np.uint8),
        "clinical": np.ones((9, 20), dtype=np.float32),
        "labels": list(CLASSES * 3),
        "splits": splits,
        "subjects": [f"P{number}" for number in range(9)],
        "image": ImageConfig(),
        "phantom": True,
    }


def write(folder: Path, made: dict) -> SiteDataset:
    """Write it as `prepare` does."""
    return write_dataset(folder, **{**made, "images": [made["images"]]})


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site's folder with key, CA and configuration; its server is not running."""
    folder = tmp_path_factory.mktemp("enrolled")
    make_certificates(folder / "server", names=["localhost"])
    enroll(
        folder / "site",
        site="center1",
        address=f"127.0.0.1:{free_port()}",
        ca=folder / "server" / "ca.crt",
        root=folder,
        crop_mm=None,
    )
    return folder / "site"


@pytest.fixture
def site(enrolled: Path, tmp_path: Path) -> Path:
    """A copy that a test may break, with a dataset that is well."""
    shutil.copytree(enrolled, tmp_path / "site")
    write(tmp_path / "site" / "prepared", cohort())
    return tmp_path / "site"


def checked(site: Path, **options: object) -> Result:
    """All offline checks."""
    loaded = config_files.load(site / "site.yaml", SiteConfig)
    policy = loaded.policy.model_copy(update={"min_cell": 1, "min_class": 1})
    loaded = loaded.model_copy(update={"device": "cpu", "policy": policy})
    arguments: dict = {"ask": None, "backbone": "tiny", **options}
    return check_site(loaded, folder=site, observer=Quiet(), **arguments)


def named(result: Result, name: str) -> Check:
    """The one check of this name."""
    (check,) = [check for check in result.outcome.checks if check.name == name]
    return check


def test_a_site_that_is_well(site: Path) -> None:
    """No problem and no warning; every online check is skipped and says why."""
    result = checked(site)
    assert result.outcome.passed
    assert result.outcome.count("warning") == 0, result.outcome.checks
    skipped = {check.name for check in result.outcome.checks if check.status == "skipped"}
    assert skipped == {"registration", "server", "certificate", "clock", "admitted", "protocol"}
    assert "9 patients" in named(result, "dataset").found
    assert "15 HU" not in named(result, "phases").found  # grey levels are not HU
    assert "24 HU to ART and 47 HU to PV" in named(result, "phases").found


def _blank(made: dict) -> None:
    made["images"][4, ..., 1] = 0


def _two_splits(made: dict) -> None:
    made["images"][7, ..., 2] = made["images"][0, ..., 2]


def _nearly(made: dict) -> None:
    made["images"][7] = np.clip(made["images"][0].astype(int) + (np.arange(224) % 2)[:, None, None], 0, 255)


def _swapped(made: dict) -> None:
    made["images"][2] = made["images"][2][..., ::-1]


def _all_swapped(made: dict) -> None:
    made["images"] = np.ascontiguousarray(made["images"][..., ::-1])


def _dark(made: dict) -> None:
    made["images"][5] //= 3


def _no_meta_held_out(made: dict) -> None:
    made["labels"][8] = "HCC"


def _own_words(made: dict) -> None:
    made["labels"][8] = "CRLM"


def _unlabelled(made: dict) -> None:
    made["labels"][8] = ""


def _no_training(made: dict) -> None:
    made["splits"] = ["val"] * 6 + ["test"] * 3


def _twice(made: dict) -> None:
    made["subjects"][8] = "p-001"


def _no_afp(made: dict) -> None:
    made["clinical"][:6, 9:12] = 0


def _left_out(made: dict) -> None:
    made["quarantined"] = 2


@pytest.mark.parametrize(
    ("plant", "name", "status", "found", "remedy", "rows"),
    [
        (_blank, "images", "problem", r"1 patient \(ART 1\)", "in a viewer", (4,)),
        (
            _two_splits,
            "duplicates",
            "problem",
            "the same pixels in two splits: 1 pair",
            "keep one row",
            (0, 7),
        ),
        (_nearly, "duplicates", "warning", "nearly the same picture in two splits", "keep one row", (0, 7)),
        (_twice, "duplicates", "warning", "differ only in how they are written", "keep one row", (1, 8)),
        (_swapped, "phases", "warning", "1 patient .*gains less than 5 HU", "times and descriptions", (2,)),
        (_all_swapped, "phases", "problem", "in 9 of 9 patients", "mixed up", tuple(range(9))),
        (_dark, "grey levels", "warning", "darker or brighter", "Look at them", (5,)),
        (_no_meta_held_out, "classes", "problem", "no META in test", "Hold out patients", ()),
        (_own_words, "classes", "problem", "CRLM.* fit no task", r"policy\.tasks", (8,)),
        (_unlabelled, "classes", "problem", "1 patient without a label", "Give a label", (8,)),
        (_no_training, "classes", "problem", "no training patients", "into train", ()),
        (_no_afp, "clinical", "warning", "afp 67 %", "unit that is not set", ()),
        (_left_out, "quarantine", "warning", "2 patients excluded", r"quarantine\.csv", ()),
    ],
)
def test_a_planted_fault_is_found(
    site: Path, plant: Plant, name: str, status: str, found: str, remedy: str, rows: tuple[int, ...]
) -> None:
    """The right check says it, with the patients and what to do; no other check has a problem."""
    made = cohort()
    plant(made)
    write(site / "prepared", made)
    result = checked(site)
    check = named(result, name)
    assert check.status == status
    assert re.search(found, check.found), check.found
    assert re.search(remedy, check.remedy), check.remedy
    assert check.patients == rows
    assert {c.name for c in result.outcome.checks if c.status == "problem"} == (
        {name} if status == "problem" else set()
    )


def test_a_dataset_that_is_missing_torn_or_of_another_setting(site: Path) -> None:
    """Each says what it is; without a dataset the rest is checked, and no page goes on saying that all is well."""
    made = cohort()
    write(site / "prepared", made | {"image": ImageConfig(crop_mm=120)})
    check = named(checked(site), "dataset")
    assert (check.status, "crop_mm 120" in check.found) == ("problem", True)
    array = next((site / "prepared").glob("images-*.npy"))
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    assert "was changed" in named(checked(site), "dataset").found
    shutil.rmtree(site / "prepared")
    result = checked(site)
    assert "is missing" in named(result, "dataset").found
    assert "stic-client --site center1 prepare" in named(result, "dataset").remedy
    assert result.page is not None
    text = result.page.read_text(encoding="utf-8")
    assert "Not ready" in text
    assert "<img" not in text
    assert named(result, "key").status == named(result, "device").status == "ok"


def test_figures_of_prepare_are_shown(site: Path) -> None:
    """Reasons, missing rates and rejected registrations, as long as they are about this dataset."""
    fingerprint = load_dataset(site / "prepared").fingerprint
    figures = {
        "fingerprint": fingerprint,
        "missing": {"age": 0.8, "afp": 0.1},
        "registrations": 18,
        "rejected": 9,
        "without_place": 3,
    }
    path = site / "prepared" / "preparation.json"
    path.write_text(json.dumps(figures))
    result = checked(site)
    assert "age 80 %" in named(result, "clinical").found
    assert (
        "9 of 18 registrations rejected; 3 patients of 9 cannot be cropped"
        in named(result, "registration").found
    )
    path.write_text(json.dumps(figures | {"fingerprint": "of another dataset"}))
    assert named(checked(site), "registration").status == "skipped"


def test_keys_certificates_and_weights(site: Path) -> None:
    """A key that others can read, another's public half, no CA, weights that are not there."""
    (site / "site.key").chmod(0o644)
    check = named(checked(site), "key")
    assert check.status == "problem"
    assert "mode 0644" in check.found
    assert "chmod 600" in check.remedy
    (site / "site.key").chmod(0o600)
    enroll(site / "other", site="other", address="h:1", ca=site / "ca.crt", root=site, crop_mm=None)
    shutil.copy(site / "other" / "site.pub", site / "site.pub")
    assert "not the public half" in named(checked(site), "key").found
    (site / "ca.crt").unlink()
    assert named(checked(site), "ca").status == "problem"
    Home(site, 0).edit(site / "site.yaml", backbone_weights={"vgg16": "gone.pth"})
    assert named(checked(site, backbone=None), "backbone").status == "problem"
    with pytest.raises(UsageError, match="no such backbone"):
        checked(site, backbone="vgg61")


def test_a_certificate_is_warned_of_thirty_days_before_its_end(site: Path) -> None:
    """Valid, soon to end, ended, and not begun by this machine's clock."""
    loaded = config_files.load(site / "site.yaml", SiteConfig)
    end = x509.load_pem_x509_certificate((site / "ca.crt").read_bytes()).not_valid_after_utc
    now = dt.datetime.now(dt.UTC)
    for at, status in (
        (now, "ok"),
        (end - dt.timedelta(days=29), "warning"),
        (end, "problem"),
        (now - dt.timedelta(days=1), "problem"),
    ):
        check = check_ca(loaded, now=at)
        assert (check.status, bool(check.remedy)) == (status, status != "ok")


@pytest.mark.parametrize(
    ("ahead", "status"),
    [(0.3, "ok"), (3.0, "warning"), (8.0, "problem"), (-20.0, "ok"), (-90, "warning"), (-400, "problem")],
)
def test_the_clock(ahead: float, status: str) -> None:
    """Flower takes signatures up to 5 s from the future and 300 s old."""
    check = check_clock(Greeting(certificate=None, ahead_s=ahead, uncertain_s=0.5))
    assert check.status == status
    assert ("NTP" in check.remedy) == (status != "ok")


def test_no_server_is_one_problem(site: Path) -> None:
    """Connection refused: the others that need the server are skipped, and nothing is asked."""

    def never(loaded: SiteConfig) -> str:
        raise AssertionError("asked a server that was not reached")

    result = checked(site, ask=never)
    assert "not reached: connection refused" in named(result, "server").found
    assert "HTTPS_PROXY" in named(result, "server").remedy
    assert named(result, "clock").status == named(result, "admitted").status == "skipped"


@pytest.mark.parametrize(
    ("answer", "name", "status", "found"),
    [
        ("admitted", "admitted", "ok", "knows this site's key"),
        ("unknown", "admitted", "problem", "does not know"),
        ("unsigned", "admitted", "problem", "refuses this site's signature"),
        (ProtocolError("the server answers HTTP 418"), "protocol", "problem", "HTTP 418"),
        (ConnectionError("timed out"), "admitted", "skipped", "stopped answering"),
    ],
)
def test_what_the_server_says_of_the_key(
    site: Path, monkeypatch: pytest.MonkeyPatch, answer: str | Exception, name: str, status: str, found: str
) -> None:
    """Each answer becomes the right check."""
    monkeypatch.setattr("stic_client.preflight.network.greet", lambda config: Greeting(None, 0.0, 0.5))

    def ask(loaded: SiteConfig) -> str:
        if isinstance(answer, Exception):
            raise answer
        return answer

    loaded = config_files.load(site / "site.yaml", SiteConfig)
    checks = {check.name: check for check in check_online(loaded, ask=ask)}
    assert list(checks) == ["server", "certificate", "clock", "admitted", "protocol"]
    assert (checks[name].status, found in checks[name].found) == (status, True)


def test_the_page_is_private_whole_and_asks_nobody(site: Path) -> None:
    """Mode 0600, the band on top, phantoms named, no address, escaped text; programs are told no pseudonym."""
    made = cohort()
    _blank(made)
    made["subjects"] = [f"SECRET{number}" for number in range(9)]
    write(site / "prepared", made)
    result = checked(site)
    assert result.page == site / "check.html"
    assert stat.S_IMODE(result.page.stat().st_mode) == 0o600
    text = result.page.read_text(encoding="utf-8")
    assert text.index("FOR THIS HOSPITAL'S EYES ONLY") < text.index("PHANTOM DATA") < text.index("<h1>")
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert text.count("data:image/png;base64,") == 3 * 10  # nine samples, and the one that a check flags
    flagged = text[text.index("Flagged patients") : text.index("Samples of each class")]
    assert re.findall(r"SECRET\d", flagged.split("<img")[0]) == ["SECRET4"]
    assert "SECRET" not in json.dumps(result.outcome.document())
    assert not list(site.glob("*.partial"))
    write(site / "prepared", made | {"phantom": False})
    checked(site)
    assert "PHANTOM DATA" not in (site / "check.html").read_text(encoding="utf-8")


def test_the_page_begins_with_what_is_wrong(site: Path) -> None:
    """Problems, then warnings, each with its patients; what is fine is folded."""
    made = cohort()
    _blank(made)
    _swapped(made)
    write(site / "prepared", made)
    page = checked(site).page
    assert page is not None
    text = page.read_text(encoding="utf-8")
    shown, folded = text[text.index("<h1>") : text.index("<details>")], text[text.index("<details>") :]
    kinds = re.findall(r'<li><span class="status (\w+)">', shown)
    assert set(kinds) == {"problem", "warning"}
    assert kinds == sorted(kinds)
    assert 'class="status ok"' in folded
    assert "P4" in shown


def test_each_task_has_a_page_of_its_own(site: Path) -> None:
    """The first one's page is as it was after a look at another task."""
    first = checked(site).page
    assert first is not None
    before = first.read_bytes()
    other = checked(site, task=TASKS["hcc-icc"]).page
    assert other == site / "check-hcc-icc.html"
    assert first.read_bytes() == before
    assert "eady for hcc-icc:</b>" in other.read_text(encoding="utf-8")


def test_the_lesion_is_marked_where_prepare_left_its_place(tmp_path: Path) -> None:
    """On the image that it was found on; not on one that was made since."""
    from stic_client.ingest.patient import PreparedPatient
    from stic_client.ingest.views import Placement
    from stic_client.preparation import patient_cache

    made = cohort()
    image, placement = made["images"][:1], Placement((0.25, 0.5), (120.0, 120.0))
    patient = PreparedPatient(image, ("a", "b", "c"), phantom=True, place_known=True, placement=placement)
    patient_cache.save(tmp_path, subject="P0", key="k", patient=patient)
    assert patient_cache.placement_of(tmp_path, subject="P0", image=image[0]) == placement
    assert patient_cache.placement_of(tmp_path, subject="P0", image=image[0] + 1) is None
    assert patient_cache.placement_of(tmp_path, subject="P1", image=image[0]) is None
    kept = patient_cache.load(tmp_path, subject="P0", key="k")
    assert kept is not None
    assert kept.placement == placement


def test_tasks_that_only_the_operator_knows(tmp_path: Path) -> None:
    """A policy may name a task of the operator's own: its classes are not known here, so no problem."""
    dataset = write(tmp_path, cohort() | {"labels": ["LOW", "HIGH", "LOW"] * 3})
    assert check_classes(dataset, policy=PolicyConfig()).status == "problem"
    assert check_classes(dataset, policy=PolicyConfig(tasks=("malignant", "grade"))).status == "warning"
    few = check_classes(write(tmp_path, cohort()), policy=PolicyConfig(), task=TASKS["malignant"])
    assert "3 patients in val, fewer than policy.min_cell 5" in few.found
    assert "HCC 1, ICC 1, META 1; policy.min_class is 10" in few.found


def test_pseudonyms_that_only_look_alike(tmp_path: Path) -> None:
    """P0-11 and P01-1 are two; P7 and p_007 may be one."""
    made = cohort()
    made["subjects"][0], made["subjects"][8] = "P0-11", "P01-1"
    assert check_subjects(write(tmp_path, made)) is None
    made["subjects"][0], made["subjects"][8] = "X7", "x_007"
    check = check_subjects(write(tmp_path, made))
    assert check is not None
    assert check.patients == (0, 8)


def test_facts_are_those_of_the_pixels(tmp_path: Path) -> None:
    """ComputeConfig, window ends and histogram against plain numpy."""
    dataset = write(tmp_path, cohort())
    facts = image_checks.measure(dataset.images)
    images = np.asarray(dataset.images).astype(float)
    np.testing.assert_allclose(facts.mean, images.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(facts.deviation, images.std((1, 2)), rtol=1e-4)
    assert facts.histogram.sum() == dataset.images.size
    np.testing.assert_array_equal(
        facts.histogram[2], np.bincount(dataset.images[..., 2].ravel(), minlength=256)
    )


def test_the_worst_of_several_findings_counts() -> None:
    """Status of the worst, everything that was found, each mend and each patient once."""
    one = Check("x", "warning", "a", "Mend.", (1, 2))
    two = Check("x", "problem", "b", "Mend.", (2, 3))
    assert worst("x", one, None, two, good="fine") == Check("x", "problem", "b; a", "Mend.", (2, 3, 1))
    assert worst("x", None, good="fine") == Check("x", "ok", "fine")


def test_site_config_of_the_kit_is_checked(tmp_path: Path) -> None:
    """A configuration without key and CA: problems, not exceptions."""
    loaded = site_config(tmp_path, site="center1")
    result = check_site(loaded, folder=tmp_path, observer=Quiet(), ask=None)
    problems = {check.name for check in result.outcome.checks if check.status == "problem"}
    assert problems == {"dataset", "key", "ca"}
