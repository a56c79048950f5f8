"""Trains a GAN with two time scales: train.py [--preset=NAME] [--workdir=DIR]."""

import sys

if __name__ == "__main__":
    try:
        from tf_ttur.cli import train

        status = train()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
