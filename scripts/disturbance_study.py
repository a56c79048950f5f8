"""What the Fréchet distance sees: disturbance_study.py [IMAGES] --output=DIR."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.studies.disturbance_cli:disturbance_study")
