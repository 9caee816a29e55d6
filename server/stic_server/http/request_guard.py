"""What stands before SuperLink's app: it hears a site's requests to a site's endpoints, and nothing else.

All of it is decided from a request's first lines, before its body is read. Whoever comes here has
shown an admitted key in TLS already; the request has to be signed with the same one.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from stic_server.http.connection_limits import KEY
from stic_server.http.instances import SIGN_ON, TAKEN_OVER, Instances, instance_of
from stic_server.http.signatures import Signatures

LOG = logging.getLogger(__name__)

ENDPOINTS = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
"""What a site needs; everything else is 404."""

CONTENT = "/v1/fleet/push-object"
"""The one request that carries content."""

REFUSALS = (401, 404, 405, 411, 413, TAKEN_OVER, 429, 503)
"""HTTP statuses with which a request is not let through; `Guard` says for what."""

SMALL_BODY = 256 * 1024
"""Of every other request; ours have 2 kB at most."""

AT_ONCE = 4
"""Requests of one site; ours makes two at most, and one that was cut off may be waited for meanwhile."""

BODIES_AT_ONCE = 2
"""Of the largest bodies, so many may be under way from one site."""

_SAY_EVERY_S = 60.0
_DIGITS = 20

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """The outermost layer.

    It answers 404 for what is no Fleet endpoint, 405 for another method, 411 and 413 for a body
    without a length or over the limit, 401 for a request that the connection's own site did not
    sign or whose signature was used before, 423 for a client whose place another client of its site
    has, 429 for a site that asks too often, 503 for one that sends too much at once, and 500, with no
    word of why, for what Flower could not handle.

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
        self._instances = Instances()
        self._under_way: dict[str, list[int]] = {}
        self._said: dict[str, float] = {}
        self.refused: Counter[int] = Counter()
        """Requests that were not let through, by HTTP status."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":  # the server's own start and end
            await self._app(scope, receive, send)
            return
        length = _length(scope)
        status, site = self._judge(scope, length)
        if status is not None:
            await self._refuse(send, status)
            return
        if self._instances.is_replaced(site, path=scope["path"], instance=instance_of(scope["headers"])):
            self._say(site, f"{site}: two of its clients are running; the one that signed on last is served")
            await self._refuse(send, TAKEN_OVER)
            return
        if scope["path"] == SIGN_ON:
            send = self._watched(send, site, instance=instance_of(scope["headers"]))
        bodies = self._under_way.setdefault(site, [])
        bodies.append(length)
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            # Flower has answered 500 by now; the text may quote what a site sent.
            LOG.info("a request to %s failed", scope["path"], exc_info=True)
            self._say("server", f"a request to {scope['path']} failed with {type(error).__name__}")
        finally:
            bodies.remove(length)

    async def _refuse(self, send: Send, status: int) -> None:
        self.refused[status] += 1
        await _answer(send, status)

    def _watched(self, send: Send, site: str, *, instance: bytes) -> Send:
        """Know the process whose sign-on Flower takes."""

        async def watched(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self._instances.signed_on(site, instance=instance)
            await send(message)

        return watched

    def _judge(self, scope: Scope, length: int) -> tuple[int | None, str]:
        """The status that refuses a request, None for one that is let through; and whose it is."""
        path, headers = scope["path"], scope["headers"]
        if path not in ENDPOINTS:
            return 404, ""
        if scope["method"] != "POST":
            return 405, ""
        # Without a length the size is unknown before it is read: HTTP's 411.
        if length < 0:
            return 411, ""
        if length > (self._max_body if path == CONTENT else min(self._max_body, SMALL_BODY)):
            return 413, ""
        signer = self._signatures.look(headers, key=scope["extensions"][KEY])
        match signer.verdict:
            case "fresh":
                return self._too_much(signer.site, length), signer.site
            case "repeated":
                self._say(
                    signer.site,
                    f"{signer.site}: the same signed request came twice; the second was rejected",
                )
                return 401, signer.site
            case "too many":
                self._say(signer.site, f"{signer.site}: too many requests; rejected for 5 minutes")
                return 429, signer.site
            case _:
                return 401, ""

    def _too_much(self, site: str, length: int) -> int | None:
        bodies = self._under_way.get(site, ())
        if len(bodies) < AT_ONCE and sum(bodies) + length <= BODIES_AT_ONCE * self._max_body:
            return None
        self._say(site, f"{site}: too much at once; it may try again")
        return 503

    def _say(self, who: str, text: str) -> None:
        now = time.monotonic()
        if now - self._said.get(who, -_SAY_EVERY_S) >= _SAY_EVERY_S:
            self._said[who] = now
            self._note(text)


def _length(scope: Scope) -> int:
    """Of the body that is announced; -1 where none is."""
    text = dict(scope["headers"]).get(b"content-length", b"")
    return int(text) if text.isdigit() and len(text) < _DIGITS else -1


async def _answer(send: Send, status: int) -> None:
    # The body that may follow is not read: the connection ends here.
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
