"""The same apps on Flower's own programs: SuperLink and SuperNodes, and its simulation on Ray: the same model."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from stic_core.models.saved import read_model
from support.federation_kit import Home, free_port, make_home
from support.stock_flower import APP, superlink
from support.waiting import until

pytestmark = pytest.mark.deploy

SITES = ("center1", "center2")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A federation that `stic-server start` is to run."""
    return make_home(tmp_path_factory.mktemp("ours") / "home", sites=SITES, rounds=2)


@pytest.fixture(scope="module")
def copied(ours: Home, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Home]:
    """Makes federations of the same files, as they were before the run."""
    pristine = tmp_path_factory.mktemp("pristine") / "home"
    shutil.copytree(ours.path, pristine)

    def copy() -> Home:
        home = Home(tmp_path_factory.mktemp("copy") / "home", free_port())
        shutil.copytree(pristine, home.path)
        for path in home.path.rglob("*.yaml"):
            path.write_text(path.read_text().replace(str(ours.path), str(home.path)))
        return home

    return copy


@pytest.fixture(scope="module")
def expected(ours: Home, copied: object, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the model that `stic-server start` and two `stic-client`s make."""
    logs = tmp_path_factory.mktemp("logs")
    with (
        ours.running("stic-client", "--site", "center1", "--once", output=logs / "center1.log"),
        ours.running("stic-client", "--site", "center2", "--once", output=logs / "center2.log"),
    ):
        started = ours.run("stic-server", "start")
        assert started.returncode == 0, started.stderr
    return _digest(ours)


def _digest(home: Home) -> str:
    return read_model(home.run_folder() / "model").description.digest


def test_stock_flower_ends_with_the_same_model(copied: Callable[[], Home], expected: str) -> None:
    """Real `flower-superlink` and `flower-supernode`s with TLS and node keys: bit for bit what `start` makes."""
    stock = copied()
    with superlink(stock) as (flwr, start):
        for site in SITES:
            folder = stock.site(site)
            flwr("supernode", "register", str(folder / "site.pub"), "here", "--name", site)
            start(
                site,
                *("flower-supernode", "--superlink", f"127.0.0.1:{stock.port}"),
                *("--root-certificates", str(stock.path / "server" / "ca.crt")),
                *("--auth-supernode-private-key", str(folder / "site.key")),
                *("--node-config", f'site-config="{folder / "site.yaml"}"'),
                *("--host", "127.0.0.1", "--port", str(free_port())),
            )
        flwr("run", str(APP), "here", "--run-config", f'federation="{stock.federation}"')
        until(lambda: [*(stock.path / "runs").glob("*/report.html")], what="the report of the run")
    assert _digest(stock) == expected


def test_flowers_simulation_ends_with_the_same_model(copied: Callable[[], Home], expected: str) -> None:
    """`flwr run` with two virtual nodes on Ray, each of them a site: bit for bit what `start` makes."""
    home = copied()
    with superlink(home, simulation=True) as (flwr, _):
        said = flwr(
            *("run", str(APP), "here", "--stream"),
            *("--run-config", f'federation="{home.federation}" sites="{home.path / "sites"}"'),
            *("--federation-config", "num-supernodes=2 client-resources-num-cpus=1"),
        )
        assert [*(home.path / "runs").glob("*/report.html")], said
    assert _digest(home) == expected
