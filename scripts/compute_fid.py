"""Fréchet Inception Distance between two sets of images: compute_fid.py A B."""

import sys

from fid.cli import compute_fid

if __name__ == "__main__":
    sys.exit(compute_fid())
