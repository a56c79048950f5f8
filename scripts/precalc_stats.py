"""Statistics of a set of images: precalc_stats.py SOURCE --output=stats.npz."""

import sys

from fid.cli import precalc_stats

if __name__ == "__main__":
    sys.exit(precalc_stats())
