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
from stic_server.cli.options import ConfigOption, app, existing_federation_file, federation_file


@app.command()
def admit(
    site: Annotated[str, typer.Argument(help="The site's name in the federation.")],
    public_key: Annotated[Path, typer.Argument(help="The file site.pub that the site sent.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the site's key; the old one is revoked.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Admit a key that was revoked, such as by mistake.")
    ] = False,
    config_file: ConfigOption = None,
) -> None:
    """Admit a site; first compare the key's fingerprint with the site by telephone."""
    from stic_server.admission import registry

    folder = existing_federation_file(config_file).parent / "sites"
    admitted = registry.admit(folder, name=site, public_key=public_key, replace=replace, again=again)
    print(f"{admitted.name} is admitted with key {admitted.fingerprint}")


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(help="The site's name.")],
    config_file: ConfigOption = None,
) -> None:
    """Revoke a site's admission; a running server refuses its requests within seconds."""
    from stic_server.admission import registry

    gone = registry.revoke(existing_federation_file(config_file).parent / "sites", name=site)
    print(f"{gone.name} is no longer admitted; its key {gone.fingerprint} is revoked")


@app.command()
def renew(
    ca: Annotated[bool, typer.Option("--ca", help="Make the next CA instead, for the sites to add.")] = False,
    switch: Annotated[
        bool, typer.Option("--switch", help="With --ca: switch to the next CA, once every site trusts it.")
    ] = False,
    config_file: ConfigOption = None,
) -> None:
    """Issue a new server certificate from the same CA; nothing changes at the sites."""
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
        print(f"CA fingerprint  {new.fingerprint}  (read it to each site by telephone)")
        return
    else:
        server = renewal.renew(folder, names=names)
    print(f"certificate     {server.file}, valid until {server.until:%Y-%m-%d}; a running server picks it up")


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """Show sites, server, certificates and last run from files alone; exit code 1 if a certificate has expired."""
    from stic_server.status import report as found

    path, now = federation_file(config_file), dt.datetime.now(dt.UTC)
    document = found.status(path.resolve().parent, config_files.load(path, FederationConfig), now=now)
    print(found.as_json(document) if as_json else found.describe(document, now=now))
    raise typer.Exit(1 if found.expired(document) else 0)


@app.command("sites")
def list_sites(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """List the admitted sites."""
    from stic_server.admission import registry

    found = registry.admitted(existing_federation_file(config_file).parent / "sites")
    if as_json:
        print(json.dumps([{"site": site.name, "fingerprint": site.fingerprint} for site in found]))
        return
    for site in found:
        print(f"{site.name}  {site.fingerprint}")
    if not found:
        print("no site is admitted; see stic-server admit --help")
