"""Smoothing of generated captions, through an oracle that errs."""
