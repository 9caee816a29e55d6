"""Why the server is not reached: a name, a port, a certificate, each with words of its own."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from stic_client.connection.faults import why
from stic_client.connection.tls import connection
from stic_core.errors import UntrustedServerError
from stic_server.admission.certificates import make_certificates

NAMES = ("liver.example", "10.1.2.3")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA and a server's certificate for `NAMES`."""
    folder = tmp_path_factory.mktemp("server")
    make_certificates(folder, names=NAMES)
    return folder


@pytest.fixture
def served(certificates: Path) -> Iterator[str]:
    """The address of a TLS server whose certificate is not for this address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError), accepted, context.wrap_socket(accepted, server_side=True):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with closing(listener):
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def _asked(address: str, ca: Path) -> httpx.TransportError:
    with (
        connection(address, ca=ca, key=None, timeout=5.0) as client,
        pytest.raises(httpx.TransportError) as fault,
    ):
        client.get(f"https://{address}/")
    return fault.value


def test_an_address_that_the_certificate_lacks_is_no_stranger(served: str, certificates: Path) -> None:
    """The names that it has are told, and that `renew` adds one; nobody is suspected."""
    ca = certificates / "ca.crt"
    with pytest.raises(UntrustedServerError) as refused:
        why(_asked(served, ca), served, ca=ca)
    assert refused.value.got == "a certificate for liver.example, 10.1.2.3"
    assert refused.value.expected == "one for 127.0.0.1"
    assert "stic-server renew" in str(refused.value.advice)
    assert "intercept" not in str(refused.value)


def test_the_names_of_a_stranger_are_not_believed(served: str, certificates: Path, tmp_path: Path) -> None:
    """Another CA is still what it was: compare the fingerprint."""
    make_certificates(tmp_path, names=NAMES)
    with pytest.raises(UntrustedServerError) as refused:
        why(_asked(served, certificates / "ca.crt"), served, ca=tmp_path / "ca.crt")
    assert "liver.example" not in str(refused.value)
    with pytest.raises(UntrustedServerError) as refused:
        why(_asked(served, tmp_path / "ca.crt"), served, ca=tmp_path / "ca.crt")
    assert "intercepting" in str(refused.value)


@pytest.mark.parametrize(
    ("code", "said"), [(10, "has expired"), (9, "is not valid yet"), (18, "is not trusted")]
)
def test_each_fault_of_a_certificate_has_its_words(code: int, said: str) -> None:
    """A clock, a date or a CA: whoever reads it looks at the right thing first."""
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.verify_code, cause.verify_message = code, "as OpenSSL says"
    error = httpx.ConnectError("failed")
    error.__cause__ = cause
    with pytest.raises(UntrustedServerError) as refused:
        why(error, "liver.example:8443")
    assert said in refused.value.what


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "the name liver.exmaple is not found"),
        (
            socket.gaierror(socket.EAI_AGAIN, "later"),
            "the name liver.exmaple cannot be looked up at the moment",
        ),
        (ConnectionRefusedError(111, "refused"), "connection refused"),
        (OSError(113, "no route"), "no route to it"),
        (OSError(101, "unreachable"), "no route to it"),
        (ssl.SSLError(1, "wrong version"), "no TLS connection"),
    ],
)
def test_a_name_that_is_not_found_is_no_firewall(
    cause: OSError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its own reason, without a proxy in between."""
    monkeypatch.setenv("NO_PROXY", "*")
    error = httpx.ConnectError("failed")
    error.__cause__ = cause
    assert why(error, "liver.exmaple:8443") == said
