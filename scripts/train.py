"""Trains a GAN with two time scales: train.py [--preset=NAME] [--workdir=DIR]."""

import sys

from tf_ttur.cli import train

if __name__ == "__main__":
    sys.exit(train())
