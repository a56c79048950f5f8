"""Trains a grid of learning rates and seeds: sweep.py --workdir=DIR [flags]."""

import sys

if __name__ == "__main__":
    try:
        from tf_ttur.studies.sweep_cli import sweep

        status = sweep()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
