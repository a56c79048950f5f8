"""Runs the paper's toy saddle: saddle.py [--runs=N] [--output=DIR]."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.theory.cli:saddle")
