"""The command `train`: its flags, and what it does."""
