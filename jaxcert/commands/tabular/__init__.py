"""The command `tabular`: its flags, and what it does."""
