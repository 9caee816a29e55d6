"""Which sites may take part: their keys, certificates and renewal."""
