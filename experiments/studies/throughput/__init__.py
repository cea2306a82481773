"""Boxes per second, side by side with other tools."""
