"""`check`: is this site ready? Each check is a frozen result; a page shows what the data look like."""

from stic_client.preflight.outcome import Check, Outcome, Status
from stic_client.preflight.run import Result, check_site

__all__ = ["Check", "Outcome", "Result", "Status", "check_site"]
