"""Requests to the server's Fleet API, signed with the site's key, and whether it knows that key.

Beside `flower_link` the only module of this side that touches Flower's internals.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from stic_client.connection.faults import refuses_key, why
from stic_client.connection.sign_on import Admission
from stic_client.connection.tls import connection
from stic_core.errors import ProtocolError

_OBJECT_TIMEOUT_S, _SMALL_TIMEOUT_S, _QUESTION_TIMEOUT_S = 60.0, 20.0, 15.0


class SignedClient(FleetHttpClient):
    """Flower's client on our connection: the pinned CA, the environment's proxy, no redirects.

    Args:
        address: host:port.
        ca: the CA's certificate, the only one that is trusted.
        key: the site's private key.
        timeout: seconds for what carries weights.
        instance: names this process, of which there may be one per site; "" does not.
    """

    def __init__(
        self,
        address: str,
        *,
        ca: Path,
        key: ec.EllipticCurvePrivateKey,
        timeout: float = _OBJECT_TIMEOUT_S,
        instance: str = "",
    ) -> None:
        super().__init__(f"https://{address}")
        self._reach = partial(SignedClient, address, ca=ca, timeout=timeout)
        self._connect = partial(connection, address, ca=ca, timeout=timeout)
        self._former = [self._client]
        self._named = _Named(instance)
        self._sign_with(key)

    def _sign_with(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._client = self._connect(key=key)
        self._interceptors = (
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),
            self._named,
            _Patience(),
        )
        self._public_key = public_key_to_bytes(key.public_key())

    def take_key(self, key: ec.EllipticCurvePrivateKey) -> bool:
        """Sign with another key from now on, if the server knows it.

        Raises:
            ProtocolError: what answers is no server of ours.
        """
        with self._reach(key=key) as other:
            if other.ask_admission() != "admitted":
                return False
        # A heartbeat may be under way over the connections before: they are closed with this client.
        self._former.append(self._client)
        self._sign_with(key)
        return True

    def sign_off_for(self, instance: str) -> None:
        """Sign-offs are of this process from now on: the one that was killed, or this one."""
        self._named.leaving = instance

    def close(self) -> None:
        """Close every connection."""
        for client in self._former:
            client.close()
        super().close()

    def sign_on_request(self, *, heartbeat_interval: float) -> ActivateNodeRequest:
        """To be told of every so many seconds."""
        return ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=heartbeat_interval)

    def ask_admission(self) -> Admission:
        """Whether the server knows the key; nothing changes there.

        A key that it does not know is refused in TLS. Beyond that, signing on could look to the
        coordinator like a site that came and went. So the question is a sign-on that cannot succeed:
        its heartbeat interval is out of range, which the server looks at only after it found the key.

        Raises:
            ProtocolError: what answers is no server of ours.
        """
        try:
            self.ActivateNode(self.sign_on_request(heartbeat_interval=0))
        except httpx.TransportError as error:
            if refuses_key(error):
                return "unknown"
            raise
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 401:
                return "unsigned"
            said = FlowerError.from_json(error.response.text)
            if said is not None and said.code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
                return "admitted"
            if said is not None and said.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
                return "unknown"
            raise
        raise ProtocolError("the server accepted a sign-on that it should refuse")


class _Named:
    """Says which process asks.

    Args:
        instance: this one.
    """

    def __init__(self, instance: str) -> None:
        self._instance = self.leaving = instance

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Flower's interface."""
        of = self.leaving if isinstance(context.message, DeactivateNodeRequest) else self._instance
        if of:
            context.request.headers["stic-instance"] = of
        return call_next(context)


class _Patience:
    """Less of it for questions and answers of a few bytes: a line that was cut is noticed sooner."""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Flower's interface."""
        if not isinstance(context.message, PushObjectRequest | PullObjectRequest):
            timeouts = context.request.extensions["timeout"]
            timeouts["read"] = min(timeouts["read"], _SMALL_TIMEOUT_S)
        return call_next(context)


def ask_admission(address: str, *, ca: Path, key: ec.EllipticCurvePrivateKey) -> Admission:
    """Ask the server once whether it knows a site's key; see `SignedClient.ask_admission`.

    Raises:
        ConnectionError: the server is not reached.
        ProtocolError: what answers is no server of ours.
        UntrustedServerError: the server's certificate is not from the pinned CA.
    """
    client = SignedClient(address, ca=ca, key=key, timeout=_QUESTION_TIMEOUT_S)
    try:
        return client.ask_admission()
    except httpx.TransportError as error:
        raise ConnectionError(why(error, address, ca=ca)) from None
    except httpx.HTTPStatusError as error:
        raise ProtocolError(f"the server answers HTTP {error.response.status_code}") from None
    finally:
        client.close()
