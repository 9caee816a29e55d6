"""Files are replaced whole or not at all, wherever the process is killed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from stic_core.config import ImageConfig, ModelConfig
from stic_core.errors import DataError
from stic_core.models.saved import read_model, write_model
from stic_core.system.files import PRIVATE, atomic_file, write_atomically, write_csv
from stic_core.tasks import TASKS
from stic_core.tensors.flat import TensorSpec

SPECS = (TensorSpec(name="a", shape=(2, 2)), TensorSpec(name="b", shape=(3,)))


class Killed(BaseException):
    """Nothing runs after it, not even what would tidy up."""


def _kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The process dies when it is about to give a file its name for the `step`-th time."""
    done = 0
    replace, unlink = Path.replace, Path.unlink

    def dying_replace(self: Path, target: Path) -> Path:
        nonlocal done
        done += 1
        if done >= step:
            raise Killed
        return replace(self, target)

    def dead_unlink(self: Path, missing_ok: bool = False) -> None:
        if done < step:
            unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "replace", dying_replace)
    monkeypatch.setattr(Path, "unlink", dead_unlink)


@pytest.mark.parametrize("mode", [0o644, PRIVATE])
def test_a_mode_holds_from_the_first_byte_on(tmp_path: Path, mode: int) -> None:
    """While it is written, and afterwards, also where the file before it was open to others."""
    path = tmp_path / "secret"
    path.write_text("open to all")
    path.chmod(0o666)
    with atomic_file(path, mode=mode) as file:
        file.write(b"new")
        file.flush()
        (partial,) = tmp_path.glob(".*.partial")
        assert partial.stat().st_mode & 0o777 == mode
        assert path.read_text() == "open to all"
    assert path.stat().st_mode & 0o777 == mode
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_old_file_alone(tmp_path: Path) -> None:
    """And nothing beside it."""
    path = tmp_path / "state"
    write_atomically(path, "old")

    def interrupted() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("state", "old")]


def test_a_killed_writer_leaves_the_old_file_and_does_not_hinder_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left has a name of its own; a process of the same number takes it over."""
    path = tmp_path / "state"
    write_atomically(path, "old")
    with monkeypatch.context() as patch:
        _kill_at(patch, 1)
        with pytest.raises(Killed):
            write_atomically(path, "half")
    assert path.read_text() == "old"
    assert len(list(tmp_path.glob(".*.partial"))) == 1
    write_atomically(path, "new")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("state", "new")]


def test_a_new_file_never_replaces_one(tmp_path: Path) -> None:
    """`new`: the first stays, with its content, and the second leaves nothing."""
    path = tmp_path / "site.key"
    write_atomically(path, b"first", mode=PRIVATE, new=True)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"second", mode=PRIVATE, new=True)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_two_threads_write_one_file(tmp_path: Path) -> None:
    """Whoever is last wins; what is there is one of both contents, whole."""
    path, size = tmp_path / "page", 100_000

    def write(letter: str) -> None:
        for _ in range(20):
            write_atomically(path, letter * size, durable=False)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in {"a" * size, "b" * size}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_durable_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is flushed before the name is given, the folder after it."""
    seen: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: seen.append(Path(f"/proc/self/fd/{fd}").readlink().name.split(".")[-1])
    )
    monkeypatch.setattr(Path, "replace", lambda self, to: (seen.append("name"), replace(self, to))[1])
    write_atomically(tmp_path / "folder" / "state", "x", durable=durable)
    assert seen == (["partial", "name", "folder"] if durable else ["name"])


def test_a_table_is_csv_in_utf8(tmp_path: Path) -> None:
    """With what holds commas and quotes quoted."""
    write_csv(tmp_path / "t.csv", ("a", "b"), [(1, 'x,"y"'), ("é", "")], mode=PRIVATE)
    assert (tmp_path / "t.csv").read_bytes() == 'a,b\r\n1,"x,""y"""\r\né,\r\n'.encode()
    assert (tmp_path / "t.csv").stat().st_mode & 0o777 == PRIVATE


# ---- a model's folder ---------------------------------------------------------------------


def _write(folder: Path, value: float) -> str:
    written = write_model(
        folder,
        np.full(7, value, np.float32),
        tensors=SPECS,
        task=TASKS["malignant"],
        model=ModelConfig(),
        image=ImageConfig(),
        run_id=f"run-{value:g}",
    )
    return written.run_id


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("before", [True, False])
def test_a_killed_writer_leaves_one_model_or_the_other(
    tmp_path: Path, step: int, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its three steps: weights and description are of the same model, and the next write mends all."""
    if before:
        _write(tmp_path, 1)
    with monkeypatch.context() as patch:
        _kill_at(patch, step)
        with pytest.raises(Killed):
            _write(tmp_path, 2)
    whole = 2 if step == 3 else 1
    if whole == 2 or before:
        found = read_model(tmp_path)
        assert (found.description.run_id, set(found.weights)) == (f"run-{whole}", {whole})
    else:
        with pytest.raises(DataError, match="not a model folder"):
            read_model(tmp_path)
    _write(tmp_path, 3)
    assert set(read_model(tmp_path).weights) == {3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_weights_of_another_model_are_noticed(tmp_path: Path) -> None:
    """Such as after half a folder was copied."""
    _write(tmp_path / "one", 1)
    _write(tmp_path / "two", 2)
    (tmp_path / "one" / "model.safetensors").replace(tmp_path / "two" / "model.safetensors")
    with pytest.raises(DataError, match="do not match the digest"):
        read_model(tmp_path / "two")
