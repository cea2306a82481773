"""The command `sweep`: its flags, and what it does."""
