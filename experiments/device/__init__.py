"""Everything that an accelerator is to show, in one call of nine minutes."""
