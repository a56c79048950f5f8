"""Statistics of a set of images: precalc_stats.py SOURCE --output=stats.npz."""

from launching import launch

if __name__ == "__main__":
    launch("fid.cli:precalc_stats")
