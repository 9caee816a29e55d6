"""The coordinator's side: admits sites, averages weights, collects the evaluation, writes the report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
