"""A masked sum on the server's disk, from before its masks are taken off until the round is saved.

A site opens a round for one set of hospitals only. A server that was killed meanwhile must therefore ask for the
same shares again, and not begin the round anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from stic_core.privacy.secure_aggregation.exchange import MaskedExchange
from stic_core.protocol.mask_messages import SiteKeys
from stic_core.protocol.messages import PooledAnswer, RoundReport
from stic_core.system.files import write_atomically
from stic_server.federation.masking import MaskedSum

SUM_FILE = "masked-sum.safetensors"
"""In the run's folder."""

_REPORTS: TypeAdapter[dict[str, RoundReport | PooledAnswer]] = TypeAdapter(
    dict[str, Annotated[RoundReport | PooledAnswer, Field(discriminator="kind")]]
)


def save_masked_sum(masked: MaskedSum, path: Path) -> None:
    """Write it, on the disk before this returns; it holds nothing that could be unmasked without the sites."""
    facts = {
        "exchange": asdict(masked.exchange),
        "question": masked.question,
        "members": [member.model_dump(mode="json") for member in masked.members],
        "together": masked.together,
        "signatures": dict(masked.signatures),
        "reports": {site: report.model_dump(mode="json") for site, report in masked.reports.items()},
    }
    write_atomically(path, save({"total": masked.total}, metadata={"stic": json.dumps(facts)}))


def load_masked_sum(path: Path, *, run_id: str, number: int, question: str) -> MaskedSum | None:
    """The sum of a round that waits to be opened; None where there is none for this round and question."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["stic"])
            total = file.get_tensor("total")
        masked = MaskedSum(
            exchange=MaskedExchange(**facts["exchange"]),
            question=facts["question"],
            members=tuple(SiteKeys.model_validate(member) for member in facts["members"]),
            together=tuple(facts["together"]),
            signatures=facts["signatures"],
            reports=_REPORTS.validate_python(facts["reports"]),
            total=np.asarray(total, dtype=np.uint32),
        )
    except (SafetensorError, ValidationError, KeyError, TypeError, ValueError):
        return None  # the round begins anew, and the sites say so if it was opened
    of_this = (masked.exchange.run_id, masked.exchange.round, masked.question) == (run_id, number, question)
    return masked if of_this else None
