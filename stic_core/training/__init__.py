"""Training at one site: batches, cached features, rates, the loop."""
