"""Named arrays as they travel: one flat array, .npy without trust, array types with shapes."""
