"""What several tests share; nothing here is a test."""

from support.annotation_check import check

__all__ = ["check"]
