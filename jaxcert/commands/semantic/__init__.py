"""The command `semantic`: its flags, and what it does."""
