"""Relaxations of ReLU networks: pictures, laws and a measurement."""
