"""Samples from the generator of a run: sample.py WORKDIR [--output=PATH] [flags]."""

import sys

if __name__ == "__main__":
    try:
        from tf_ttur.sample_cli import sample

        status = sample()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
