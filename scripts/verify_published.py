"""Published numbers of CIFAR-10, measured again: verify_published.py [--only=...]."""

import sys

if __name__ == "__main__":
    try:
        from fid.stats_cli import verify_published

        status = verify_published()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
