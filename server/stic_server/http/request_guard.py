"""What stands before SuperLink's app: it hears a site's requests to a site's endpoints, and nothing else.

All of it is decided from a request's first lines, before its body is read: whoever has no
admitted key cannot make the server hold a body in memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from stic_server.http.signatures import Signatures

LOG = logging.getLogger(__name__)

HEALTH = "/health"
SIGN_ON = "/v1/fleet/activate-node"
ENDPOINTS = frozenset(
    {HEALTH, SIGN_ON}
    | {
        f"/v1/fleet/{name}"
        for name in (
            "deactivate-node",
            "send-node-heartbeat",
            "pull-messages",
            "push-messages",
            "push-object",
            "pull-object",
            "confirm-message-received",
        )
    }
)
"""What a site needs; everything else is 404."""

STRANGERS_BODY = 16 * 1024
"""A key that is not admitted may ask to sign on, and is told no; that takes half a kilobyte."""

_SAY_EVERY_S = 60.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """The outermost layer.

    It answers 404 for what is no Fleet endpoint, 405 for another method, 411 and 413 for a body
    without a length or over the limit, 401 for a request that no admitted site signed or whose
    signature was used before, 429 for a site that asks too often, and 500, with no word of why,
    for what Flower could not handle.

    Args:
        app: SuperLink's.
        max_body: bytes.
        signatures: of the admitted sites.
        note: called with a line about a site that misbehaves, at most once a minute per site.
    """

    def __init__(
        self, app: AsgiApp, *, max_body: int, signatures: Signatures, note: Callable[[str], None]
    ) -> None:
        self._app, self._max_body, self._signatures, self._note = app, max_body, signatures, note
        self._said: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http" or scope["path"] == HEALTH:
            await self._app(scope, receive, send)
            return
        status = self._judge(scope)
        if status is not None:
            await _answer(send, status)
            return
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            # Flower has answered 500 by now; the text may quote what a site sent.
            LOG.info("a request to %s failed", scope["path"], exc_info=True)
            self._say("server", f"a request to {scope['path']} failed with {type(error).__name__}")

    def _judge(self, scope: Scope) -> int | None:
        """The status that refuses a request, None for one that is let through."""
        path, headers = scope["path"], scope["headers"]
        if path not in ENDPOINTS:
            return 404
        if scope["method"] != "POST":
            return 405
        length = dict(headers).get(b"content-length", b"")
        # Without a length the size is unknown before it is read: HTTP's 411.
        if not length.isdigit():
            return 411
        if int(length) > self._max_body:
            return 413
        signer = self._signatures.look(headers)
        match signer.verdict:
            case "fresh":
                return None
            case "stranger" if path == SIGN_ON:
                return 413 if int(length) > STRANGERS_BODY else None
            case "repeated":
                self._say(
                    signer.site or "",
                    f"{signer.site}: the same signed request came twice; the second was rejected",
                )
                return 401
            case "too many":
                self._say(signer.site or "", f"{signer.site}: too many requests; rejected for 5 minutes")
                return 429
            case _:
                return 401

    def _say(self, who: str, text: str) -> None:
        now = time.monotonic()
        if now - self._said.get(who, -_SAY_EVERY_S) >= _SAY_EVERY_S:
            self._said[who] = now
            self._note(text)


async def _answer(send: Send, status: int) -> None:
    # The body that may follow is not read: the connection ends here.
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
