"""Fréchet Inception Distance between two sets of images: compute_fid.py A B."""

import sys

if __name__ == "__main__":
    try:
        from fid.cli import compute_fid

        status = compute_fid()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
