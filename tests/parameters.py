"""Numbers of parameters, to compare with those that papers' code has."""

import numpy as np


def count_trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)
