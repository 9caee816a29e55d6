"""A hospital's side: reads its files, trains and evaluates on its own machine, says what it agreed to say."""

import os

# Here, since flwr reads them when it is imported, and whatever imports it lies below:
# no process contacts anything but its own server.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
