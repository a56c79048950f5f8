"""`python -m fid A B`: the same as compute_fid.py."""

import sys

from fid.cli import compute_fid

if __name__ == "__main__":
    sys.argv[0] = "python -m fid"
    sys.exit(compute_fid())
