"""Addresses of the ports that machines ask: bound where the configuration says, and by nobody else."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from stic_core.errors import ListenError

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is asked where it is bound to every interface


def shown(host: str, port: int) -> str:
    """As in an address: `127.0.0.1:8081`, `[::1]:8081`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str) -> str:
    """The address under which a program on this machine is asked."""
    return _EVERYWHERE.get(host, host)


def check_free(host: str, port: int, *, key: str) -> None:
    """That a port can be had, in this project's words; libraries say so in theirs, on stderr.

    Args:
        key: of the configuration, where the port can be changed.

    Raises:
        ListenError: it cannot.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with ExitStack() as stack:
            for family, kind, proto, _, address in dict.fromkeys(found):
                probe = stack.enter_context(socket.socket(family, kind, proto))
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
                probe.listen(1)
    except OSError as error:
        raise ListenError(
            f"cannot listen on {shown(host, port)}",
            got=error.strerror,
            advice=f"Stop what is using it, or change {key} in the configuration.",
        ) from None
