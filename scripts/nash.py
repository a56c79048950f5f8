"""How far a run is from a local Nash equilibrium: nash.py WORKDIR."""

import sys

if __name__ == "__main__":
    try:
        from tf_ttur.theory.cli import nash

        status = nash()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
