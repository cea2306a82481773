"""The command `certify`: its flags, and what it does."""
