"""The coordinator's side: admits sites, averages weights, collects the evaluation, writes the report."""
