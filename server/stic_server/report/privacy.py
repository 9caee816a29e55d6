"""Privacy audits that hospitals released, from a run's facts."""

from __future__ import annotations

from pydantic import ValidationError

from stic_core.errors import UsageError
from stic_core.evaluation.run_facts import RunFacts
from stic_core.privacy.audit_release import ReleasedAudit


def audits_of(facts: RunFacts) -> dict[str, ReleasedAudit]:
    """What each hospital released of an audit; those that released nothing are not in it.

    Raises:
        UsageError: a hospital's audit is not what a run writes.
    """
    try:
        return {
            site: ReleasedAudit.model_validate(found)
            for site, part in facts.sites.items()
            if (found := part.description.get("privacy_audit")) is not None
        }
    except ValidationError as error:
        raise UsageError(
            "record.json is not in the format that a run writes",
            got=type(error).__name__,
            expected="privacy audits with their figures",
        ) from None
