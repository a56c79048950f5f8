"""Statistics files: stats.py show|diff|list|verify|merge ..."""

import sys

from fid.stats_cli import stats

if __name__ == "__main__":
    sys.exit(stats())
