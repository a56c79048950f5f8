"""Statistics of a set of images: precalc_stats.py SOURCE --output=stats.npz."""

import sys

if __name__ == "__main__":
    try:
        from fid.cli import precalc_stats

        status = precalc_stats()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
