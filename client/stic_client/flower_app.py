"""The hospital's Flower ClientApp: takes a message apart, lets the participant answer, packs the answer.

The same object runs inside `stic-client` and on a stock SuperNode. The node's configuration
names the site's configuration file under `site-config`.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from stic_client.participation.participant import Participant
from stic_core import config
from stic_core.errors import ProtocolError
from stic_core.protocol.compression import WireArray
from stic_core.protocol.messages import MESSAGE_KEY, WEIGHTS_KEY, Report, decode_instruction, encode
from stic_core.tensors.npy import read_npy

participants: dict[str, Participant] = {}
"""By configuration file: data and model stay loaded between messages."""

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train rounds and local training."""
    return _answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Validation histograms and held-out evaluation."""
    return _answer(message, context)


@app.query()
def query(message: Message, context: Context) -> Message:
    """What takes no weights."""
    return _answer(message, context)


def _answer(message: Message, context: Context) -> Message:
    path = str(context.node_config["site-config"])
    if path not in participants:
        participants[path] = Participant(config.load(Path(path), config.SiteConfig))
    text = message.content.config_records[MESSAGE_KEY][MESSAGE_KEY]
    report, weights = participants[path].answer(decode_instruction(str(text)), _weights_of(message))
    return Message(_content(report, weights), reply_to=message)


def _weights_of(message: Message) -> WireArray | None:
    record = message.content.array_records.get(WEIGHTS_KEY)
    if record is None:
        return None
    if list(record) != [WEIGHTS_KEY]:
        raise ProtocolError("weights come as one array")
    return read_npy(record[WEIGHTS_KEY].data)


def _content(report: Report, weights: WireArray | None) -> RecordDict:
    content = RecordDict({MESSAGE_KEY: ConfigRecord({MESSAGE_KEY: encode(report)})})
    if weights is not None:
        content[WEIGHTS_KEY] = ArrayRecord({WEIGHTS_KEY: Array(weights)})
    return content
