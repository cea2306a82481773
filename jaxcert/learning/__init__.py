"""Networks to certify: architectures, training, populations, pruning and data."""
