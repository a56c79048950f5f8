"""Fréchet Inception Distance between two sets of images: compute_fid.py A B."""

from launching import launch

if __name__ == "__main__":
    launch("fid.cli:compute_fid")
