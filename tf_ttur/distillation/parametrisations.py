"""Parametrisations: how images are noised, and what a network says of a noisy one.

A noisy image is x_t = a x_0 + s e, of an image x_0 and standard normal noise e. Three
families choose a and s, and what the network is trained to say (VP has two kinds):

| name | a, s | network's output | its time, clean..noisiest |
|---|---|---|---|
| `vp-eps` | a^2 = alphabar, a^2 + s^2 = 1 | e | -1..999, DDPM's index |
| `vp-v` | the same | v = a e - s x_0 | the same |
| `edm` | 1, sigma | F, with x_0 = c_skip x_t + c_out F | sigma, 0..80 |
| `flow` | 1 - t, t | e - x_0 | t, 0..1 |

Behind one interface they are alike: whatever the network says becomes an estimate of
x_0 by `clean`. A loss or a sampler that works with estimates of x_0, and with a and s,
is right for all of them.

All functions are of tensors, compile under XLA, and stop no gradient. They compute in
float32, whatever the type of what they are given. Images have the shape (n, ...), and
each has its own time, so times have the shape (n,). Times are *native*: in the family's
own unit. The 1000 indices 0..999 (999 is the noisiest) are a unit that all families
have in common; `times` makes native times of them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb
from typing import Annotated, Any

import keras
import numpy as np
import tensorflow as tf

from fid.files import InputError
from fid.values import Between, Count, checked

__all__ = ["EDM", "PARAMETRISATIONS", "VP", "Flow", "Parametrisation", "get"]

# Samplers and times are asked for in functions that are traced. Checking arguments is
# Python's alone, and AutoGraph cannot read all of it.
_checked = tf.autograph.experimental.do_not_convert(checked)

# The number of indices of the scale that all families have in common.
_STEPS = 1000


class Parametrisation:
    """What all parametrisations have in common; the families are its subclasses.

    Attributes:
        name: What `get` makes an equal object of, such as `"flow:3"`.
        prior_scale: The standard deviation of the noise that a sampler starts from.
        clean_time: The native time at which a is 1 and s is 0.
    """

    name: str
    prior_scale: float = 1.0
    clean_time: float = 0.0

    def times(self, indices: Any) -> tf.Tensor:
        """Returns the native times of indices on the scale of 1000 steps.

        Args:
            indices: Numbers in [0, 999], whole or not, of any shape.

        Returns:
            Float32 of the same shape.
        """
        raise NotImplementedError

    def coefficients(self, t: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a and s of x_t = a x_0 + s e.

        Args:
            t: Native times, of any shape.

        Returns:
            Two float32 tensors of the shape of `t`.
        """
        raise NotImplementedError

    def time_at(self, ratio: Any) -> tf.Tensor:
        """Returns the native time at which s / a is a given number.

        Two families that are at the same s / a have images of the same noise, up to a
        factor. So this is how a time of one is said in another.

        Args:
            ratio: Numbers >= 0, of any shape. Infinity is the noisiest time, except for
                EDM, which has none.

        Returns:
            Float32 of the same shape.
        """
        raise NotImplementedError

    def inputs(self, noisy: Any, t: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the network is called with.

        Args:
            noisy: Noisy images (n, ...).
            t: Their native times (n,).

        Returns:
            The images, scaled where the family scales them, float32 (n, ...); and the
            number that tells the network how noisy they are, float32 (n,).
        """
        raise NotImplementedError

    def clean(self, noisy: Any, output: Any, t: Any) -> tf.Tensor:
        """Returns the estimate of x_0 that the network's output stands for.

        Args:
            noisy: Noisy images (n, ...).
            output: The network's output for `inputs(noisy, t)`, (n, ...).
            t: Their native times (n,).

        Returns:
            Float32 (n, ...).
        """
        raise NotImplementedError

    def output(self, noisy: Any, clean: Any, t: Any) -> tf.Tensor:
        """Returns the network's output that stands for an estimate of x_0.

        It is the inverse of `clean`, which has one where s is above 0.

        Args:
            noisy: Noisy images (n, ...).
            clean: Estimates of x_0 (n, ...).
            t: Their native times (n,).

        Returns:
            Float32 (n, ...).
        """
        raise NotImplementedError

    def target(self, clean: Any, noise: Any, t: Any) -> tf.Tensor:
        """Returns the output that the network is trained to give.

        It is `output(corrupt(clean, noise, t), clean, t)`, in a form that nowhere
        divides by s.

        Args:
            clean: Images (n, ...).
            noise: Standard normal noise (n, ...).
            t: Native times (n,).

        Returns:
            Float32 (n, ...).
        """
        raise NotImplementedError

    def weight(self, t: Any) -> tf.Tensor:
        """Returns what the loss multiplies the squared error of the x_0 estimate by.

        `loss` compares outputs, with no weight at all. The same loss is this weight
        times the mean of (clean(noisy, output, t) - clean)^2.

        Args:
            t: Native times at which s is above 0, of any shape.

        Returns:
            Float32 of the shape of `t`.
        """
        raise NotImplementedError

    def draw(self, count: Any, seed: Any) -> tf.Tensor:
        """Draws times as the family is trained with.

        Args:
            count: How many.
            seed: An integer, or a `keras.random.SeedGenerator` to advance.

        Returns:
            Native times, float32 (count,).
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for Keras serialisation."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Parametrisation:
        """Makes the parametrisation again from `get_config`'s answer."""
        return cls(**config)

    def corrupt(self, clean: Any, noise: Any, t: Any) -> tf.Tensor:
        """Returns noisy images, x_t = a x_0 + s e.

        Args:
            clean: Images x_0, (n, ...).
            noise: Standard normal noise e, (n, ...).
            t: Native times (n,).

        Returns:
            Float32 (n, ...).
        """
        clean, noise = _float32(clean), _float32(noise)
        a, s = self._spread(t, clean)
        return a * clean + s * noise

    def loss(self, output: Any, clean: Any, noise: Any, t: Any) -> tf.Tensor:
        """Returns the training loss of each example.

        It is the mean of (output - target)^2 over an example's pixels and channels. For
        EDM this equals (sigma^-2 + sigma_data^-2) times the mean of (D - x_0)^2, since
        that weight is 1 / c_out^2; and it loses no digits where sigma is small.

        Args:
            output: The network's output for `inputs(corrupt(clean, noise, t), t)`,
                (n, ...).
            clean: Images (n, ...).
            noise: The noise that they were corrupted with (n, ...).
            t: Native times (n,).

        Returns:
            Float32 (n,).
        """
        error = _float32(output) - self.target(clean, noise, t)
        return tf.reduce_mean(tf.square(error), axis=tuple(range(1, error.shape.rank)))

    def score(self, noisy: Any, clean: Any, t: Any) -> tf.Tensor:
        """Returns the score that an estimate of x_0 stands for, -(x_t - a x_0) / s^2.

        With the mean of x_0 given x_t for an estimate, it is the gradient of the log
        density of noisy images (Tweedie's formula; Yin et al. 2024, DMD, equation 4).

        Args:
            noisy: Noisy images (n, ...).
            clean: Estimates of x_0 (n, ...).
            t: Native times (n,) at which s is above 0.

        Returns:
            Float32 (n, ...).
        """
        noisy = _float32(noisy)
        a, s = self._spread(t, noisy)
        return (a * _float32(clean) - noisy) / tf.square(s)

    def prior(self, shape: Any, seed: Any) -> tf.Tensor:
        """Draws what a sampler starts from: noise and nothing else.

        Args:
            shape: The shape, (n, ...).
            seed: An integer, or a `keras.random.SeedGenerator` to advance.

        Returns:
            `prior_scale` times standard normal noise, float32.

        Example:
            >>> from tf_ttur import distillation
            >>> noise = distillation.EDM().prior((1000, 10), seed=0)
            >>> round(float(noise.numpy().std()), -1)
            80.0
        """
        noise = keras.random.normal(shape, dtype="float32", seed=seed)
        return self.prior_scale * noise

    def ladder(self, steps: int) -> tf.Tensor:
        """Returns the times at which a sampler with so many steps calls the network.

        They are evenly spread from index 999 on, a step short of the clean images,
        which are behind the last: index 999 - 1000 i / steps.

        Args:
            steps: How many, a whole number >= 1.

        Returns:
            Native times from the noisiest on, float32 (steps,).

        Raises:
            InputError: There cannot be so many steps.
        """
        return self.anchors(steps)

    def anchors(self, steps: int) -> tf.Tensor:
        """Returns the times at which a student with so many steps is called.

        Four steps have the indices 999, 749, 499 and 249 (Yin et al. 2024, DMD2,
        section 4.4); in general they are 999 - 1000 i / steps.

        Args:
            steps: How many, a whole number >= 1.

        Returns:
            Native times from the noisiest on, float32 (steps,).

        Raises:
            InputError: There cannot be so many steps.

        Example:
            >>> from tf_ttur import distillation
            >>> [f"{t:.3g}" for t in distillation.Flow(shift=3).anchors(4).numpy()]
            ['1', '0.9', '0.75', '0.5']
        """
        _checked({"steps": Count}, steps=steps)
        return self.times(_STEPS - 1 - _STEPS * np.arange(steps) / steps)

    def straight(self, t: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns n and tau with which the flow of images is dz/dtau = (z - x_0)/tau.

        Here z = x_t / n, x_0 stands for the estimate at x_t, and tau = s / n. This form
        of the probability-flow equation is right wherever (a + c s) / n is 1 with a
        constant c. Then z = (1 - c tau) x_0 + tau e, so that dz/dtau = e - c x_0, which
        is (z - x_0) / tau. With c = 1, as here, n is a + s, which is 0 at no time;
        flow matching has n = 1 by itself. With c = 0 and n = a it is EDM's equation,
        which has no meaning at flow matching's t = 1, where a is 0.

        Args:
            t: Native times, of any shape.

        Returns:
            n and tau, float32 of the shape of `t`.
        """
        a, s = self.coefficients(t)
        return a + s, s / (a + s)

    def _spread(self, t: Any, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a and s in a shape that multiplies images."""
        a, s = self.coefficients(t)
        return _like(a, images), _like(s, images)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), *self.get_config().values()))

    def __repr__(self) -> str:
        arguments = (f"{name}={x!r}" for name, x in self.get_config().items())
        return f"{type(self).__name__}({', '.join(arguments)})"


