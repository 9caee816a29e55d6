"""The networks of the paper, their backbones, and how a model is stored and exchanged."""
