"""Random numbers that are a function of a key and a counter, for many keys at once.

TensorFlow's stateless random functions take one seed a call. Runs that are computed
side by side in one program have a seed each, and one run's numbers must not depend on
its neighbours. Threefry-2x32 with 20 rounds (Salmon et al., Parallel random numbers: as
easy as 1, 2, 3, SC 2011) makes two words of 32 bits from a key of two words and a
counter of two words; keys and counters are arrays here.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

__all__ = ["below", "normals", "threefry"]

_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_GROUPS_OF_FOUR_ROUNDS = 5


def threefry(
    key: tuple[tf.Tensor, tf.Tensor], counter: tuple[tf.Tensor, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns two random words for each key and counter.

    Args:
        key: Two uint32 tensors.
        counter: Two uint32 tensors; all four broadcast against each other.

    Returns:
        Two uint32 tensors of the common shape.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.theory import counter_random
        >>> zero = tf.zeros([], tf.uint32)
        >>> one, two = counter_random.threefry((zero, zero), (zero, zero))
        >>> hex(int(one)), hex(int(two))
        ('0x6b200159', '0x99ba4efe')
    """
    keys = [*key, key[0] ^ key[1] ^ tf.constant(_PARITY, tf.uint32)]
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(_GROUPS_OF_FOUR_ROUNDS):
        for count in _ROTATIONS[group % 2]:
            x = x + y
            y = _rotated(y, count) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + tf.constant(group + 1, tf.uint32)
    return x, y


def _rotated(words: tf.Tensor, count: int) -> tf.Tensor:
    left = tf.bitwise.left_shift(words, tf.constant(count, tf.uint32))
    return left | tf.bitwise.right_shift(words, tf.constant(32 - count, tf.uint32))


def normals(words: tf.Tensor) -> tf.Tensor:
    """Makes standard normal numbers of random words, one of each.

    Args:
        words: Uint32, of any shape.

    Returns:
        Float32, of the same shape, symmetric about 0; none is beyond 5.4, since a word
        gives 23 bits.
    """
    bits = tf.bitwise.right_shift(words, tf.constant(9, tf.uint32))
    # The middle of each of 2^23 equal parts of (-1, 1), all of them float32 numbers.
    centred = tf.cast(bits, tf.float32) * 2.0**-22 - (1 - 2.0**-23)
    return tf.math.erfinv(centred) * np.float32(math.sqrt(2))


def below(words: tf.Tensor, count: int) -> tf.Tensor:
    """Makes whole numbers in [0, count) of random words, one of each.

    Args:
        words: Uint32, of any shape.
        count: At most 2^24. Where it is not a power of two, some numbers are more
            frequent than others, by at most count / 2^24 of their frequency.

    Returns:
        Int32, of the same shape.
    """
    bits = tf.bitwise.right_shift(words, tf.constant(8, tf.uint32))
    # The product may round up to `count` itself.
    product = tf.cast(tf.cast(bits, tf.float32) * (count * 2.0**-24), tf.int32)
    return tf.minimum(product, count - 1)
