"""Schedules of learning rates by name, and Theorem 1's demands on power laws."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import keras

from fid.files import InputError
from fid.values import Between, Count, checked

__all__ = [
    "SCHEDULES",
    "PerStep",
    "PowerLaw",
    "Warmup",
    "a2_violations",
    "get",
    "power_laws",
]


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


@keras.saving.register_keras_serializable("tf_ttur")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises evenly at first, and then follows a schedule from its start.

    Args:
        after: The schedule; its first rate is what is risen to.
        steps: Updates on the way: they have 1 / steps, 2 / steps, ... of that rate, and
            the last one has all of it; a whole number >= 1.

    Raises:
        InputError: `steps` is less than 1, or no whole number.

    Example:
        >>> schedule = Warmup(PowerLaw(0.5, exponent=1.0), steps=2)
        >>> [float(schedule(step)) for step in range(4)]
        [0.25, 0.5, 0.5, 0.25]
    """

    def __init__(
        self, after: keras.optimizers.schedules.LearningRateSchedule, steps: int
    ):
        super().__init__()
        self.after = after
        self.steps = checked({"steps": Count}, steps=steps)["steps"]

    def __call__(self, step: Any) -> Any:
        """Returns the rate of an update.

        Args:
            step: Updates made so far, an integer or a tensor of them.

        Returns:
            Float32, of the shape of `step`.
        """
        step = keras.ops.convert_to_tensor(step)
        risen = keras.ops.cast(step + 1, "float32") / self.steps
        later = self.after(keras.ops.maximum(step - self.steps, 0))
        return later * keras.ops.minimum(risen, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for Keras serialisation."""
        after = keras.saving.serialize_keras_object(self.after)
        return {"after": after, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Warmup:
        """Makes the schedule again from `get_config`'s answer.

        Args:
            config: What `get_config` returned.
        """
        after = keras.saving.deserialize_keras_object(config["after"])
        return cls(after, config["steps"])


@keras.saving.register_keras_serializable("tf_ttur")
class PerStep(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of steps, for an optimizer that makes several updates in each.

    So a discriminator that is updated k times in a step has the rate of that step each
    time, and follows the schedule as fast as the generator.

    Args:
        schedule: The schedule, of steps.
        updates: Updates in a step; >= 1.
        turn: A step from which on there are `then` updates in each; None for none.
        then: How many.

    Raises:
        InputError: A number is out of its range, or only one of `turn` and `then` is
            given.

    Example:
        >>> schedule = PerStep(PowerLaw(0.5, exponent=1.0), updates=2)
        >>> [float(schedule(update)) for update in range(4)]
        [0.5, 0.5, 0.25, 0.25]
        >>> schedule = PerStep(PowerLaw(1.0, exponent=1.0), updates=1, turn=1, then=3)
        >>> [float(schedule(update)) for update in range(5)]
        [1.0, 0.5, 0.5, 0.5, 0.3333333432674408]
    """

    def __init__(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        updates: int,
        turn: int | None = None,
        then: int | None = None,
    ):
        super().__init__()
        self.schedule = schedule
        if (turn is None) != (then is None):
            raise InputError(
                f"turn is {turn} and then is {then}; give both of them, or neither."
            )
        kinds = {"updates": Count, "turn": Count | None, "then": Count | None}
        self.updates, self.turn, self.then = checked(
            kinds, updates=updates, turn=turn, then=then
        ).values()

    def __call__(self, step: Any) -> Any:
        """Returns the rate of an update.

        Args:
            step: Updates made so far, an integer or a tensor of them.

        Returns:
            Float32, of the shape of `step`.
        """
        found = keras.ops.floor_divide(step, self.updates)
        if self.turn is not None:
            after = step - self.turn * self.updates
            later = self.turn + keras.ops.floor_divide(after, self.then)
            found = keras.ops.where(after < 0, found, later)
        return self.schedule(found)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for Keras serialisation."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        config = {"schedule": schedule, "updates": self.updates}
        if self.turn is not None:
            config |= {"turn": self.turn, "then": self.then}
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PerStep:
        """Makes the schedule again from `get_config`'s answer.

        Args:
            config: What `get_config` returned.
        """
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**config | {"schedule": schedule})


