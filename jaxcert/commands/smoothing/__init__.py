"""The command `smoothing`: its flags, and what it does."""
