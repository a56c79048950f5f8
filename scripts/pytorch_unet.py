"""The U-Nets of `tf_ttur.networks.unet` in PyTorch, for benchmarks and tests.

Modules are named as our layers are, after EDM's description (Karras et al. 2022): maps
are resampled before they are convolved, and queries, keys and values are one
convolution.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# By name, since it is no dependency of ours.
torch = importlib.import_module("torch")
nn, F = torch.nn, torch.nn.functional


class UNet(nn.Module):
    """Images (n, c, h, w), noise (n,) and labels (n,), if any -> (n, c, h, w).

    Args:
        As for `tf_ttur.networks.unet.denoiser`.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        *,
        width: int = 128,
        multipliers: Sequence[int] = (2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        heads: int | None = None,
        dropout: float = 0.13,
        style: str = "ddpmpp",
        num_classes: int | None = None,
        augmentation: int = 0,
    ):
        super().__init__()
        self.style, self.width, self.num_classes = style, width, num_classes
        song, embedded = style == "ddpmpp", 4 * width
        if num_classes is not None:
            to = width if song else embedded
            self.label_embedding = nn.Linear(num_classes, to, bias=song)
        if augmentation:
            self.augmentation_embedding = nn.Linear(augmentation, width, bias=False)
        self.embedding_1 = nn.Linear(width, embedded)
        self.embedding_2 = nn.Linear(embedded, embedded)
        self.down: list[str] = []
        self.up: list[str] = []

        def add(names: list[str], name: str, *between: int, **how: Any) -> int:
            block = Block(*between, embedded, heads, dropout, song, **how)
            self.add_module(name, block)
            names.append(name)
            return between[1]

        x = width if song else width * multipliers[0]
        self.first = f"enc_{image_size}_conv"
        self.add_module(self.first, nn.Conv2d(channels, x, 3, padding=1))
        skips = [x]
        for level, multiplier in enumerate(multipliers):
            size = image_size >> level
            if level:
                skips.append(add(self.down, f"enc_{size}_down", x, x, resample=-1))
            for index in range(1, blocks + 1):
                attended = size in attention
                name = f"enc_{size}_block_{index}"
                x = add(self.down, name, x, width * multiplier, attended=attended)
                skips.append(x)
        add(self.up, f"dec_{size}_in_1", x, x, attended=True)
        add(self.up, f"dec_{size}_in_2", x, x)
        for level, multiplier in reversed([*enumerate(multipliers)]):
            size = image_size >> level
            if level < len(multipliers) - 1:
                add(self.up, f"dec_{size}_up", x, x, resample=1)
            for index in range(1, blocks + 2):
                attended = size in attention and (not song or index == blocks + 1)
                name, joined = f"dec_{size}_block_{index}", x + skips.pop()
                x = add(self.up, name, joined, width * multiplier, attended=attended)
        self.out_norm = _norm(x, song)
        self.out_conv = nn.Conv2d(x, channels, 3, padding=1)

    def forward(
        self, images: Any, noise: Any, labels: Any = None, augmentation: Any = None
    ) -> Any:
        """Denoises."""
        told = self.embedding(noise, labels, augmentation)
        x = getattr(self, self.first)(images)
        skips = [x]
        for name in self.down:
            x = getattr(self, name)(x, told)
            skips.append(x)
        for name in self.up:
            if "block" in name:
                x = torch.cat([x, skips.pop()], 1)
            x = getattr(self, name)(x, told)
        return self.out_conv(F.silu(self.out_norm(x)))

    def embedding(self, noise: Any, labels: Any, augmentation: Any) -> Any:
        """Makes the embedding of noise and labels."""
        song, count = self.style == "ddpmpp", self.width // 2
        exponents = torch.arange(count, dtype=noise.dtype) / (count - song)
        angles = noise[:, None] * 10_000.0**-exponents
        parts = [angles.cos(), angles.sin()]
        x = torch.cat(parts[::-1] if song else parts, 1)
        if augmentation is not None:
            x = x + self.augmentation_embedding(augmentation)
        if labels is not None:
            places = F.one_hot(labels, self.num_classes + 1)[:, :-1].to(x.dtype)
        if song:
            if labels is not None:
                x = x + self.label_embedding(places * math.sqrt(self.num_classes))
            return F.silu(self.embedding_2(F.silu(self.embedding_1(x))))
        x = self.embedding_2(F.silu(self.embedding_1(x)))
        return F.silu(x if labels is None else x + self.label_embedding(places))


