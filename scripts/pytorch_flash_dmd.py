"""One step of `tf_ttur.distillation.flash_dmd` in PyTorch, for benchmarks and tests.

It is Flash-DMD's first stage: a hard split, a hinge loss on the maps of a frozen
encoder, and the pull. Images are noised as in EDM (Karras et al. 2022, table 1). The
step is written as one would write it in PyTorch: the student's images are made once,
with gradients where they are needed, and serve the other networks' updates, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pytorch_unet import F, UNet, keras_views, nn, torch

# EDM's noise: the smallest and the largest sigma, and what images deviate by.
_LEAST, _MOST, _DATA = 0.002, 80.0, 0.5
_LAST = 999
# Each loss, and the network that it trains.
LOSSES = {
    "dm_loss": "student",
    "adv_loss": "student",
    "fake_loss": "fake_score",
    "d_loss": "discriminator",
}


class Chain(nn.ModuleList):
    """Convolutions, each with a normalisation and SiLU, and perhaps a linear map.

    Args:
        channels: Of the map that it gets.
        convolutions: Width, kernel and stride of each.
        groups: Of the normalisations.
        logits: Whether a linear map of the pixels' mean to one number follows.
    """

    def __init__(
        self,
        channels: int,
        convolutions: Sequence[tuple[int, int, int]],
        groups: int,
        logits: bool = False,
    ):
        super().__init__()
        for width, kernel, stride in convolutions:
            # An even kernel has stride 2 and maps of even sizes: 1 on either side.
            padding = (kernel - 1) // 2
            self.append(nn.Conv2d(channels, width, kernel, stride, padding))
            self.append(nn.GroupNorm(groups, width))
            channels = width
        if logits:
            self.append(nn.Linear(channels, 1))

    def forward(self, x: Any) -> Any:
        """Transforms a map."""
        for layer in self:
            if isinstance(layer, nn.GroupNorm):
                x = F.silu(layer(x))
            else:
                x = layer(x.mean((2, 3)) if isinstance(layer, nn.Linear) else x)
        return x


class Encoder(nn.ModuleList):
    """`tf_ttur.networks.dense_encoder`: images (n, c, h, w) -> four maps."""

    def __init__(self, channels: int):
        super().__init__()
        for level in range(4):
            width = 16 << level
            first = (width, 4, 2) if level else (width, 3, 1)
            self.append(Chain(channels, [first, (width, 3, 1)], 4))
            channels = width
        self.requires_grad_(False)

    def forward(self, x: Any) -> list[Any]:
        """Encodes."""
        maps = []
        for level in self:
            x = level(x)
            maps.append(x)
        return maps


class Heads(nn.ModuleList):
    """`tf_ttur.networks.heads`, on the maps of `Encoder`: maps -> logits (n, 1).

    Args:
        image_size: Height and width of the images: the largest map's.
        width: As there.
        groups: Likewise.
    """

    def __init__(self, image_size: int, width: int = 64, groups: int = 8):
        super().__init__()
        for level in range(4):
            size, convolutions = image_size >> level, []
            while size > 2 and len(convolutions) < 3:
                convolutions.append((width, 4, 2))
                size //= 2
            convolutions.append((width, 3, 1))
            self.append(Chain(16 << level, convolutions, groups, logits=True))

    def forward(self, maps: Sequence[Any]) -> list[Any]:
        """Judges."""
        return [head(x) for head, x in zip(self, maps, strict=True)]


def networks(image_size: int, channels: int = 3, **settings: Any) -> dict[str, Any]:
    """Makes the networks of distillation, by the names that `FlashDMD` knows them by.

    Args:
        image_size: As for `UNet`.
        channels: Likewise.
        **settings: Likewise.
    """
    names = ("student", "fake_score", "teacher")
    return {name: UNet(image_size, channels, **settings) for name in names} | {
        "encoder": Encoder(channels),
        "discriminator": Heads(image_size),
    }


class Drawn(NamedTuple):
    """Random numbers of one step.

    Attributes:
        noises: Standard normal (n, anchors + 1, c, h, w).
        labels: Of the student's images, int64 (n,), or None.
        index: Number of the anchor of distribution matching.
        levels: Noise levels at which both scores are compared, (n,) in [0, 999].
        noise: Standard normal (n, c, h, w), likewise.
        fake_levels: Noise levels of the fake score's loss, (n,).
        fake_noise: Its noise (n, c, h, w).
    """

    noises: Any
    labels: Any
    index: int
    levels: Any
    noise: Any
    fake_levels: Any
    fake_noise: Any


def drawn(arrays: Sequence[np.ndarray], dtype: Any = None) -> Drawn:
    """Returns random numbers that `FlashDMD.noise` was asked for, in its order.

    Args:
        arrays: Of one step with an encoder and a ratio of 1, images in the layout of
            Keras, the anchor's number once for each image.
        dtype: What floating point numbers become; by default, they stay.
    """
    noises, *rest = arrays
    labels = torch.from_numpy(rest.pop(0)).long() if len(rest) == 6 else None
    index, *rest = rest
    floats = (torch.from_numpy(x).to(dtype) for x in (noises, *rest))
    noises, *floats = (x.movedim(-1, -3) if x.ndim > 1 else x for x in floats)
    return Drawn(noises, labels, int(index[0]), *floats)


def draw(shape: tuple[int, ...], form: Any) -> Drawn:
    """Draws numbers for a step without labels.

    Args:
        shape: (n, anchors, c, h, w).
        form: The memory format of images.
    """
    count, anchors, *image = shape

    def normal(*before: int) -> Any:
        if form != torch.channels_last:
            return torch.randn(*before, *image)
        return torch.randn(*before, *image[1:], image[0]).movedim(-1, -3)

    return Drawn(
        normal(count, anchors + 1),
        None,
        # The last anchor is the discriminator's.
        int(torch.randint(anchors - 1, ())),
        _LAST * (0.02 + 0.96 * torch.rand(count)),
        normal(count),
        _LAST * torch.rand(count),
        normal(count),
    )


class FlashDMD:
    """A student, its fake score and its discriminator, trained by one step.

    Args:
        networks: "student", "fake_score" and "teacher", as `pytorch_unet.UNet`;
            "encoder" and "discriminator".
        optimizers: Of the student, the fake score and the discriminator: parameters ->
            an optimizer.
        anchors: The student's steps.
        adversarial: Weight of the student's adversarial loss.
        pulling: What the fake score keeps of itself when it is pulled to the student.
        compiled: Whether the networks are compiled by `torch.compile`.
    """

    def __init__(
        self,
        networks: Mapping[str, Any],
        optimizers: Callable[[Iterator[Any]], Any],
        *,
        anchors: int = 4,
        adversarial: float = 0.1,
        pulling: float = 0.98,
        compiled: bool = False,
    ):
        self.networks, self.anchors = networks, anchors
        self.adversarial, self.pulling = adversarial, pulling
        networks["teacher"].requires_grad_(False)
        self.optimizers = {
            name: optimizers(networks[name].parameters())
            for name in dict.fromkeys(LOSSES.values())
        }
        wrap = torch.compile if compiled else lambda network: network
        names = ("student", "fake_score", "teacher")
        self._called = {name: wrap(networks[name]) for name in names}
        self._logits = wrap(lambda x: networks["discriminator"](networks["encoder"](x)))

    # --- Losses

    def clean(self, name: str, noisy: Any, sigma: Any, labels: Any) -> Any:
        """Returns what one of the networks takes noisy images for."""
        norm = (sigma.square() + _DATA**2).sqrt()
        given = noisy / _like_images(norm), sigma.log() / 4
        output = self._called[name](*given, labels)
        skip, out = (_DATA / norm).square(), _DATA * sigma / norm
        return _like_images(skip) * noisy + _like_images(out) * output

    def images(self, drawn: Drawn) -> tuple[Any, Any]:
        """Samples from the student.

        Returns:
            Its images at the anchor of distribution matching and at the lowest one,
            (n, c, h, w), both with gradients through one call of the student.
        """
        noises, last = drawn.noises, self.anchors - 1
        levels = _LAST - 1000 * torch.arange(self.anchors, dtype=noises.dtype) / (
            self.anchors
        )
        times = [time.expand(len(noises)) for time in _sigma(levels)]
        x = _MOST * noises[:, 0]
        for index, time in enumerate(times):
            with torch.set_grad_enabled(index == drawn.index):
                estimate = self.clean("student", x, time, drawn.labels)
            if index == drawn.index:
                found = estimate
            sigma = _like_images(times[min(index + 1, last)])
            x = estimate.detach() + sigma * noises[:, index + 1]
        return found, self.clean("student", x, times[last], drawn.labels)

    def matching_loss(self, x: Any, drawn: Drawn) -> Any:
        """Returns the loss of distribution matching of the student's images."""
        with torch.no_grad():
            sigma = _sigma(drawn.levels)
            noisy = x + _like_images(sigma) * drawn.noise
            fake, real = (
                self.clean(name, noisy, sigma, drawn.labels)
                for name in ("fake_score", "teacher")
            )
            scale = (x - real).abs().mean((1, 2, 3), keepdim=True)
            target = x - torch.nan_to_num((fake - real) / scale, posinf=0, neginf=0)
        return 0.5 * F.mse_loss(x, target)

    def adversarial_loss(self, y: Any) -> Any:
        """Returns the student's adversarial loss."""
        return -self.adversarial * _mean(x.mean() for x in self._logits(y))

    def fake_loss(self, x: Any, drawn: Drawn) -> Any:
        """Returns the fake score's loss, a weighted error of estimates, as in EDM."""
        sigma = _sigma(drawn.fake_levels)
        noisy = x + _like_images(sigma) * drawn.fake_noise
        found = self.clean("fake_score", noisy, sigma, drawn.labels)
        weight = sigma**-2 + _DATA**-2
        return (weight * (found - x).square().mean((1, 2, 3))).mean()

    def discriminator_loss(self, real: Any, y: Any) -> Any:
        """Returns the discriminator's hinge loss."""
        pairs = zip(self._logits(real), self._logits(y), strict=True)
        return _mean((1 - r).relu().mean() + (1 + f).relu().mean() for r, f in pairs)

    # --- One step

    def step(self, real: Any, drawn: Drawn) -> dict[str, float]:
        """Updates the student, the fake score and the discriminator.

        Args:
            real: Real images (n, c, h, w) in [-1, 1].
            drawn: Random numbers for it.

        Returns:
            The losses.
        """
        heads = self.networks["discriminator"].requires_grad_(False)
        x, y = self.images(drawn)
        losses = {
            "dm_loss": self.matching_loss(x, drawn),
            "adv_loss": self.adversarial_loss(y),
        }
        self._update("student", losses["dm_loss"] + losses["adv_loss"])
        heads.requires_grad_(True)
        x, y = x.detach(), y.detach()
        with torch.no_grad():
            parameters = (
                self.networks[k].parameters() for k in ("fake_score", "student")
            )
            for mine, other in zip(*parameters, strict=True):
                mine.lerp_(other, 1 - self.pulling)
        losses["fake_loss"] = self.fake_loss(x, drawn)
        self._update("fake_score", losses["fake_loss"])
        losses["d_loss"] = self.discriminator_loss(real, y)
        self._update("discriminator", losses["d_loss"])
        return {name: loss.item() for name, loss in losses.items()}

    def _update(self, name: str, loss: Any) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def gradients(
        self, real: Any, drawn: Drawn
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Computes each loss with the weights as they are, and its gradient.

        Args:
            real: As for `step`.
            drawn: Likewise.

        Returns:
            The losses; and the gradient of each in the network that it trains, in the
            layout of Keras, as "dm_loss/out_conv/kernel".
        """
        x, y = self.images(drawn)
        losses = {
            "dm_loss": self.matching_loss(x, drawn),
            "adv_loss": self.adversarial_loss(y),
            "fake_loss": self.fake_loss(x.detach(), drawn),
            "d_loss": self.discriminator_loss(real, y.detach()),
        }
        found = {}
        for name, loss in losses.items():
            network = self.networks[LOSSES[name]]
            parameters = [*network.parameters()]
            each = dict(
                zip(parameters, torch.autograd.grad(loss, parameters), strict=True)
            )
            views = keras_views(network, each.get)
            found |= {f"{name}/{key}": np.array(view) for key, view in views.items()}
        return {name: loss.item() for name, loss in losses.items()}, found


def _sigma(levels: Any) -> Any:
    """Returns EDM's ladder at numbers from 0 to 999 (equation 5 with rho = 7)."""
    low, high = _LEAST ** (1 / 7), _MOST ** (1 / 7)
    return (low + (high - low) * levels / _LAST) ** 7


def _like_images(values: Any) -> Any:
    return values[:, None, None, None]


def _mean(values: Iterator[Any]) -> Any:
    found = [*values]
    return sum(found) / len(found)
