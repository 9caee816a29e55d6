"""Reader studies: what is computed, what may be released, how it is said."""
