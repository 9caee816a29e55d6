"""The coordinator's first step: `federation.yaml`, the federation's CA and the server's certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stic_core import config_files
from stic_core.config import FederationConfig
from stic_core.errors import UsageError
from stic_core.system.files import write_atomically
from stic_core.system.keys import certificate_fingerprint
from stic_server.admission.certificates import make_certificates

# Written with comments, because an operator edits it next.
_TEMPLATE = """\
# A federation. Paths are relative to this file. Every key, also those that are not written here (schedule,
# warm_start, notify, log ...), is in docs/configuration.md. For an editor's help:
# stic-server schema federation > federation.schema.json, and as the first line of this file
# yaml-language-server: $schema=federation.schema.json
name: {name}
task: {task}               # HCC, ICC, META; or hcc-icc, benign-malignant, or a name and classes
rounds: {rounds}                 # at most, see training.early_stopping
min_sites: {min_sites}                # a round with fewer reports is not averaged

image:
  crop_mm: {crop_mm}              # side of the square around the lesion, mm; null: the whole slice

model:
  architecture: stic
  backbone: {backbone}           # vgg16 (ImageNet, the paper's) or tiny (the demo's own)

training:                   # at each site, each round
  local_epochs: {local_epochs}
  batch_size: 32
  learning_rate: 0.001
  early_stopping: 20        # stop after so many rounds without a better validation loss; null: never
  views: {views}                  # augmented views per patient, cached with the original
  class_balanced: false
  # schedule: plateau       # or cosine; the learning rate by round

algorithm:
  name: fedavg              # mean of the sites' weights, weighted by their training patients

# warm_start: runs/RUN-ID/model   # begin with a model instead of fresh weights
seed: {seed}
determinism: true           # bit-identical results for equal seeds on a CPU
local_only: {local_only}            # also train each site's own model, for comparison
secure_aggregation: {secure_aggregation}   # the server sees only the sum of the sites' updates; needs local_only: false
transport: float32          # or float16, int8: fewer bytes per round

listen:
  host: {host}
  port: {port}
  names: [{names}]          # host names and addresses that the sites use; they go into the certificate

join_timeout_s: {join_timeout_s}       # how long to wait for min_sites
join_grace_s: {join_grace_s}            # how much longer to wait for the other admitted sites
round_timeout_s: 3600
max_update_ratio: 100       # an update this many times larger than the other sites' is refused

runs: {runs}

# log: {{file: server.log, max_mb: 5, keep: 4}}   # what start says; null as file: none
# monitoring: {{health_port: 8081, metrics_port: 9464}}   # on 127.0.0.1, for stic-server health and Prometheus
# notify:                   # who is told when a site waits for an approval, is gone or back, and when a run ends
#   command: [/path/to/program, argument]   # gets the event as JSON on its stdin; or webhook: https://...
# tracking: {{mlflow: "sqlite:///mlflow.db", tensorboard: true}}   # who follows the figures of a run
"""


@dataclass(frozen=True, slots=True)
class NewFederation:
    """What can be chosen on the command line; the rest stands in federation.yaml."""

    name: str
    host: str
    port: int
    names: Sequence[str]
    task: str = "malignant"
    backbone: str = "vgg16"
    rounds: int = 100
    local_epochs: int = 2
    views: int = 8
    min_sites: int = 2
    crop_mm: float | None = None
    seed: int = 0
    join_timeout_s: float = 86_400
    join_grace_s: float = 60
    runs: Path = Path("runs")
    secure_aggregation: bool = False


def initialise(folder: Path, new: NewFederation) -> tuple[Path, str]:
    """Make the server's folder, once.

    Returns:
        The path of federation.yaml, and the CA's fingerprint for the sites to compare.

    Raises:
        UsageError: there is one already, or an argument cannot be used.
    """
    path = folder / "federation.yaml"
    if path.exists():
        raise UsageError(f"{path} exists", advice="It is not overwritten; edit it instead.")
    text = _TEMPLATE.format(
        **{
            **{name: getattr(new, name) for name in new.__slots__},
            "names": ", ".join(f'"{name}"' for name in new.names),
            "local_only": "false" if new.secure_aggregation else "true ",
            "secure_aggregation": "true " if new.secure_aggregation else "false",
            "crop_mm": "null" if new.crop_mm is None else f"{new.crop_mm:g}",
            "runs": "'" + str(new.runs).replace("'", "''") + "'",
        }
    )
    config_files.parse_text(text, FederationConfig, source="the command line", base=folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        make_certificates(folder, names=new.names)
    except FileExistsError as error:
        raise UsageError(
            f"{error.filename} exists", advice="It is not overwritten; move it away to make a new one."
        ) from None
    (folder / "sites").mkdir(exist_ok=True)
    write_atomically(path, text)
    return path, certificate_fingerprint(folder / "ca.crt")
