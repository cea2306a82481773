"""The command `verify`: its flags, and what it does."""
