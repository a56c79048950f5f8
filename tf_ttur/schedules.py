"""Step sizes a(n), b(n) that fall as powers of n, and Theorem 1's demands on them."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import keras

from fid.files import InputError
from fid.values import Between, checked

__all__ = ["PowerLaw", "a2_violations", "power_laws"]


@keras.saving.register_keras_serializable("tf_ttur")
class PowerLaw(keras.optimizers.schedules.LearningRateSchedule):
    """The step size scale * n^-exponent, with n = 1 at an optimizer's first update.

    Args:
        scale: The first step size, a0 or b0 in the paper's appendix A2.2.2; > 0.
        exponent: alpha or beta there; 0 gives a constant step size.

    Raises:
        InputError: An argument is out of its range.

    Example:
        >>> schedule = PowerLaw(0.1, exponent=0.5)
        >>> [round(float(schedule(step)), 6) for step in (0, 3, 99)]
        [0.1, 0.05, 0.01]
    """

    def __init__(self, scale: float, exponent: float):
        super().__init__()
        found = checked(
            {
                "scale": Annotated[float, Between(above=0)],
                "exponent": Annotated[float, Between(0)],
            },
            scale=scale,
            exponent=exponent,
        )
        self.scale, self.exponent = float(found["scale"]), float(found["exponent"])

    def __call__(self, step: Any) -> Any:
        """Returns the step size of an update.

        Args:
            step: Updates made so far, an integer or a tensor of them.

        Returns:
            Float32, of the shape of `step`.
        """
        n = keras.ops.cast(step, "float32") + 1.0
        return self.scale * n ** (-self.exponent)

    def get_config(self) -> dict[str, float]:
        """Returns the constructor's arguments, for Keras serialisation."""
        return {"scale": self.scale, "exponent": self.exponent}


def a2_violations(alpha: float, beta: float) -> list[str]:
    """Names the conditions of the paper's assumption A2 that two power laws break.

    A2 asks of the slow (generator's) step sizes a(n) = a0 n^-alpha and the fast
    (discriminator's) b(n) = b0 n^-beta that both sums diverge, both sums of squares
    converge, and a(n) = o(b(n)). For power laws that is 1/2 < beta < alpha <= 1.

    Args:
        alpha: The slow exponent.
        beta: The fast exponent.

    Returns:
        A line for each broken condition; none where A2 holds.

    Example:
        >>> a2_violations(alpha=0.9, beta=0.6)
        []
        >>> a2_violations(alpha=0.6, beta=0.6)
        ['a(n) = o(b(n)) needs alpha > beta; got alpha = 0.6, beta = 0.6']
    """
    broken = []
    for letter, name, value in (("a", "alpha", alpha), ("b", "beta", beta)):
        # Negated, so that NaN breaks them, too.
        if not value <= 1:
            broken.append(
                f"sum {letter}(n) = infinity needs {name} <= 1; got {name} = {value}"
            )
        if not value > 0.5:
            broken.append(
                f"sum {letter}(n)^2 < infinity needs {name} > 1/2; got {name} = {value}"
            )
    if not alpha > beta:
        broken.append(
            f"a(n) = o(b(n)) needs alpha > beta; got alpha = {alpha}, beta = {beta}"
        )
    return broken


def power_laws(
    *, a0: float, alpha: float, b0: float, beta: float, strict: bool = True
) -> dict[str, PowerLaw]:
    """Makes the step sizes of both players and checks them against assumption A2.

    Args:
        a0: The generator's first step size.
        alpha: Its exponent.
        b0: The discriminator's first step size.
        beta: Its exponent, the smaller one.
        strict: Whether a broken condition is an error; else it is a warning. The
            paper's own experiments, with constant rates (both exponents 0), break A2.

    Returns:
        `{"discriminator": b, "generator": a}`, ready to be unpacked into `ttur`.

    Raises:
        InputError: A2 does not hold, and `strict`; or a scale is not positive.

    Example:
        >>> import tf_ttur
        >>> laws = power_laws(a0=1e-3, alpha=0.9, b0=1e-3, beta=0.6)
        >>> sorted(tf_ttur.ttur(**laws))
        ['discriminator_optimizer', 'generator_optimizer']
    """
    laws = {"discriminator": PowerLaw(b0, beta), "generator": PowerLaw(a0, alpha)}
    if broken := a2_violations(alpha, beta):
        message = (
            "The step sizes break assumption A2 of Theorem 1: "
            f"{'; '.join(broken)}. Choose 1/2 < beta < alpha <= 1."
        )
        if strict:
            raise InputError(message)
        warnings.warn(message, stacklevel=2)
    return laws
