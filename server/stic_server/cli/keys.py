"""Admit, revoke, renew, and see how things stand."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Annotated

import typer

from stic_core import config_files
from stic_core.config import FederationConfig
from stic_core.errors import UsageError
from stic_server.cli.options import ConfigOption, federation_file

app = typer.Typer(rich_markup_mode=None)


@app.command()
def admit(
    site: Annotated[str, typer.Argument(help="The name under which the site takes part.")],
    public_key: Annotated[Path, typer.Argument(help="The file site.pub that the site sent.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="The site's new key; its old one is revoked.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Although this key was revoked, as by mistake.")
    ] = False,
    config_file: ConfigOption = None,
) -> None:
    """Admit a site; compare the fingerprint with the site by telephone first."""
    from stic_server.admission import registry

    folder = federation_file(config_file).parent / "sites"
    admitted = registry.admit(folder, name=site, public_key=public_key, replace=replace, again=again)
    print(f"{admitted.name} is admitted with key {admitted.fingerprint}")


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The site's name.")],
    config_file: ConfigOption = None,
) -> None:
    """Take a site's admission back; a running server refuses its next request within seconds."""
    from stic_server.admission import registry

    gone = registry.revoke(federation_file(config_file).parent / "sites", name=site)
    print(f"{gone.name} is no longer admitted; its key {gone.fingerprint} is revoked")


@app.command()
def renew(
    ca: Annotated[bool, typer.Option("--ca", help="Make a next CA instead, which the sites add.")] = False,
    switch: Annotated[
        bool, typer.Option("--switch", help="With --ca: every site trusts the next CA; take it into use.")
    ] = False,
    config_file: ConfigOption = None,
) -> None:
    """Make a new certificate for the server from the same CA; nothing changes at the sites."""
    from stic_server.admission import renewal

    path = federation_file(config_file)
    names, folder = config_files.load(path, FederationConfig).listen.names, path.resolve().parent
    if switch and not ca:
        raise UsageError("--switch is for a CA", advice="Run stic-server renew --ca --switch.")
    if switch:
        server, new = renewal.switch_ca(folder, names=names)
        print(f"CA certificate  {new.file}  (the sites may remove the old one now)")
        print(f"CA fingerprint  {new.fingerprint}")
    elif ca:
        new = renewal.make_next_ca(folder)
        print(f"next CA         {new.file}  (every site adds it to its ca.crt)")
        print(f"CA fingerprint  {new.fingerprint}  (tell it the sites by telephone)")
        return
    else:
        server = renewal.renew(folder, names=names)
    print(f"certificate     {server.file}, valid until {server.until:%Y-%m-%d}; a running server takes it")


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """Sites, server, certificates, last run, from files alone; exit code 1 with an expired certificate."""
    from stic_server.status import report as found

    path, now = federation_file(config_file), dt.datetime.now(dt.UTC)
    document = found.status(path.resolve().parent, config_files.load(path, FederationConfig), now=now)
    print(found.as_json(document) if as_json else found.describe(document, now=now))
    raise typer.Exit(1 if found.expired(document) else 0)


@app.command("sites")
def list_sites(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """Which sites are admitted."""
    from stic_server.admission import registry

    found = registry.admitted(federation_file(config_file).parent / "sites")
    if as_json:
        print(json.dumps([{"site": site.name, "fingerprint": site.fingerprint} for site in found]))
        return
    for site in found:
        print(f"{site.name}  {site.fingerprint}")
    if not found:
        print("no site is admitted; see stic-server admit --help")
