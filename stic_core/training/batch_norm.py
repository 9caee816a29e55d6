"""A site's own batch-norm statistics, estimated from its training images.

With `batch_norm: local` the statistics do not travel (Andreux et al. 2020, SiloBN). They are
estimated anew for each model that arrives, so that a site that was restarted has the same
ones, and so that any model can be judged at any site.
"""

from __future__ import annotations

import torch

from stic_core.models.pretrained import Backbone
from stic_core.models.stic import Network
from stic_core.training.batches import AnyBatches


@torch.no_grad()
def estimate_statistics(
    network: Network, examples: AnyBatches, *, device: torch.device, batch_size: int = 32
) -> None:
    """Set the statistics of the blocks that train to those of these patients' plain images.

    Every batch counts alike (torch's cumulative average); without patients nothing changes.
    """
    norms = [norm for _, norm in network.backbone.norms()]
    if not norms or len(examples) == 0:
        return
    momenta = [norm.momentum for norm in norms]
    backbone: Backbone = network.backbone.to(device)
    was_training = network.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.to(device).train()
    try:
        for images, clinical, _ in examples.plain(batch_size=batch_size, device=device):
            network(images, clinical)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.train(was_training)
        backbone.train(was_training)
