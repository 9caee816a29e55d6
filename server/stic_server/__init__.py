"""The coordinator's side: admits sites, averages weights, collects the evaluation, writes the report."""

import os

import lazy_loader

# Here, since flwr reads them when it is imported, and whatever imports it lies below:
# no process contacts anything but its own server.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
