"""What may leave a site: rules (`release`), counts and bins audited together, the ledger of looks."""
