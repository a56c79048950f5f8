"""Adam beside the heavy ball with friction: heavy_ball.py [--output=DIR]."""

import sys

if __name__ == "__main__":
    try:
        from tf_ttur.theory.cli import heavy_ball

        status = heavy_ball()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
