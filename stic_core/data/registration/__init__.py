"""Bringing the phases of one patient into agreement: slices, volumes, and the search behind both."""
