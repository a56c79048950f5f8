"""What the Fréchet distance sees: disturbance_study.py [IMAGES] --output=DIR."""

import sys

if __name__ == "__main__":
    try:
        from tf_ttur.studies.disturbance_cli import disturbance_study

        status = disturbance_study()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
