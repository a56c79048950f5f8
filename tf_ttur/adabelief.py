"""AdaBelief, an optimizer that Keras does not have."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

__all__ = ["AdaBelief"]

# Of fewer samples the variance of the step sizes has no closed form. Liu et al. ask for
# more than 4; their program, and AdaBelief's, for at least 5.
_LEAST_SAMPLES = 5


@keras.saving.register_keras_serializable("tf_ttur")
class AdaBelief(keras.optimizers.Optimizer):
    """Adam that divides by how far gradients are from what was expected of them.

    Adam divides by the root of the mean square of the gradient g. AdaBelief divides by
    the root of the mean square of g - m, where m is the moving average of g: it makes
    long steps where gradients are as predicted, and short ones where they are not
    (Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed
    Gradients", NeurIPS 2020, algorithm 2). At update t = 1, 2, ...

        m <- beta_1 m + (1 - beta_1) g
        s <- beta_2 s + (1 - beta_2) (g - m)^2 + epsilon

    and the step is, without rectification,

        rate m / (1 - beta_1^t) / (sqrt(s / (1 - beta_2^t)) + epsilon).

    With it (Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond",
    ICLR 2020, algorithm 2) s is that of n = n_max - 2 t beta_2^t / (1 - beta_2^t)
    samples, where n_max = 2 / (1 - beta_2) - 1. The step is multiplied by

        sqrt((n - 4) (n - 2) n_max / ((n_max - 4) (n_max - 2) n)),

    and while n < 5 nothing is divided by: the step is rate m / (1 - beta_1^t).

    All of this, with its defaults, is as in adabelief-pytorch 0.2.0: epsilon is added
    to s at each update, and so stays in it, and once more to the root, which in the
    rectified step has not been divided by sqrt(1 - beta_2^t) yet. There is one
    difference: there `amsgrad` does nothing to the rectified step.

    Args:
        learning_rate: The rate: a number > 0 or a
            `keras.optimizers.schedules.LearningRateSchedule`.
        beta_1: Decay of m, in (0, 1). With 0, m would be g, and the step would divide
            by epsilon alone.
        beta_2: Decay of s, in [0, 1). With 2/3 or less no step is ever rectified.
        epsilon: What is added to s and to its root, >= 0.
        rectify: Whether the first steps are rectified.
        amsgrad: Whether the largest s so far takes the place of s.
        **kwargs: As for `keras.optimizers.Optimizer`. Its `weight_decay` is decoupled,
            as AdaBelief's is: each weight w is first diminished by rate weight_decay w.

    Raises:
        ValueError: A beta or epsilon is out of its range.

    Example:
        >>> import keras, tensorflow as tf
        >>> weight = keras.Variable([1.0])
        >>> optimizer = AdaBelief(0.1, rectify=False)
        >>> optimizer.apply([tf.constant([2.0])], [weight])

    The first step is the rate divided by beta_1, which is 0.9:

        >>> round(1.0 - float(weight.numpy()[0]), 4)
        0.1111
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-16,
        rectify: bool = True,
        amsgrad: bool = False,
        name: str = "adabelief",
        **kwargs: Any,
    ):
        if not 0 < beta_1 < 1:
            raise ValueError(
                f"AdaBelief's beta_1 is {beta_1}; it must be in (0, 1), such as 0.5. "
                "With 0 its steps would be divided by epsilon alone."
            )
        if not 0 <= beta_2 < 1:
            raise ValueError(f"AdaBelief's beta_2 is {beta_2}; it must be in [0, 1).")
        if not 0 <= epsilon < float("inf"):
            raise ValueError(
                f"AdaBelief's epsilon is {epsilon}; it must be finite and at least 0."
            )
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.rectify, self.amsgrad = rectify, amsgrad

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes m and s of every variable, and the largest s where it counts.

        Args:
            variables: What is going to be trained.
        """
        if self.built:
            return
        super().build(variables)
        self._means, self._variances = self.add_optimizer_variables(
            variables, ["mean", "variance"]
        )
        if self.amsgrad:
            self._largest = self.add_optimizer_variables(variables, "largest_variance")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Makes one step of one variable.

        Args:
            gradient: Its gradient, of its shape.
            variable: The variable.
            learning_rate: The rate, a scalar.
        """
        dtype = variable.dtype
        gradient = tf.cast(tf.convert_to_tensor(gradient), dtype)
        index = self._get_variable_index(variable)
        mean, variance = self._means[index], self._variances[index]
        self.assign_add(mean, (gradient - mean) * (1 - self.beta_1))
        surprise = tf.square(gradient - mean)
        self.assign(
            variance,
            self.beta_2 * variance + (1 - self.beta_2) * surprise + self.epsilon,
        )
        if self.amsgrad:
            largest = self._largest[index]
            self.assign(largest, tf.maximum(largest, variance))
            variance = largest
        factor, correction, adaptive = self._corrections()
        root = tf.sqrt(tf.convert_to_tensor(variance)) * tf.cast(correction, dtype)
        divisor = tf.where(adaptive, root + self.epsilon, tf.ones_like(root))
        rate = tf.cast(learning_rate, dtype) * tf.cast(factor, dtype)
        self.assign_sub(variable, rate * mean / divisor)

    def _corrections(self) -> tuple[Any, Any, Any]:
        """Returns what the step and the root are multiplied by at this update.

        In float64, since 1 - beta_2^t, which is small at first, decides on n.

        Returns:
            The factors, and whether the step is divided by the root at all.
        """
        t = tf.cast(self.iterations + 1, tf.float64)
        power = tf.constant(self.beta_2, tf.float64) ** t
        first = 1.0 / (1.0 - tf.constant(self.beta_1, tf.float64) ** t)
        one = tf.ones((), tf.float64)
        if not self.rectify:
            return first, 1.0 / tf.sqrt(1.0 - power), True
        most = 2.0 / (1.0 - self.beta_2) - 1.0
        if most <= _LEAST_SAMPLES:
            return first, one, False
        samples = most - 2.0 * t * power / (1.0 - power)
        adaptive = samples >= _LEAST_SAMPLES
        # The root of a negative number would be none, even where it is not used.
        n = tf.maximum(samples, float(_LEAST_SAMPLES))
        share = (n - 4.0) * (n - 2.0) * most / ((most - 4.0) * (most - 2.0) * n)
        rectified = first * tf.sqrt(share * (1.0 - power))
        return tf.where(adaptive, rectified, first), one, adaptive

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for Keras serialisation."""
        return super().get_config() | {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "rectify": self.rectify,
            "amsgrad": self.amsgrad,
        }
