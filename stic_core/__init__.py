"""What both sides share: the model, the site dataset, training, statistics, messages. No Flower.

The names below are imported when they are first used, so that `import stic_core` takes
milliseconds and loads neither torch nor pandas.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
