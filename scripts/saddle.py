"""Runs the paper's toy saddle: saddle.py [--runs=N] [--output=DIR]."""

import sys

if __name__ == "__main__":
    try:
        from tf_ttur.theory.cli import saddle

        status = saddle()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
