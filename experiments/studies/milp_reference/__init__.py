"""A run of certify.py checked by mixed-integer programming."""
