"""Certificates as files, and their check by a program that shares no code with us."""
