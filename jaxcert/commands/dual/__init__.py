"""The command `dual`: its flags, and what it does."""
