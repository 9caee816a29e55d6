"""What training has cost this site's patients."""

from __future__ import annotations

import typer

from stic_client.cli.options import app, site_of


@app.command()
def privacy(context: typer.Context) -> None:
    """Show what training cost this site's patients, what is left of the budget, and what no noise covers."""
    from stic_client.participation.privacy_summary import ledger_in_words

    config = site_of(context).load()
    print(ledger_in_words(config.privacy, budget=config.policy.privacy_budget))
