"""What a program that runs for days says, and to whom: its terminal, its log file, its notifications."""

from __future__ import annotations

from pathlib import Path

from stic_core.config import FederationConfig, NotifyConfig, SiteConfig
from stic_core.system.log_lines import LogFile
from stic_core.system.notifier import Notifier
from stic_core.system.service_manager import ServiceManager
from stic_core.system.terminal import Terminal


def service_terminal(config: FederationConfig | SiteConfig, *, folder: Path) -> Terminal:
    """The terminal of a server or of a site's client, with what its configuration asks for.

    Args:
        folder: of the configuration file; the log file lies beside it.
    """
    log = None
    if config.log.file is not None:
        path = folder / config.log.file.expanduser()
        log = LogFile(path, max_bytes=config.log.max_mb * 1_000_000, keep=config.log.keep)
    return Terminal(
        prefix=config.site if isinstance(config, SiteConfig) else "",
        log=log,
        notifier=None if config.notify is None else _notifier(config, config.notify),
        manager=ServiceManager(),
    )


def _notifier(config: FederationConfig | SiteConfig, notify: NotifyConfig) -> Notifier:
    of_site = isinstance(config, SiteConfig)
    return Notifier(
        side="client" if of_site else "server",
        name=config.site if of_site else config.name,
        command=notify.command,
        webhook=None if notify.webhook is None else notify.webhook.get_secret_value(),
        events=notify.events,
        timeout_s=notify.timeout_s,
    )
