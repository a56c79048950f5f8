"""Reproduces a row of the paper's results: reproduce.py --preset=celeba_dcgan."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.cli:reproduce")
