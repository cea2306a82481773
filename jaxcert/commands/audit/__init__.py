"""The command `audit`: its flags, and what it does."""
