"""Reproduces a row of the paper's results: reproduce.py --preset=celeba_dcgan."""

import sys

if __name__ == "__main__":
    try:
        from tf_ttur.cli import reproduce

        status = reproduce()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
