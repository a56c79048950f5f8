"""Trains a grid of learning rates and seeds: sweep.py --workdir=DIR [flags]."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.studies.sweep_cli:sweep")
