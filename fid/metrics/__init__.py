"""Metrics: from features of images to numbers."""
