"""What may be released: small cells, and what could be recomputed from the others."""
