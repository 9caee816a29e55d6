"""What a site keeps between rounds: by round, on its disk, and the same again when a round is asked again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from stic_core.errors import DataError
from stic_core.training.site_arrays import SiteArrays, arrays_of_run


def _array(value: float) -> np.ndarray:
    return np.full(4, value, dtype=np.float32)


def _residual(kept: SiteArrays, number: int) -> float | None:
    found = kept.before(number).get("residual")
    return None if found is None else float(found[0])


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_round_begins_with_what_the_one_before_left(tmp_path: Path, on_disk: bool) -> None:
    """Nothing before the first; then the last kept of an earlier round, whether or not each was kept."""
    kept = SiteArrays(tmp_path / "run" if on_disk else None)
    assert kept.before(1) == {}
    kept.keep(1, {"residual": _array(1)})
    kept.keep(3, {"residual": _array(3)})
    assert [_residual(kept, number) for number in (1, 2, 3, 4, 9)] == [None, 1, 1, 3, 3]


def test_a_round_that_is_asked_again_begins_as_it_did(tmp_path: Path) -> None:
    """What the first try kept does not count for the second; what comes after it is dropped."""
    kept = SiteArrays(tmp_path / "run")
    for number in (1, 2, 3):
        kept.keep(number, {"residual": _array(number)})
    assert _residual(kept, 2) == 1
    kept.keep(2, {"residual": _array(20)})
    assert [_residual(kept, number) for number in (2, 3, 4)] == [1, 20, 20]


def test_a_process_that_was_killed_finds_what_was_kept(tmp_path: Path) -> None:
    """Every array by name, bit for bit, and as many rounds as a server may go back."""
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    kept = SiteArrays(tmp_path / "run")
    for number in range(1, 8):
        kept.keep(number, {"residual": values * number, "control": values / number})
    (tmp_path / "run" / ".round-00008.safetensors.partial").write_bytes(b"half")
    again = SiteArrays(tmp_path / "run")
    for number in (8, 7, 6):
        found = again.before(number)
        assert sorted(found) == ["control", "residual"]
        np.testing.assert_array_equal(found["residual"], values * (number - 1))
    assert again.before(5) == {}
    assert len(list((tmp_path / "run").glob("round-*"))) == 3


def test_a_damaged_file_is_no_silent_beginning(tmp_path: Path) -> None:
    """To go on without it would change the model: it is said, and what to do."""
    kept = SiteArrays(tmp_path / "run")
    kept.keep(1, {"residual": _array(1)})
    (path,) = (tmp_path / "run").iterdir()
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(DataError) as caught:
        SiteArrays(tmp_path / "run")
    assert "run/round-00001.safetensors" in caught.value.what
    assert caught.value.advice


def test_a_run_that_is_over_leaves_nothing(tmp_path: Path) -> None:
    """Neither on the disk nor in memory; and a second time is no error."""
    kept = SiteArrays(tmp_path / "run")
    kept.keep(1, {"residual": _array(1)})
    kept.discard()
    kept.discard()
    assert kept.before(5) == {}
    assert list(tmp_path.iterdir()) == []


def test_runs_that_were_given_up_do_not_fill_the_disk(tmp_path: Path) -> None:
    """The oldest folders go; the newest, which may be resumed, and the run's own stay."""
    for number in range(12):
        SiteArrays(tmp_path / f"run-{number}").keep(1, {"residual": _array(number)})
        os.utime(tmp_path / f"run-{number}", (number, number))
    kept = arrays_of_run(tmp_path, "run-0")
    assert _residual(kept, 2) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"run-0", *(f"run-{n}" for n in range(5, 12))}
