"""Kills a training run again and again, and looks whether it ends as if undisturbed."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.studies.kill_drill:kill_drill")
