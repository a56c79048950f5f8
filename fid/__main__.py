"""`python -m fid A B`: the same as compute_fid.py."""

import sys

if __name__ == "__main__":
    sys.argv[0] = "python -m fid"
    try:
        from fid.cli import compute_fid

        status = compute_fid()
    except KeyboardInterrupt:
        # It may come while the modules are imported, before `run` can take it.
        status = 130
    sys.exit(status)
