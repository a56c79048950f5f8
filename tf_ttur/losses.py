"""The adversarial losses: those of the paper, the hinge loss and the relativistic one.

An adversarial loss is any object with

- `name`, a string;
- `discriminator(real_logits, fake_logits)`, the scalar the discriminator minimises;
- `generator(fake_logits, real_logits=None)`, the scalar the generator minimises;
- `needs_real`, True only where the generator's loss looks at `real_logits` too.

Logits are float32, one score per example, with no squashing applied. Gradient
penalties, which go with any of these, are in `tf_ttur.penalties`.
"""

from __future__ import annotations

from typing import Any, Protocol

import tensorflow as tf

from fid.files import InputError
from tf_ttur.penalties import gradient_penalty

__all__ = [
    "LOSSES",
    "AdversarialLoss",
    "Hinge",
    "Minimax",
    "NonSaturating",
    "Relativistic",
    "Wasserstein",
    "describe",
    "get",
    "gradient_penalty",
    "takes_logits",
]


class AdversarialLoss(Protocol):
    """What `GAN.compile` expects of a loss."""

    name: str
    needs_real: bool

    def discriminator(
        self, real_logits: tf.Tensor, fake_logits: tf.Tensor
    ) -> tf.Tensor:
        """Returns the discriminator's loss."""

    def generator(
        self, fake_logits: tf.Tensor, real_logits: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns the generator's loss."""


class Minimax:
    """The zero-sum GAN loss: both players share one cross-entropy.

    The discriminator minimises mean(-log D(x)) + mean(-log(1 - D(G(z)))), the
    generator mean(log(1 - D(G(z)))), with D the sigmoid of the logits (Goodfellow et
    al. 2014, equation 1).
    """

    name = "minimax"
    needs_real = False

    def discriminator(
        self, real_logits: tf.Tensor, fake_logits: tf.Tensor
    ) -> tf.Tensor:
        """Returns the sum of the two mean cross-entropies, a scalar."""
        return tf.reduce_mean(tf.nn.softplus(-real_logits)) + tf.reduce_mean(
            tf.nn.softplus(fake_logits)
        )

    def generator(
        self, fake_logits: tf.Tensor, real_logits: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns mean(log(1 - D(G(z)))), a scalar."""
        return -tf.reduce_mean(tf.nn.softplus(fake_logits))


class NonSaturating(Minimax):
    """DCGAN's loss: as `Minimax`, but the generator minimises mean(-log D(G(z))).

    With label smoothing s, the discriminator is to say 1 - s of real images instead of
    1. That of generated images stays 0: the smoothing is one-sided (Salimans et al.
    2016, section 3.4, who use s = 0.1). TF-GAN and Keras move a label by half of what
    they call smoothing, so theirs is twice this one.

    Args:
        label_smoothing: s, in [0, 0.5); 0 for none.

    Raises:
        InputError: It is out of its range.

    Example:
        >>> from tf_ttur import losses
        >>> losses.NonSaturating(label_smoothing=0.1).name
        'non_saturating:0.1'
        >>> losses.get("non_saturating:0.1").label_smoothing
        0.1
    """

    name = "non_saturating"

    def __init__(self, label_smoothing: float = 0.0):
        if not 0 <= label_smoothing < 0.5:
            raise InputError(
                f"label_smoothing is {label_smoothing}; it must be in [0, 0.5), such "
                "as 0.1 for real labels of 0.9."
            )
        self.label_smoothing = float(label_smoothing)
        if self.label_smoothing:
            self.name = f"{type(self).name}:{self.label_smoothing}"

    def discriminator(
        self, real_logits: tf.Tensor, fake_logits: tf.Tensor
    ) -> tf.Tensor:
        """Returns the sum of the two mean cross-entropies, a scalar."""
        loss = super().discriminator(real_logits, fake_logits)
        if not self.label_smoothing:
            return loss
        # (1 - s) softplus(-x) + s softplus(x) is softplus(-x) + s x.
        return loss + self.label_smoothing * tf.reduce_mean(real_logits)

    def generator(
        self, fake_logits: tf.Tensor, real_logits: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns mean(-log D(G(z))), a scalar."""
        return tf.reduce_mean(tf.nn.softplus(-fake_logits))


class Wasserstein:
    """The critic's estimate of the Wasserstein-1 distance (Arjovsky et al. 2017).

    The discriminator (critic) minimises mean(D(G(z))) - mean(D(x)), the generator
    -mean(D(G(z))). Used with a gradient penalty.
    """

    name = "wasserstein"
    needs_real = False

    def discriminator(
        self, real_logits: tf.Tensor, fake_logits: tf.Tensor
    ) -> tf.Tensor:
        """Returns mean(fake) - mean(real), a scalar."""
        return tf.reduce_mean(fake_logits) - tf.reduce_mean(real_logits)

    def generator(
        self, fake_logits: tf.Tensor, real_logits: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns -mean(fake), a scalar."""
        return -tf.reduce_mean(fake_logits)


class Hinge(Wasserstein):
    """The hinge loss (Lim and Ye 2017; Miyato et al. 2018, equations 16 and 17).

    The discriminator minimises mean(max(0, 1 - D(x))) + mean(max(0, 1 + D(G(z)))), so
    it learns from the images whose side it does not tell with a margin of 1. The
    generator minimises -mean(D(G(z))). Often used with spectral normalisation
    (`keras.layers.SpectralNormalization`).
    """

    name = "hinge"

    def discriminator(
        self, real_logits: tf.Tensor, fake_logits: tf.Tensor
    ) -> tf.Tensor:
        """Returns the sum of the two mean hinges, a scalar."""
        return tf.reduce_mean(tf.nn.relu(1.0 - real_logits)) + tf.reduce_mean(
            tf.nn.relu(1.0 + fake_logits)
        )


class Relativistic:
    """The relativistic pairing loss: how much more real a real image looks than a fake.

    With f(t) = log(1 + exp(-t)) and pairs of a real image x and a generated one, the
    discriminator minimises mean f(D(x) - D(G(z))), the generator
    mean f(D(G(z)) - D(x)) (Jolicoeur-Martineau 2019, RpGAN). With the penalty
    `"r1+r2"` it is the loss of R3GAN (Huang et al. 2024, section 2). Image i of one
    batch is paired with image i of the other, so both have as many.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur import losses
        >>> loss = losses.get("relativistic")
        >>> real, fake = tf.constant([[2.0], [0.0]]), tf.constant([[2.0], [0.0]])
        >>> round(float(loss.discriminator(real, fake)), 4)  # log 2: undecided
        0.6931
    """

    name = "relativistic"
    needs_real = True

    def discriminator(
        self, real_logits: tf.Tensor, fake_logits: tf.Tensor
    ) -> tf.Tensor:
        """Returns mean log(1 + exp(D(G(z)) - D(x))), a scalar."""
        return tf.reduce_mean(tf.nn.softplus(fake_logits - real_logits))

    def generator(
        self, fake_logits: tf.Tensor, real_logits: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns mean log(1 + exp(D(x) - D(G(z)))), a scalar.

        Raises:
            ValueError: There are no real logits.
        """
        if real_logits is None:
            raise ValueError("The generator's relativistic loss needs real_logits.")
        return tf.reduce_mean(tf.nn.softplus(real_logits - fake_logits))


LOSSES: dict[str, type] = {
    loss.name: loss
    for loss in (NonSaturating, Minimax, Wasserstein, Hinge, Relativistic)
}


def get(loss: str | AdversarialLoss) -> AdversarialLoss:
    """Finds an adversarial loss by name.

    Args:
        loss: One of `LOSSES`; `"non_saturating:S"` with label smoothing S;
            `"tfgan:NAME"` for one of TF-GAN's (needs the `tfgan` extra); or a loss
            object, which is returned as it is.

    Returns:
        The loss.

    Raises:
        InputError: There is no such loss, or its smoothing is out of range.
    """
    if not isinstance(loss, str):
        missing = [
            attribute
            for attribute in ("name", "needs_real", "discriminator", "generator")
            if not hasattr(loss, attribute)
        ]
        if missing:
            raise InputError(
                f"{loss!r} is not an adversarial loss: it lacks {', '.join(missing)}."
            )
        return loss
    if loss in LOSSES:
        return LOSSES[loss]()
    family, _, name = loss.partition(":")
    if family == "tfgan":
        from tf_ttur import tfgan

        return tfgan.adversarial_loss(name)
    if family == NonSaturating.name:
        try:
            return NonSaturating(float(name))
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"The label smoothing in {loss!r} is no number; write {family}:0.1."
            ) from None
    raise InputError(
        f"There is no loss {loss!r}; choose from {', '.join(LOSSES)}, "
        f"{NonSaturating.name}:SMOOTHING or tfgan:NAME."
    )


def describe(loss: AdversarialLoss) -> Any:
    """Returns what `get` needs to make `loss` again: its name, or the loss itself."""
    if type(loss) in LOSSES.values() or loss.name.startswith("tfgan:"):
        return loss.name
    return loss


def takes_logits(loss: AdversarialLoss) -> bool:
    """Says whether a loss is known to be wrong for scores that were squashed.

    Args:
        loss: Any. Least squares works for probabilities too, and of a loss of one's own
            nothing is known.
    """
    theirs = loss.name.startswith("tfgan:") and loss.name != "tfgan:least_squares"
    return theirs or type(loss) in LOSSES.values()
