"""Statistics files: stats.py show|diff|list|verify|merge ..."""

import sys

if __name__ == "__main__":
    try:
        from fid.stats_cli import stats

        status = stats()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
