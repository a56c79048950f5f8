"""Published numbers of CIFAR-10, measured again: verify_published.py [--only=...]."""

import sys

from fid.stats_cli import verify_published

if __name__ == "__main__":
    sys.exit(verify_published())
