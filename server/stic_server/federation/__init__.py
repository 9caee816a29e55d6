"""A run: who takes part, rounds, held-out evaluation, checkpoints. No Flower, no transport."""
