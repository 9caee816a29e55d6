"""What stands before SuperLink's app: everything but the endpoints that a site needs is 404."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

ENDPOINTS = frozenset(
    {"/health"}
    | {
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
    }
)
"""What a site needs; everything else is 404."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """The outermost layer: 404 for what is no Fleet endpoint, 413 for a body over the limit.

    Args:
        app: SuperLink's.
        max_body: bytes.
    """

    def __init__(self, app: AsgiApp, *, max_body: int) -> None:
        self._app, self._max_body = app, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            if scope["path"] not in ENDPOINTS:
                await _answer(send, 404)
                return
            length = dict(scope["headers"]).get(b"content-length", b"")
            # Without a length the size is unknown before it is read: HTTP's 411.
            if scope["method"] == "POST" and not length.isdigit():
                await _answer(send, 411)
                return
            if length and int(length) > self._max_body:
                await _answer(send, 413)
                return
        await self._app(scope, receive, send)


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
