"""Measures a run of diffusion in fewer and more steps: sampling_steps.py WORKDIR."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.studies.sampling_steps_cli:sampling_steps")
