"""A server that is not what it says, or that asks for what it must not: the site refuses, and runs nothing."""

from __future__ import annotations

import datetime as dt
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode

from stic_client import flower_app
from stic_client.flower_link import FleetLink, _run
from stic_core.config import FederationConfig
from stic_core.errors import UntrustedServerError
from stic_core.models.parameters import get_flat
from stic_core.models.stic import build_head
from stic_core.protocol.fields import MESSAGE_KEY, WEIGHTS_KEY
from stic_core.protocol.messages import (
    Describe,
    Failure,
    Refusal,
    RunPlan,
    SiteDescription,
    TrainRound,
    decode_report,
    encode,
)
from stic_core.system.keys import load_private, make_key_pair
from stic_core.tensors.flat import digest
from stic_core.tensors.npy import read_npy
from stic_server.admission.certificates import make_certificates
from stic_server.admission.registry import admit
from stic_server.federation.plan import training_of
from stic_server.flower_link import FleetServer, Listen
from support.federation_kit import Recorder, free_port, participant

SITE = "center1"


def _reissue(folder: Path, **changes: object) -> None:
    """The server's certificate once more, by the same CA, with other dates or names."""
    old = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(ca.subject)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=90))
        .not_valid_after(changes.get("until", now + dt.timedelta(days=90)))  # pyright: ignore[reportArgumentType]
    )
    names = changes.get("names")
    assert names is None or isinstance(names, list)
    for extension in old.extensions:
        value = extension.value
        if names is not None and isinstance(value, x509.SubjectAlternativeName):
            value = x509.SubjectAlternativeName([x509.DNSName(str(name)) for name in names])
        builder = builder.add_extension(value, extension.critical)
    signed = builder.sign(key, hashes.SHA384())
    (folder / "server.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def _connect(folder: Path, ca: Path) -> None:
    """A site's link against a server with what lies in the folder."""
    public = make_key_pair(folder / "center1.key")
    admit(folder / "sites", name=SITE, public_key=public)
    port = free_port()
    server = FleetServer(Listen("127.0.0.1", port, folder / "server.crt", folder / "server.key", ca))
    server.watch(folder / "sites")
    server.start()
    link = FleetLink(
        f"127.0.0.1:{port}",
        ca=ca,
        key=load_private(folder / "center1.key"),
        state=folder / "node.json",
        observer=Recorder(),
    )
    try:
        link.serve(flower_app.app, node_config={}, until=lambda: True)
    finally:
        link._client._client.close()
        server.stop()


def test_a_valid_certificate_of_the_pinned_ca_is_taken(tmp_path: Path) -> None:
    """So that the refusals below come from what is wrong there, and from nothing else."""
    make_certificates(tmp_path, names=["127.0.0.1"])
    _reissue(tmp_path)
    _connect(tmp_path, tmp_path / "ca.crt")


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    """An hour ago is too long ago: exit code 3, says that it expired, and no second try."""
    make_certificates(tmp_path, names=["127.0.0.1"])
    _reissue(tmp_path, until=dt.datetime.now(dt.UTC) - dt.timedelta(hours=1))
    with pytest.raises(UntrustedServerError, match="certificate has expired"):
        _connect(tmp_path, tmp_path / "ca.crt")


def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    """From the pinned CA, but issued to somebody else's name."""
    make_certificates(tmp_path, names=["127.0.0.1"])
    _reissue(tmp_path, names=["elsewhere.example"])
    with pytest.raises(UntrustedServerError, match="not for this name"):
        _connect(tmp_path, tmp_path / "ca.crt")


def test_another_ca_of_the_same_name_is_refused(tmp_path: Path) -> None:
    """Anyone can make a CA that calls itself as ours."""
    make_certificates(tmp_path, names=["127.0.0.1"])
    make_certificates(tmp_path / "other", names=["127.0.0.1"])
    with pytest.raises(UntrustedServerError, match="not trusted"):
        _connect(tmp_path, tmp_path / "other" / "ca.crt")


# ---- what a server sends ------------------------------------------------------------------


def _plan(**changes: object) -> RunPlan:
    federation = FederationConfig.model_validate(
        {"model": {"backbone": "tiny"}, "training": {"views": 1}, **changes}
    )
    return training_of(federation).plan


def test_a_task_without_patients_here_is_refused(tmp_path: Path) -> None:
    """No patient of any of its classes: nothing is computed, and only the kind of error travels."""
    site = participant(tmp_path / SITE, site=SITE, seed=1)
    report, weights = site.answer(Describe(run_id="r", plan=_plan(task="benign-malignant")), None)
    assert weights is None
    assert isinstance(report, Failure)
    assert report.code == "DataError"


def test_a_known_task_of_other_classes_is_refused(tmp_path: Path) -> None:
    """What a task's name means is the same everywhere, or an operator approves something else."""
    site = participant(tmp_path / SITE, site=SITE, seed=1)
    task = {"name": "malignant", "classes": ["CIRRHOSIS", "NONE"]}
    report, weights = site.answer(Describe(run_id="r", plan=_plan(task=task)), None)
    assert weights is None
    assert isinstance(report, Refusal)
    assert "classes of task malignant" in report.reason


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def _array(path: Path, kind: str) -> Array:
    good = Array(np.zeros(4, np.float32))
    header = good.data[:128]
    if kind == "a pickle":
        import pickle

        good.data = pickle.dumps(Bomb(path))
    elif kind == "objects":
        import io

        file = io.BytesIO()
        np.save(file, np.array([Bomb(path)]), allow_pickle=True)
        good.data = file.getvalue()
    elif kind == "a huge shape":
        good.data = header.replace(b"(4,)", b"(400000000000,)").replace(b" " * 11 + b"\n", b"\n") + bytes(16)
    elif kind == "float64":
        good = Array(np.zeros(4, np.float64))
    elif kind == "two axes":
        good = Array(np.zeros((2, 2), np.float32))
    elif kind == "another length":
        good = Array(np.zeros(5, np.float32))
    elif kind == "NaN":
        good = Array(np.full(sum(spec.size for spec in _plan().tensors), np.nan, np.float32))
    return good


def _message(content: RecordDict) -> Message:
    """As the link hands it to the ClientApp."""
    metadata = Metadata(
        run_id=1,
        message_id="m",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=2,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=60.0,
        message_type=MessageType.TRAIN,
    )
    return make_message(metadata=metadata, content=content)


@pytest.mark.parametrize(
    "kind", ["a pickle", "objects", "a huge shape", "float64", "two axes", "another length", "NaN"]
)
def test_a_malicious_tensor_is_refused(tmp_path: Path, kind: str) -> None:
    """Through the ClientApp as it runs at a hospital: nothing is executed, no text of the error travels."""
    site = participant(tmp_path / SITE, site=SITE, seed=1)
    plan = _plan()
    array = _array(tmp_path / "executed", kind)
    named = "0" * 64
    if kind == "NaN":  # honestly named, so that nothing but the values is wrong
        named = digest(read_npy(array.data), plan.tensors)
    plan = plan.model_copy(update={"initial": named})
    report, _ = site.answer(Describe(run_id="r", plan=plan), None)
    assert isinstance(report, SiteDescription)
    question = TrainRound(run_id="r", plan_digest=plan.digest, round=1, weights_digest=named)
    content = RecordDict(
        {
            MESSAGE_KEY: ConfigRecord({MESSAGE_KEY: encode(question)}),
            WEIGHTS_KEY: ArrayRecord({WEIGHTS_KEY: array}),
        }
    )
    message = _message(content)
    context = Context(1, 1, {}, RecordDict(), {})
    before = threading.active_count()
    reply = _run(flower_app.client_app(site), message, context)
    if reply.has_error():
        assert (reply.error.code, reply.error.reason) == (
            ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
            "ProtocolError",
        )
    else:
        answer = decode_report(str(reply.content.config_records[MESSAGE_KEY][MESSAGE_KEY]))
        assert isinstance(answer, Failure)
        assert answer.code == "ProtocolError"
        assert WEIGHTS_KEY not in reply.content.array_records
    assert not (tmp_path / "executed").exists()
    assert threading.active_count() == before


def test_the_same_message_with_honest_weights_is_answered(tmp_path: Path) -> None:
    """So that the refusals above come from the tensor."""
    site = participant(tmp_path / SITE, site=SITE, seed=1)
    plan = _plan()
    site.answer(Describe(run_id="r", plan=plan), None)
    weights = get_flat(build_head(channels=32, classes=3, seed=0))
    question = TrainRound(
        run_id="r", plan_digest=plan.digest, round=1, weights_digest=digest(weights, plan.tensors)
    )
    content = RecordDict(
        {
            MESSAGE_KEY: ConfigRecord({MESSAGE_KEY: encode(question)}),
            WEIGHTS_KEY: ArrayRecord({WEIGHTS_KEY: Array(weights)}),
        }
    )
    message = _message(content)
    reply = _run(flower_app.client_app(site), message, Context(1, 1, {}, RecordDict(), {}))
    assert not reply.has_error()
    assert WEIGHTS_KEY in reply.content.array_records
