"""Kills a training run again and again, and looks whether it ends as if undisturbed."""

import sys

if __name__ == "__main__":
    try:
        from tf_ttur.studies.kill_drill import kill_drill

        status = kill_drill()
    except KeyboardInterrupt:  # while the modules are imported
        status = 130
    sys.exit(status)