class Block(nn.Module):
    """A residual block, with attention or without it."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedded: int,
        heads: int | None,
        dropout: float,
        song: bool,
        resample: int = 0,
        attended: bool = False,
    ):
        super().__init__()
        self.song, self.resample, self.dropout = song, resample, dropout
        self.scale = math.sqrt(0.5) if song else 1.0
        self.norm_1 = _norm(inputs, song)
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.condition = nn.Linear(embedded, outputs * (1 if song else 2))
        self.norm_2 = _norm(outputs, song)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = None
        if inputs != outputs or (song and resample):
            self.shortcut = nn.Conv2d(inputs, outputs, 1)
        self.heads = 0
        if attended:
            self.heads = heads or (1 if song else max(outputs // 64, 1))
            self.norm_3 = _norm(outputs, song)
            self.qkv = nn.Conv2d(outputs, 3 * outputs, 1)
            self.outputs = nn.Conv2d(outputs, outputs, 1)

    def forward(self, x: Any, told: Any) -> Any:
        """Transforms a map."""
        y = self._resampled(F.silu(self.norm_1(x)))
        x = self._resampled(x)
        if self.shortcut is not None:
            x = self.shortcut(x)
        y, told = self.conv_1(y), self.condition(told)[:, :, None, None]
        if self.song:
            y = self.norm_2(y + told)
        else:
            gain, offset = told.chunk(2, 1)
            y = torch.addcmul(offset, self.norm_2(y), 1 + gain)
        y = F.dropout(F.silu(y), self.dropout, self.training)
        x = (x + self.conv_2(y)) * self.scale
        return (x + self._attended(x)) * self.scale if self.heads else x

    def _resampled(self, x: Any) -> Any:
        if self.resample > 0:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample < 0 else x

    def _attended(self, x: Any) -> Any:
        parts = self.qkv(self.norm_3(x)).chunk(3, 1)
        # (n, heads, pixels, channels of a head)
        split = (part.unflatten(1, (self.heads, -1)).flatten(3).mT for part in parts)
        y = F.scaled_dot_product_attention(*split)
        return self.outputs(y.mT.reshape(x.shape))


def _norm(channels: int, song: bool) -> Any:
    groups = next(
        count for count in range(min(32, channels // 4), 0, -1) if channels % count == 0
    )
    return nn.GroupNorm(groups, channels, 1e-6 if song else 1e-5)


def keras_views(
    network: Any, tensors: Callable[[Any], Any] | None = None
) -> dict[str, np.ndarray]:
    """Views a network's tensors in the layout of Keras, under our layers' names.

    Args:
        network: A `UNet`.
        tensors: What to view of each parameter; by default, its values.

    Returns:
        Arrays that share the tensors' memory.
    """
    views = {}
    for path, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            array = (tensors(parameter) if tensors else parameter).detach().numpy()
            normalizes = isinstance(module, nn.GroupNorm)
            names = ("gamma", "beta") if normalizes else ("kernel", "bias")
            key = names[name == "bias"]
            if array.ndim > 1:
                array = array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))
            layer = path.replace(".", "_")
            if not layer.endswith("_qkv"):
                views[f"{layer}/{key}"] = array
                continue
            parts = np.split(array, 3, -1)
            for part, view in zip(("queries", "keys", "values"), parts, strict=True):
                views[f"{layer.removesuffix('qkv')}{part}/{key}"] = view
    return views
