"""A site's first step: its key pair, its configuration, and the server's CA in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stic_core import config_files
from stic_core.config import SiteConfig
from stic_core.errors import UsageError
from stic_core.system.files import write_atomically
from stic_core.system.keys import certificate_fingerprint, key_fingerprint, load_public, make_key_pair

# Written with comments, because a data engineer edits it next.
_TEMPLATE = """\
# One hospital of a STIC federation. Paths are relative to this file. Every key, also those that are not written
# here (cache_limit_gb, precision, notify, log ...), is in docs/configuration.md. For an editor's help:
# stic-client schema > site.schema.json, and as the first line of this file
# yaml-language-server: $schema=site.schema.json
site: {site}

server:
  address: "{address}"
  ca: ca.crt                # the only CA that this site trusts

key: site.key               # stays here, mode 0600

dataset:
  root: {root}              # every path in the manifest is relative to it
  manifest: manifest.csv
  prepared: prepared        # prepared images and cached features
  image:
    crop_mm: {crop_mm}      # side of the square around the lesion, mm; null: the whole slice
  units: {{}}                 # such as tbil: mg/dL, if a unit is not the default one

device: auto                # CUDA if available, else the CPU
backbone_weights: {{}}        # such as vgg16: /path/to/vgg16.pth, if not in torchvision's cache

policy:                     # what this site agrees to
  plans: approved           # only runs that you approved: stic-client --site {site} approve; or any
  tasks: [malignant, hcc-icc, benign-malignant]
  max_rounds: 1000
  max_local_epochs: 20
  max_local_steps: 10000
  max_learning_rate: 0.1
  max_batch_size: 1024
  local_only: true          # also train this site's own model, for comparison; its weights are sent
  # aggregates about the patients that may be sent; remove what must stay here
  release: [training-loss, validation, accuracy, auc, confusion, histograms, calibration, comparison]
  min_cell: 5               # counts of fewer patients are not released
  min_class: 10             # an AUC needs this many patients with the class and this many without
  held_out_models: 40       # so many models may ever be evaluated on the same held-out patients

# log: {{file: client.log, max_mb: 5, keep: 4}}   # what the client says; null as file: none
# monitoring: {{health_port: 8081, metrics_port: 9464}}   # on 127.0.0.1, for stic-client health and Prometheus
# notify:                   # who is told when a plan waits for approval, and when a run ends
#   command: [/path/to/program, argument]   # gets the event as JSON on its stdin; or webhook: https://...
"""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the site's engineer compares with the operator.

    Args:
        public_key: the file to send to the operator.
        key_fingerprint: as `ssh-keygen -l` shows it.
        ca_fingerprint: as `openssl x509 -fingerprint -sha256` shows it.
    """

    config: Path
    public_key: Path
    key_fingerprint: str
    ca_fingerprint: str


def enroll(
    folder: Path, *, site: str, address: str, ca: Path, root: Path, crop_mm: float | None
) -> Enrolment:
    """Make a site's folder, once.

    Args:
        folder: where the site's files go.
        address: host:port of the server.
        ca: the CA's certificate that the operator sent.
        root: folder of the site's data.
        crop_mm: as the federation prepares its images.

    Raises:
        UsageError: the site is enrolled already, or an argument cannot be used.
    """
    path = folder / "site.yaml"
    if path.exists():
        raise UsageError(
            f"{site} is already enrolled: {path} exists", advice="It is not overwritten; edit it instead."
        )
    ca_fingerprint = certificate_fingerprint(ca)
    text = _TEMPLATE.format(
        site=site,
        address=address,
        root=_quoted(root),
        crop_mm="null" if crop_mm is None else f"{crop_mm:g}",
    )
    config_files.parse_text(text, SiteConfig, source="the command line", base=folder)
    public = make_key_pair(folder / "site.key")
    write_atomically(folder / "ca.crt", ca.read_bytes())
    write_atomically(path, text)
    return Enrolment(path, public, key_fingerprint(load_public(public)), ca_fingerprint)


def _quoted(path: Path) -> str:
    """A path as a YAML string; single quotes are doubled inside single quotes."""
    return "'" + str(path).replace("'", "''") + "'"
