"""What all messages are made of: the protocol's version, and the types of their fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 5
"""Raised with every change that the other side would notice."""

MESSAGE_KEY = "stic"
"""The record under which a message travels; its JSON text lies in the field of the same name."""

WEIGHTS_KEY = "weights"
"""The record under which the flat array travels."""

SITE_KEY = "site"
"""Flower's action that asks a virtual node of a simulation for its site, and the record and field of the answer."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,96}$")]
Round = Annotated[int, Field(ge=1, le=10_001)]
"""Up to the most that a configuration can ask for, and the last look after them."""

MaskedRound = Annotated[int, Field(ge=0, le=10_001)]
"""What masks are for: a round, or 0 for the held-out evaluation."""

PublicKey = Annotated[str, Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]{100,400}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{2,400}$")]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
"""`federated`, `ensemble`, `centralised`, or the site whose own model it is."""

ClassName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,16}$")]
Serial = Annotated[int, Field(ge=1, le=10_000_000)]
Bytes32 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
"""32 bytes as base64: a public key, or a share of a secret."""

Sealed = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{40,400}={0,2}$")]
"""Two shares that only one site can read, as base64."""


class Message(BaseModel):
    """Frozen, of this version, and nothing else in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[5] = VERSION
