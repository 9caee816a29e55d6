"""Commands of the operator: who is admitted, which certificates there are, and how things stand."""
