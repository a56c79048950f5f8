"""Kills a training run at random moments and compares it with an undisturbed one."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.studies.kill_drill:kill_drill")
