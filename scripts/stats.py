"""Statistics files: stats.py show|diff|list|verify|merge ..."""

from launching import launch

if __name__ == "__main__":
    launch("fid.stats_cli:stats")
