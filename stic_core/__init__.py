"""What both sides of STIC-Federated share: the model, the site dataset, training, statistics and messages. No Flower."""

__version__ = "0.1.0"
