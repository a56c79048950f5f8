"""What is said of generated digits: an oracle to learn from, and others to watch.

A student that is trained for a reward may come to please it and nothing else. So there
is one score to learn from, `digits_oracle`, and two measures that nothing learns from:
`digits_judge`, another kind of classifier, and `diversity`, which falls when all images
become one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fid.extractors.extractor import weights_sha256
from fid.files import InputError
from tf_ttur import datasets
from tf_ttur.distillation.pairs import ScoreOracle

__all__ = ["digits_judge", "digits_oracle", "diversity", "sharpness"]

# What the oracle multiplies the sharpness by.
_SHARPNESS = 0.5
# The logarithm of an image of one colour would be infinite.
_LEAST_SHARPNESS = 1e-3
# Of the formula. Whoever changes it raises it.
_VERSION = 1


def digits_oracle(shape: Sequence[int]) -> ScoreOracle:
    """Returns the oracle of digits: how surely an image is its class, and how sharp.

    The score is log p + 0.5 q. Here p is the probability of the class that was asked
    for by the digits classifier (`networks.classifier`). And q is the logarithm of the
    image's sharpness over the mean sharpness of the real digits of this size; see
    `sharpness`. The quotient counts as 0.001 where it is less.

    Args:
        shape: (H, W, 1) of an image, with H = W >= 8.

    Returns:
        The oracle. Its function takes arrays or tensors, images float32 (n, H, W, 1) in
        [-1, 1] and labels int32 (n,) in 0..9, and returns a tensor, float32 (n,); it is
        differentiable in the images.

    Raises:
        InputError: Images have another shape, or the classifier in the cache is
            damaged. The function raises it where there are no labels.
    """
    from tf_ttur.networks.classifier import digits_classifier

    real, labels = _real(tuple(shape))
    network = digits_classifier(real, labels).network
    usual = float(np.mean(sharpness(_scaled(real))))

    def score(images: Any, labels: Any = None) -> tf.Tensor:
        if labels is None:
            raise InputError(
                "The digits oracle asks whether an image is of the class that was "
                "wanted, and there are no labels. Set num_classes=10, or take another "
                "oracle."
            )
        images = tf.cast(tf.convert_to_tensor(images), tf.float32)
        logits = tf.cast(network(images, training=False), tf.float32)
        labels = tf.cast(tf.convert_to_tensor(labels), tf.int32)
        log_p = tf.gather(tf.nn.log_softmax(logits), labels, batch_dims=1)
        quotient = tf.maximum(sharpness(images) / usual, _LEAST_SHARPNESS)
        return log_p + _SHARPNESS * tf.math.log(quotient)

    weights = weights_sha256(network)
    return ScoreOracle(score, "digits", f"digits v{_VERSION} {weights}")


def sharpness(images: Any) -> tf.Tensor:
    """Returns the mean absolute difference of neighbouring pixels.

    The mean is over all pairs of pixels that are neighbours in a row or in a column,
    and over channels.

    Args:
        images: Float32 (n, H, W, C).

    Returns:
        Float32 (n,).

    Example:
        >>> from tf_ttur.distillation.oracles import sharpness
        >>> sharpness([[[[0.0], [1.0]], [[0.0], [1.0]]]]).numpy().tolist()
        [0.5]
    """
    images = tf.cast(tf.convert_to_tensor(images), tf.float32)
    down = tf.abs(images[:, 1:] - images[:, :-1])
    across = tf.abs(images[:, :, 1:] - images[:, :, :-1])
    size = tf.shape(images)[0]
    both = [tf.reshape(x, (size, np.prod(x.shape[1:]))) for x in (down, across)]
    return tf.reduce_mean(tf.concat(both, 1), axis=1)


def digits_judge(shape: Sequence[int]) -> Callable[..., np.ndarray]:
    """Returns a metric of digits that nothing learns from: who reads them as asked?

    It is a support vector machine with a radial kernel, scikit-learn's `SVC()`, which
    learnt from the pixels of all real digits of this size. So it has neither layers
    nor weights in common with the classifier of `digits_oracle`.

    Args:
        shape: (H, W, 1) of an image.

    Returns:
        A function of images float32 (n, H, W, 1) in [-1, 1] and the labels that they
        were made with, whole numbers (n,): float64 (n,), 1 where it reads that label,
        and 0 elsewhere.

    Raises:
        InputError: Images have another shape.
    """
    machine = _machine(tuple(shape))

    def judge(images: Any, labels: Any = None) -> np.ndarray:
        if labels is None:
            raise InputError(
                "The judge of digits compares what it reads with the labels that "
                "images were made with, and there are none. Set num_classes=10."
            )
        images = np.asarray(images)
        read = machine.predict(images.reshape(len(images), -1))
        return (read == np.asarray(labels)).astype(np.float64)

    return judge


def diversity(images: Any, labels: Any = None) -> float:
    """Returns how far apart images of one class are, in pixels.

    For a class it is the root of the mean, over all pairs of its images and over
    pixels, of the squared difference. That is the root of twice the pixels' mean
    variance. The result is its mean over the classes that have two images or more.

    Args:
        images: (n, H, W, C).
        labels: The labels that they were made with, whole numbers (n,); None takes all
            for one class.

    Returns:
        A number, 0 where all images of a class are one.

    Raises:
        InputError: No class has two images.

    Example:
        >>> import numpy as np
        >>> from tf_ttur.distillation.oracles import diversity
        >>> images = np.array([0.0, 1.0, 5.0, 5.0]).reshape(4, 1, 1, 1)
        >>> diversity(images, [0, 0, 1, 1])
        0.5
    """
    rows = np.asarray(images, np.float64).reshape(len(images), -1)
    labels = np.zeros(len(rows)) if labels is None else np.asarray(labels)
    each = [rows[labels == label] for label in np.unique(labels)]
    found = [np.sqrt(2 * x.var(axis=0, ddof=1).mean()) for x in each if len(x) > 1]
    if not found:
        raise InputError(
            f"Diversity is of two images of one class or more, and of {len(rows)} "
            "images no two have one. Generate more."
        )
    return float(np.mean(found))


@functools.cache
def _real(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the real digits of a size, uint8 (n, H, W, 1), and their labels."""
    from sklearn.datasets import load_digits

    if len(shape) != 3 or shape[0] != shape[1] or shape[2] != 1:
        raise InputError(
            f"Digits are square and have one channel, and the images are {shape}. Take "
            "another oracle or metric for them."
        )
    images = datasets.load("digits", image_size=shape[0]).images()
    return np.concatenate([*images]), load_digits().target


@functools.cache
def _machine(shape: tuple[int, ...]) -> Any:
    from sklearn.svm import SVC

    real, labels = _real(shape)
    return SVC().fit(_scaled(real).reshape(len(real), -1), labels)


def _scaled(images: np.ndarray) -> np.ndarray:
    return images / np.float32(127.5) - 1
