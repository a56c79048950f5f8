"""How far a run is from a local Nash equilibrium: nash.py WORKDIR."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.theory.cli:nash")
