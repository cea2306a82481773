"""Counterexamples: how they are looked for, and who judges that one is one."""
