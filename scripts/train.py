"""Trains a GAN with two time scales: train.py [--preset=NAME] [--workdir=DIR]."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.cli:train")
