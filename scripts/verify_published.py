"""Published numbers of CIFAR-10, measured again: verify_published.py [--only=...]."""

from launching import launch

if __name__ == "__main__":
    launch("fid.stats_cli:verify_published")
