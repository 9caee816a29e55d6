"""The coordinator's side: admits sites, averages their weights, collects the evaluation, writes the report."""
