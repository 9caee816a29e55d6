"""The hospital's Flower ClientApp: takes a message apart, lets the participant answer, packs the answer.

`stic-client` makes an app for its participant. On a stock SuperNode runs `app`, whose node
configuration names the site's configuration file under `site-config`; each message may start
a process of its own there, so what a site keeps of a run is on its disk. In Flower's simulation
the run configuration names a folder of sites under `sites`, one for each virtual node.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from stic_client.participation.participant import Participant
from stic_core import config, config_files
from stic_core.errors import ConfigError, ProtocolError
from stic_core.protocol.compression import WireArray
from stic_core.protocol.fields import MESSAGE_KEY, SITE_KEY, WEIGHTS_KEY
from stic_core.protocol.messages import Report, decode_instruction, encode
from stic_core.tensors.npy import read_npy

app = ClientApp()
"""For a stock SuperNode; a plain assignment, which is what Flower's loader looks for."""


def client_app(participant: Participant) -> ClientApp:
    """An app whose messages one participant answers: data and model stay loaded between them."""
    return _register(ClientApp(), lambda _: participant)


def _register(app: ClientApp, participant_of: Callable[[Context], Participant]) -> ClientApp:
    def answer(message: Message, context: Context) -> Message:
        return _answer(message, participant_of(context))

    app.train()(answer)
    app.evaluate()(answer)
    app.query()(answer)
    return app


def _site_config(context: Context) -> Path:
    """The site's configuration file: a SuperNode's own, or that of a virtual node's partition.

    Raises:
        ConfigError: neither is named, or there are fewer sites in the folder than virtual nodes.
    """
    own, sites = context.node_config.get("site-config"), context.run_config.get("sites")
    if own:
        return Path(str(own))
    if not sites or "partition-id" not in context.node_config:
        raise ConfigError(
            "this SuperNode has no site",
            expected="site-config in --node-config, or in a simulation sites in --run-config",
            advice="Name the file site.yaml, or the folder that has one folder with a site.yaml per virtual node.",
        )
    folder, number = Path(str(sites)), int(context.node_config["partition-id"])
    found = sorted(folder.glob("*/site.yaml"))
    if number >= len(found):
        raise ConfigError(
            "too few sites for the simulation's virtual nodes",
            got=f"{len(found)} folders with a site.yaml",
            expected=f"{context.node_config['num-partitions']}, one per virtual node (num-supernodes)",
        )
    return found[number]


def _participant(context: Context) -> Participant:
    """A site as its disk has it: the message before may have been another process's."""
    return Participant(config_files.load(_site_config(context), config.SiteConfig), one_message=True)


_register(app, _participant)


@app.query(SITE_KEY)
def name(message: Message, context: Context) -> Message:
    """The site's name, which a virtual node's registration lacks."""
    site = config_files.load(_site_config(context), config.SiteConfig).site
    return Message(RecordDict({SITE_KEY: ConfigRecord({SITE_KEY: site})}), reply_to=message)


def _answer(message: Message, participant: Participant) -> Message:
    text = message.content.config_records[MESSAGE_KEY][MESSAGE_KEY]
    report, weights = participant.answer(decode_instruction(str(text)), _weights_of(message))
    return Message(_content(report, weights), reply_to=message)


def _weights_of(message: Message) -> WireArray | None:
    record = message.content.array_records.get(WEIGHTS_KEY)
    if record is None:
        return None
    if list(record) != [WEIGHTS_KEY]:
        raise ProtocolError("the weights must come as one array")
    return read_npy(record[WEIGHTS_KEY].data)


def _content(report: Report, weights: WireArray | None) -> RecordDict:
    content = RecordDict({MESSAGE_KEY: ConfigRecord({MESSAGE_KEY: encode(report)})})
    if weights is not None:
        content[WEIGHTS_KEY] = ArrayRecord({WEIGHTS_KEY: Array(weights)})
    return content
