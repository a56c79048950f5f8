"""Adam beside the heavy ball with friction: heavy_ball.py [--output=DIR]."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.theory.cli:heavy_ball")