@keras.saving.register_keras_serializable("tf_ttur")
class VP(Parametrisation):
    """Variance preserving: DDPM's noise, with a network that says e or v.

    DDPM has beta_k = 1e-4 + (0.02 - 1e-4) k / 999 and alphabar_t, the product of
    1 - beta_k for all k <= t (Ho et al. 2020, section 4). Then a^2 = alphabar and
    s^2 = 1 - alphabar. Between the indices alphabar follows from the same formula: with
    n = t + 1 factors,

        -log alphabar = sum over k < n of (beta_k + beta_k^2 / 2 + beta_k^3 / 3 + ...)

    and the sum over k < n of a polynomial in k is a polynomial in n, which has a value
    for any n. The powers from the seventh on add less than 1e-10, and are left out. So
    times are real numbers, alphabar is DDPM's own where they are whole, and it is 1
    exactly at t = -1, where the images are clean.

    The network is given images as they are, and t itself. `draw` gives whole t, all
    equally likely, as Ho et al. train. For v see Salimans and Ho 2022, appendix D.

    At t = 999, s is 0.99998 and a 0.006. Samplers start from noise alone, as usual.

    Args:
        prediction: `"eps"`, the noise e; or `"v"`.

    Raises:
        InputError: There is no such prediction.

    Example:
        >>> from tf_ttur import distillation
        >>> a, s = distillation.VP("v").coefficients([-1.0, 0.0, 999.0])
        >>> (a**2).numpy().round(5).tolist() == (1 - s**2).numpy().round(5).tolist()
        True
        >>> round(float(1 - a[1] ** 2), 5), float(s[0])
        (0.0001, 0.0)
    """

    clean_time = -1.0

    def __init__(self, prediction: str = "eps"):
        if prediction not in ("eps", "v"):
            raise InputError(
                'prediction must be "eps" or "v", which a network of VP says. '
                f"Received: {prediction!r}."
            )
        self.prediction = prediction
        self.name = f"vp-{prediction}"

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for Keras serialisation."""
        return {"prediction": self.prediction}

    def times(self, indices: Any) -> tf.Tensor:
        """Returns the indices themselves, float32; see `Parametrisation.times`."""
        return _float32(indices)

    def coefficients(self, t: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns sqrt(alphabar) and sqrt(1 - alphabar), float32 as `t`."""
        lost, _ = _lost((_float32(t) + 1.0) / _STEPS)
        return tf.exp(-0.5 * lost), tf.sqrt(-tf.math.expm1(-lost))

    def time_at(self, ratio: Any) -> tf.Tensor:
        """Returns the time at which s / a is `ratio`; see `Parametrisation.time_at`.

        Ratios above that of t = 999, which is 157, give 999.
        """
        # s / a is the root of 1 / alphabar - 1. All coefficients are positive, so the
        # first two alone give too large a time, and Newton's method comes down from
        # there to the right one. It is that to float32's last digits in four steps.
        lost = tf.minimum(tf.math.log1p(tf.square(_float32(ratio))), _WHOLE)
        first, second = _POWERS[:2]
        x = 2 * lost / (first + tf.sqrt(first**2 + 4 * second * lost))
        for _ in range(4):
            value, slope = _lost(x)
            x -= (value - lost) / slope
        return _STEPS * x - 1.0

    def inputs(self, noisy: Any, t: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the images as they are, and t; see `Parametrisation.inputs`."""
        return _float32(noisy), _float32(t)

    def clean(self, noisy: Any, output: Any, t: Any) -> tf.Tensor:
        """Returns (x - s e) / a or a x - s v; see `Parametrisation.clean`."""
        noisy, output = _float32(noisy), _float32(output)
        a, s = self._spread(t, noisy)
        if self.prediction == "v":
            return a * noisy - s * output
        return (noisy - s * output) / a

    def output(self, noisy: Any, clean: Any, t: Any) -> tf.Tensor:
        """Returns (x - a x_0) / s or (a x - x_0) / s; see `Parametrisation.output`."""
        noisy, clean = _float32(noisy), _float32(clean)
        a, s = self._spread(t, noisy)
        if self.prediction == "v":
            return (a * noisy - clean) / s
        return (noisy - a * clean) / s

    def target(self, clean: Any, noise: Any, t: Any) -> tf.Tensor:
        """Returns e or a e - s x_0; see `Parametrisation.target`."""
        clean, noise = _float32(clean), _float32(noise)
        if self.prediction == "eps":
            return noise
        a, s = self._spread(t, clean)
        return a * noise - s * clean

    def weight(self, t: Any) -> tf.Tensor:
        """Returns a^2 / s^2 for e, 1 / s^2 for v; see `Parametrisation.weight`."""
        a, s = self.coefficients(t)
        return tf.square((a if self.prediction == "eps" else 1.0) / s)

    def draw(self, count: Any, seed: Any) -> tf.Tensor:
        """Draws whole times in 0..999; see `Parametrisation.draw`."""
        shape = (count,)
        found = keras.random.randint(shape, 0, _STEPS, dtype="int32", seed=seed)
        return tf.cast(found, tf.float32)


@keras.saving.register_keras_serializable("tf_ttur")
class EDM(Parametrisation):
    """EDM: images with noise added, and a network that is scaled on all sides.

    x_t = x_0 + sigma e, and the time is sigma itself. The network F is called with
    c_in x_t and ln(sigma) / 4, and its output means D = c_skip x_t + c_out F, where

        c_skip = sigma_data^2 / (sigma^2 + sigma_data^2)
        c_out = sigma sigma_data / sqrt(sigma^2 + sigma_data^2)
        c_in = 1 / sqrt(sigma^2 + sigma_data^2)

    (Karras et al. 2022, EDM, table 1). Training draws ln(sigma) from N(-1.2, 1.2^2).
    Index i is on the ladder from sigma = 0.002 to 80, evenly spread in sigma^(1/7)
    (equation 5 with rho = 7 and 1000 steps).

    Args:
        sigma_data: The standard deviation of the images, positive.

    Raises:
        InputError: It is out of its range.

    Example:
        >>> from tf_ttur import distillation
        >>> [f"{sigma:.3g}" for sigma in distillation.EDM().anchors(4).numpy()]
        ['80', '17.5', '2.5', '0.168']
    """

    prior_scale = 80.0

    def __init__(self, sigma_data: float = 0.5):
        found = _checked(
            {"sigma_data": Annotated[float, Between(above=0)]}, sigma_data=sigma_data
        )
        self.sigma_data = float(found["sigma_data"])
        usual = self.sigma_data == 0.5
        self.name = "edm" if usual else f"edm:{_text(self.sigma_data)}"

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for Keras serialisation."""
        return {"sigma_data": self.sigma_data}

    def times(self, indices: Any) -> tf.Tensor:
        """Returns sigma on the ladder; see `Parametrisation.times`."""
        # In this form the noisiest sigma is 80 to the last digit, as the prior's is.
        way = 1 - (0.002 / self.prior_scale) ** (1 / 7)
        left = (_STEPS - 1 - _float32(indices)) / (_STEPS - 1)
        return self.prior_scale * (1.0 - way * left) ** 7

    def coefficients(self, t: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns 1 and sigma, float32 as `t`."""
        t = _float32(t)
        return tf.ones_like(t), t

    def time_at(self, ratio: Any) -> tf.Tensor:
        """Returns the ratio itself, float32; see `Parametrisation.time_at`."""
        return _float32(ratio)

    def inputs(self, noisy: Any, t: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns c_in x_t and ln(sigma) / 4; see `Parametrisation.inputs`."""
        noisy, t = _float32(noisy), _float32(t)
        return noisy / _like(self._norm(t), noisy), tf.math.log(t) / 4.0

    def clean(self, noisy: Any, output: Any, t: Any) -> tf.Tensor:
        """Returns c_skip x_t + c_out F; see `Parametrisation.clean`."""
        noisy = _float32(noisy)
        skip, out = self._skip_and_out(t, noisy)
        return skip * noisy + out * _float32(output)

    def output(self, noisy: Any, clean: Any, t: Any) -> tf.Tensor:
        """Returns (x_0 - c_skip x_t) / c_out; see `Parametrisation.output`."""
        noisy = _float32(noisy)
        skip, out = self._skip_and_out(t, noisy)
        return (_float32(clean) - skip * noisy) / out

    def target(self, clean: Any, noise: Any, t: Any) -> tf.Tensor:
        """Returns what F ought to be; see `Parametrisation.target`.

        It is (x_0 sigma / sigma_data - sigma_data e) / sqrt(sigma^2 + sigma_data^2).
        """
        clean, t = _float32(clean), _float32(t)
        norm = self._norm(t)
        of_clean = _like(t / (self.sigma_data * norm), clean)
        of_noise = _like(self.sigma_data / norm, clean)
        return of_clean * clean - of_noise * _float32(noise)

    def weight(self, t: Any) -> tf.Tensor:
        """Returns sigma^-2 + sigma_data^-2; see `Parametrisation.weight`."""
        return 1.0 / tf.square(_float32(t)) + self.sigma_data**-2

    def draw(self, count: Any, seed: Any) -> tf.Tensor:
        """Draws the exponential of N(-1.2, 1.2^2); see `Parametrisation.draw`."""
        return tf.exp(keras.random.normal((count,), -1.2, 1.2, "float32", seed=seed))

    def ladder(self, steps: int) -> tf.Tensor:
        """Returns sigma evenly spread in sigma^(1/7) from 80 to 0.002.

        It is EDM's own (equation 5): both ends are on it, and the clean images are a
        step behind the last. A single step is at 80. See `Parametrisation.ladder`.
        """
        _checked({"steps": Count}, steps=steps)
        return self.times(np.linspace(_STEPS - 1, 0, steps))

    def straight(self, t: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns 1 and sigma: EDM's equation; see `Parametrisation.straight`."""
        return self.coefficients(t)

    def _norm(self, t: tf.Tensor) -> tf.Tensor:
        return tf.sqrt(tf.square(t) + self.sigma_data**2)

    def _skip_and_out(self, t: Any, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        t = _float32(t)
        norm = self._norm(t)
        skip = tf.square(self.sigma_data / norm)
        return _like(skip, images), _like(self.sigma_data * t / norm, images)


@keras.saving.register_keras_serializable("tf_ttur")
class Flow(Parametrisation):
    """Flow matching: straight lines between images and noise (rectified flow).

    x_t = (1 - t) x_0 + t e, and the network says e - x_0, the way's direction (Liu et
    al. 2023; Lipman et al. 2023). It is given the images as they are, and 1000 t, as
    Stable Diffusion 3 is.

    A shift moves times towards the noise: t' = shift t / (1 + (shift - 1) t) (Esser et
    al. 2024, equation 23). It is applied to the times of indices, so that it holds for
    samplers, and to the times that `draw` gives. A native time is one that is shifted
    already; `coefficients` and all others take it as it is.

    Args:
        shift: The shift, positive; 1 for none. Stable Diffusion 3 has 3.
        density: How training draws t before the shift: `"uniform"` in (0, 1]; or
            `"logit_normal"`, the sigmoid of a standard normal number (Esser et al.
            2024, equation 19 with m = 0 and s = 1).

    Raises:
        InputError: An argument is out of its range.

    Example:
        >>> from tf_ttur import distillation
        >>> distillation.Flow(shift=3.0).times([999, 499]).numpy().tolist()
        [1.0, 0.75]
        >>> distillation.get("flow:3") == distillation.Flow(shift=3.0)
        True
    """

    def __init__(self, shift: float = 1.0, density: str = "uniform"):
        found = _checked({"shift": Annotated[float, Between(above=0)]}, shift=shift)
        if density not in ("uniform", "logit_normal"):
            raise InputError(
                f'density must be "uniform" or "logit_normal". Received: {density!r}.'
            )
        self.shift, self.density = float(found["shift"]), density
        self.name = "flow"
        if (self.shift, density) != (1.0, "uniform"):
            self.name += f":{_text(self.shift)}"
        if density != "uniform":
            self.name += f":{density}"

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for Keras serialisation."""
        return {"shift": self.shift, "density": self.density}

    def times(self, indices: Any) -> tf.Tensor:
        """Returns (i + 1) / 1000, shifted; see `Parametrisation.times`."""
        return self._shifted((_float32(indices) + 1.0) / _STEPS)

    def coefficients(self, t: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns 1 - t and t, float32 as `t`."""
        t = _float32(t)
        return 1.0 - t, t

    def time_at(self, ratio: Any) -> tf.Tensor:
        """Returns ratio / (1 + ratio); see `Parametrisation.time_at`."""
        # This form has a value for infinity, too.
        return 1.0 / (1.0 + 1.0 / _float32(ratio))

    def inputs(self, noisy: Any, t: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the images as they are, and 1000 t; see `Parametrisation.inputs`."""
        return _float32(noisy), 1000.0 * _float32(t)

    def clean(self, noisy: Any, output: Any, t: Any) -> tf.Tensor:
        """Returns x_t - t times the output; see `Parametrisation.clean`."""
        noisy = _float32(noisy)
        return noisy - _like(_float32(t), noisy) * _float32(output)

    def output(self, noisy: Any, clean: Any, t: Any) -> tf.Tensor:
        """Returns (x_t - x_0) / t; see `Parametrisation.output`."""
        noisy = _float32(noisy)
        return (noisy - _float32(clean)) / _like(_float32(t), noisy)

    def target(self, clean: Any, noise: Any, t: Any) -> tf.Tensor:
        """Returns e - x_0; see `Parametrisation.target`."""
        return _float32(noise) - _float32(clean)

    def weight(self, t: Any) -> tf.Tensor:
        """Returns t^-2; see `Parametrisation.weight`."""
        return 1.0 / tf.square(_float32(t))

    def draw(self, count: Any, seed: Any) -> tf.Tensor:
        """Draws t of the chosen density, shifted; see `Parametrisation.draw`."""
        shape = (count,)
        if self.density == "uniform":
            # Keras draws from [0, 1), and t = 0, where all outputs fit, is no use.
            t = 1.0 - keras.random.uniform(shape, dtype="float32", seed=seed)
        else:
            t = tf.sigmoid(keras.random.normal(shape, dtype="float32", seed=seed))
        return self._shifted(t)

    def _shifted(self, t: tf.Tensor) -> tf.Tensor:
        # Divided by the shift, both sides of the fraction are 1 exactly at t = 1.
        return t if self.shift == 1.0 else t / (t + (1.0 - t) / self.shift)


PARAMETRISATIONS: dict[str, Callable[[], Parametrisation]] = {
    "vp-eps": lambda: VP("eps"),
    "vp-v": lambda: VP("v"),
    "edm": EDM,
    "flow": Flow,
}
"""The parametrisations by name, each with what is usual for it."""


def get(parametrisation: Any) -> Any:
    """Finds a parametrisation.

    Args:
        parametrisation: A name from `PARAMETRISATIONS`; `"edm:SIGMA_DATA"`,
            `"flow:SHIFT"` or `"flow:SHIFT:DENSITY"`, such as `"flow:3:logit_normal"`;
            or an object, which is returned as it is.

    Returns:
        The parametrisation.

    Raises:
        InputError: There is no such parametrisation.

    Example:
        >>> from tf_ttur import distillation
        >>> distillation.get("vp-v")
        VP(prediction='v')
        >>> distillation.get("flow:3").name
        'flow:3'
    """
    if not isinstance(parametrisation, str):
        wanted = (name for name in vars(Parametrisation) if not name.startswith("_"))
        missing = [name for name in wanted if not hasattr(parametrisation, name)]
        if isinstance(parametrisation, type) or missing:
            raise InputError(
                "A parametrisation is a name or an object such as VP('eps'). "
                f"Received: {parametrisation!r}."
            )
        return parametrisation
    name, *given = parametrisation.split(":")
    wrong = InputError(
        f"A parametrisation is one of {', '.join(PARAMETRISATIONS)}, edm:SIGMA_DATA, "
        f"flow:SHIFT or flow:SHIFT:DENSITY. Received: {parametrisation!r}."
    )
    most = {"edm": 1, "flow": 2}.get(name, 0)
    if name not in PARAMETRISATIONS or len(given) > most:
        raise wrong
    if not given:
        return PARAMETRISATIONS[name]()
    try:
        number = float(given[0])
    except ValueError:
        raise wrong from None
    return EDM(number) if name == "edm" else Flow(number, *given[1:])


def _float32(values: Any) -> tf.Tensor:
    """Returns values as a float32 tensor; NumPy's float64 is what Python has."""
    return tf.cast(tf.convert_to_tensor(values), tf.float32)


def _like(values: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Returns a number for each image in a shape that multiplies images."""
    return tf.reshape(values, [-1] + [1] * (images.shape.rank - 1))


def _text(number: float) -> str:
    return repr(number).removesuffix(".0")


def _powers() -> list[float]:
    """Returns the coefficients of -log alphabar, from x^1 to x^7, with x = n / 1000.

    The polynomial p in n has p(n + 1) - p(n) = q(n), the sum of beta_n^j / j for j up
    to 6. Compared power by power, these are equations of a triangular matrix with the
    binomial numbers: n^m has the coefficient C(i, m) in (n + 1)^i - n^i.
    """
    degree = 6
    beta = np.polynomial.Polynomial([1e-4, (0.02 - 1e-4) / (_STEPS - 1)])
    q = sum(beta**j / j for j in range(1, degree + 1))
    matrix = np.array(
        [[comb(i, m) if m < i else 0 for i in range(1, degree + 2)]
         for m in range(degree + 1)],
        float,
    )  # fmt: skip
    found = np.linalg.solve(matrix, q.coef)
    return (found * float(_STEPS) ** np.arange(1, degree + 2)).tolist()


_POWERS = _powers()
# -log alphabar of all 1000 factors.
_WHOLE = sum(_POWERS)


def _lost(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns -log alphabar after 1000 x factors, and its derivative by x."""
    value, slope = tf.zeros_like(x), tf.zeros_like(x)
    for power in reversed([0.0, *_POWERS]):
        slope = slope * x + value
        value = value * x + power
    return value, slope
