"""What both sides share: the model, the site dataset, training, statistics, messages. No Flower."""

__version__ = "0.1.0"
