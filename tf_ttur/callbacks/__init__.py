"""Keras callbacks: a measurement in the loop, and what a run leaves behind.

`FrechetDistance`, `Scores` and `NaNGuard` serve any `fit` of a `GAN`, `NgramJSD` that
of a `TextGAN`. The others write the run folder of `experiment.py`. Where several are
used, they go in this order: guard, measurement, scores, samples, log of metrics,
TensorBoard, checkpoints, progress. So a row of metrics holds the distance, and a
checkpoint stands for all rows up to its step.
"""

from tf_ttur.callbacks.checkpoints import Checkpoints
from tf_ttur.callbacks.for_optimizer import ForOptimizer
from tf_ttur.callbacks.measurement import FrechetDistance, Measurement
from tf_ttur.callbacks.ngram_jsd import NgramJSD
from tf_ttur.callbacks.run_folder import MetricsLog, Progress, TensorBoardLog
from tf_ttur.callbacks.samples import SampleGrid, Samples, TextSamples
from tf_ttur.callbacks.scores import Scores
from tf_ttur.callbacks.steps import Diverged, NaNGuard, StepCallback

__all__ = [
    "Checkpoints",
    "Diverged",
    "ForOptimizer",
    "FrechetDistance",
    "Measurement",
    "MetricsLog",
    "NaNGuard",
    "NgramJSD",
    "Progress",
    "SampleGrid",
    "Samples",
    "Scores",
    "StepCallback",
    "TensorBoardLog",
    "TextSamples",
]
