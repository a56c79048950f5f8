"""One and two time scales on games that are known: two_time_scales.py."""

import sys

if __name__ == "__main__":
    try:
        from tf_ttur.theory.cli import two_time_scales

        status = two_time_scales()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
