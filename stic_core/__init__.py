"""What both sides share: the model, the site dataset, training, statistics, messages. No Flower.

The public names are imported when they are first used: `import stic_core` takes milliseconds
and loads neither torch nor pandas nor scipy. Below, two sites evaluate a model. Each report holds
what that site's policy releases, and `pool` adds the reports up without seeing a score.

Example:
    >>> import numpy as np
    >>> import stic_core
    >>> rng, classes = np.random.default_rng(0), ("HCC", "ICC", "META")
    >>> reports = {}
    >>> for site in ("center1", "center2"):
    ...     labels = np.repeat([0, 1, 2], 30)
    ...     logits = rng.normal(size=(90, 3)) + 2 * np.eye(3)[labels]
    ...     reports[site] = stic_core.site_report(
    ...         logits, labels, classes=classes, policy=stic_core.PolicyConfig()
    ...     )
    >>> pooled = stic_core.pool(reports)
    >>> pooled.n, round(pooled.auc["HCC"].value, 2)
    (180, 0.97)
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
