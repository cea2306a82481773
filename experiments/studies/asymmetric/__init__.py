"""Certificates of one sensitive class: feature-convex networks, boxes and smoothing."""
