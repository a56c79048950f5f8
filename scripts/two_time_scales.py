"""One and two time scales on games that are known: two_time_scales.py."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.theory.cli:two_time_scales")
