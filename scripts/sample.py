"""Samples from the generator of a run: sample.py WORKDIR [--output=PATH] [flags]."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.sample_cli:sample")