def _exponential(
    rate: float, steps: int, factor: float, staircase: bool = False
) -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.ExponentialDecay(rate, steps, factor, staircase)


def _halve(rate: float, steps: int) -> Any:
    return _exponential(rate, steps, 0.5, staircase=True)


def _linear(rate: float, steps: int) -> Any:
    return keras.optimizers.schedules.PolynomialDecay(rate, steps, 0.0)


SCHEDULES: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "constant": (lambda rate: rate, ()),
    "halve": (_halve, ("N",)),
    "cosine": (keras.optimizers.schedules.CosineDecay, ("N",)),
    "linear": (_linear, ("N",)),
    "exponential": (_exponential, ("N", "RATE")),
    "power": (PowerLaw, ("EXPONENT",)),
}
"""Schedules by name: what makes each of the first rate and of the numbers that follow
the name. N is a number of steps."""

# What each number may be, and its type.
_NUMBERS = {
    "N": (int, lambda x: x >= 1),
    "RATE": (float, lambda x: 0 < x < math.inf),
    "EXPONENT": (float, lambda x: 0 <= x < math.inf),
}
_FORMS = ", ".join(
    ":".join((name, *numbers)) for name, (_, numbers) in SCHEDULES.items()
)


def get(
    text: str, rate: float, updates: int = 1, turn: tuple[int, int] | None = None
) -> Any:
    """Makes a schedule of a learning rate from its name.

    Args:
        text: One of

            - `constant`;
            - `halve:N`: half the rate after every N steps;
            - `cosine:N`: along half a cosine to 0 in N steps, and 0 after;
            - `linear:N`: along a line to 0 in N steps, and 0 after;
            - `exponential:N:RATE`: evenly multiplied by RATE in every N steps;
            - `power:EXPONENT`: times n^-EXPONENT at step n = 1, 2, ...; see `PowerLaw`;
            - `warmup:N+` and one of these, such as `warmup:100+cosine:5000`: it rises
              evenly over N steps first; see `Warmup`.
        rate: The rate at the start, or after the warmup; > 0.
        updates: Updates of the optimizer in a step; see `PerStep`.
        turn: A step from which on there are others, and how many.

    Returns:
        The rate itself where it is constant, else a schedule.

    Raises:
        InputError: It is none of these.

    Example:
        >>> schedule = get("warmup:2+halve:3", 0.5)
        >>> [float(schedule(step)) for step in range(6)]
        [0.25, 0.5, 0.5, 0.5, 0.5, 0.25]
    """
    rising, rest = (), text
    if text.startswith("warmup:"):
        warmup, _, rest = text.partition("+")
        rising = _numbers(warmup.split(":")[1:], ("N",))
    name, *numbers = rest.split(":")
    make, wanted = SCHEDULES.get(name, (None, ()))
    found = _numbers(numbers, wanted)
    if make is None or found is None or rising is None:
        raise InputError(
            f"schedule is {text!r}; choose from {_FORMS}, with warmup:N+ before it or "
            "not. N is a number of steps, RATE is positive, EXPONENT at least 0."
        )
    made = make(rate, *found)
    if rising:
        if not isinstance(made, keras.optimizers.schedules.LearningRateSchedule):
            made = PowerLaw(made, 0)
        made = Warmup(made, *rising)
    if made is not rate and (updates > 1 or turn):
        made = PerStep(made, updates, *(turn or ()))
    return made


def _numbers(texts: list[str], wanted: tuple[str, ...]) -> tuple[Any, ...] | None:
    """Reads numbers; None where they are not those that are wanted."""
    if len(texts) != len(wanted):
        return None
    found = []
    for text, name in zip(texts, wanted, strict=True):
        kind, allowed = _NUMBERS[name]
        with contextlib.suppress(ValueError):
            if allowed(value := kind(text)):
                found.append(value)
    return tuple(found) if len(found) == len(wanted) else None
