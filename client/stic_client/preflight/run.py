"""All checks of a site in their order, and the page beside them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stic_client.preflight import data, images, machine
from stic_client.preflight.identity import check_ca, check_key
from stic_client.preflight.network import ONLINE, Ask, check_online
from stic_client.preflight.outcome import Check, Outcome, worst
from stic_client.preflight.page import Shown, write_page
from stic_core.config import SiteConfig
from stic_core.data.dataset import SiteDataset
from stic_core.system.observer import Observer
from stic_core.tasks import Task


def page_name(task: Task | None) -> str:
    """Of the page: each task that is asked for has its own, beside the one of no task in particular."""
    return f"check-{task.name}.html" if task else "check.html"


@dataclass(frozen=True, slots=True)
class Result:
    """What `check` came to.

    Args:
        dataset: None where it cannot be used.
        page: where it was written; None where no check was made.
    """

    outcome: Outcome
    dataset: SiteDataset | None
    page: Path | None

    def subject(self, row: int) -> str:
        """A patient's pseudonym, for the terminal alone."""
        return self.dataset.subjects[row] if self.dataset else str(row + 1)


def check_site(
    config: SiteConfig,
    *,
    folder: Path,
    observer: Observer,
    ask: Ask | None,
    backbone: str | None = None,
    task: Task | None = None,
) -> Result:
    """Check a site: its data, its machine, its keys, and the way to its server.

    Args:
        folder: the site's own; the page goes there.
        ask: how to ask the server about this site's key; None checks nothing online.
        backbone: the one that the federation uses, where the operator told it.
        task: the federation's, where the operator told it.

    Raises:
        UsageError: no such backbone.
    """
    installed, backbone_check = machine.check_backbone(config, wanted=backbone)
    observer.stage("reading the prepared dataset")
    prepared, opened = data.open_prepared(config)
    checks = [opened]
    facts = None
    if prepared.dataset is not None:
        facts = images.measure(
            prepared.dataset.images,
            progress=lambda done, total: observer.progress("looking at the images", done, total),
        )
        checks += _of_data(prepared, prepared.dataset, facts, config=config, task=task)
    checks.append(
        machine.check_disk(
            # VGG16's are the larger ones: where no backbone is there, what is needed at most.
            config,
            prepared.dataset,
            backbone=installed.name if installed else "vgg16",
        )
    )
    checks.append(backbone_check)
    observer.stage("trying the device")
    checks.append(machine.check_device(config, prepared.dataset, installed=installed))
    checks += [check_key(config), check_ca(config, now=dt.datetime.now(dt.UTC))]
    if ask is None:
        checks += [Check(name, "skipped", "offline") for name in ONLINE]
    else:
        observer.stage(f"asking {config.server.address}")
        checks += check_online(config, ask=ask)
    outcome = Outcome(config.site, tuple(checks))
    shown = None
    if prepared.dataset is not None and facts is not None:
        shown = Shown(prepared.dataset, facts, data.missing_rates(prepared))
    # Without a dataset, too: the page before it would go on saying that all is well.
    page = write_page(folder / page_name(task), outcome=outcome, shown=shown, task=task.name if task else "")
    return Result(outcome, prepared.dataset, page)


def _of_data(
    prepared: data.Prepared,
    dataset: SiteDataset,
    facts: images.ImageFacts,
    *,
    config: SiteConfig,
    task: Task | None,
) -> Iterator[Check]:
    yield data.check_quarantine(prepared, dataset)
    yield data.check_classes(dataset, policy=config.policy, task=task)
    yield worst(
        "duplicates",
        data.check_subjects(dataset),
        images.check_duplicates(dataset, facts),
        good="no patient and no picture is in two splits",
    )
    yield images.check_blank(facts)
    yield images.check_grey(facts)
    yield images.check_phases(facts)
    yield data.check_registration(prepared, dataset)
    yield data.check_clinical(prepared)
