"""The command `plan_samples`: its flags, and what it does."""
