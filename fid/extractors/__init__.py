"""Extractors: what maps images to features."""
