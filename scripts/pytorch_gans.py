"""The paper's networks and their training step in PyTorch, for benchmark_train.py.

Layers are named as in `tf_ttur.networks`. A 5x5 stride-2 SAME convolution of TensorFlow
pads images by 1 before and 2 after, PyTorch's by 2 on both sides, of which the last is
not read. Seen in a mirror the two are the same, so the twins work on images mirrored in
both directions, with mirrored kernels, and PyTorch needs no padding of its own. Text is
as it is: its convolutions have no stride.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# By name, since it is no dependency of ours.
torch = importlib.import_module("torch")
nn, F = torch.nn, torch.nn.functional


# --- Networks ----------------------------------------------------------------------

_LENGTH = 32  # symbols in a line of text
CLASSES = 10  # of images
# BigGAN's channels as multiples of the width: of the generator's maps from 4x4 on, and
# of the discriminator's blocks, of which the first so many halve.
_BIGGAN_MAPS = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
_BIGGAN_FEATURES = {
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
}


class DCGANGenerator(nn.Module):
    """Latents (n, 100) -> images (n, 3, size, size)."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.start, self.width = size // 16, 8 * width
        self.linear = nn.Linear(100, self.width * self.start**2)
        self.norm_0 = _batch_norm(8 * width)
        self.deconv_1 = _deconv(8 * width, 4 * width)
        self.norm_1 = _batch_norm(4 * width)
        self.deconv_2 = _deconv(4 * width, 2 * width)
        self.norm_2 = _batch_norm(2 * width)
        self.deconv_3 = _deconv(2 * width, width)
        self.norm_3 = _batch_norm(width)
        self.deconv_4 = _deconv(width, 3)

    def forward(self, z: Any) -> Any:
        """Generates images."""
        x = self.linear(z).view(-1, self.width, self.start, self.start)
        x = F.relu(self.norm_0(x), inplace=True)
        x = F.relu(self.norm_1(self.deconv_1(x)), inplace=True)
        x = F.relu(self.norm_2(self.deconv_2(x)), inplace=True)
        x = F.relu(self.norm_3(self.deconv_3(x)), inplace=True)
        return torch.tanh(self.deconv_4(x))


class DCGANDiscriminator(nn.Module):
    """Images (n, 3, size, size) -> logits (n, 1)."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.start = size // 16
        self.conv_0 = nn.Conv2d(3, width, 5, 2, padding=2)
        self.conv_1 = nn.Conv2d(width, 2 * width, 5, 2, padding=2)
        self.norm_1 = _batch_norm(2 * width)
        self.conv_2 = nn.Conv2d(2 * width, 4 * width, 5, 2, padding=2)
        self.norm_2 = _batch_norm(4 * width)
        self.conv_3 = nn.Conv2d(4 * width, 8 * width, 5, 2, padding=2)
        self.norm_3 = _batch_norm(8 * width)
        self.logits = nn.Linear(8 * width * self.start**2, 1)

    def forward(self, x: Any) -> Any:
        """Judges images."""
        x = F.leaky_relu(self.conv_0(x), 0.2, inplace=True)
        x = F.leaky_relu(self.norm_1(self.conv_1(x)), 0.2, inplace=True)
        x = F.leaky_relu(self.norm_2(self.conv_2(x)), 0.2, inplace=True)
        x = F.leaky_relu(self.norm_3(self.conv_3(x)), 0.2, inplace=True)
        return self.logits(x.flatten(1))


class ResNetGenerator(nn.Module):
    """Latents (n, 128) -> images (n, 3, size, size)."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.start, self.width = size // 16, 8 * width
        self.linear = nn.Linear(128, self.width * self.start**2)
        inputs = 8 * width
        for index, factor in enumerate((8, 4, 2, 1), start=1):
            self.add_module(f"block_{index}", UpBlock(inputs, factor * width))
            inputs = factor * width
        self.norm = _batch_norm(width)
        self.conv = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Any) -> Any:
        """Generates images."""
        x = self.linear(z).view(-1, self.width, self.start, self.start)
        x = self.block_4(self.block_3(self.block_2(self.block_1(x))))
        return torch.tanh(self.conv(F.relu(self.norm(x))))


class ResNetDiscriminator(nn.Module):
    """Images (n, 3, size, size) -> scores (n, 1)."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.start = size // 16
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        inputs = width
        for index, factor in enumerate((2, 4, 8, 8), start=1):
            self.add_module(f"block_{index}", DownBlock(inputs, factor * width))
            inputs = factor * width
        self.scores = nn.Linear(8 * width * self.start**2, 1)

    def forward(self, x: Any) -> Any:
        """Judges images."""
        x = self.block_4(self.block_3(self.block_2(self.block_1(self.conv(x)))))
        return self.scores(x.flatten(1))


class TextGenerator(nn.Module):
    """Latents (n, 128) -> probabilities of token ids (n, size, 32)."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.width = width
        self.linear = nn.Linear(128, width * _LENGTH)
        for index in range(1, 6):
            self.add_module(f"block_{index}", TextBlock(width))
        self.conv = nn.Conv1d(width, size, 1)

    def forward(self, z: Any) -> Any:
        """Generates lines."""
        x = self.linear(z).view(-1, self.width, _LENGTH)
        x = self.block_3(self.block_2(self.block_1(x)))
        return F.softmax(self.conv(self.block_5(self.block_4(x))), dim=1)


class TextDiscriminator(nn.Module):
    """Probabilities of token ids (n, size, 32) -> scores (n, 1)."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.conv = nn.Conv1d(size, width, 1)
        for index in range(1, 6):
            self.add_module(f"block_{index}", TextBlock(width))
        self.scores = nn.Linear(width * _LENGTH, 1)

    def forward(self, x: Any) -> Any:
        """Judges lines."""
        x = self.block_3(self.block_2(self.block_1(self.conv(x))))
        return self.scores(self.block_5(self.block_4(x)).flatten(1))


class TextBlock(nn.Module):
    """Two convolutions along a line, beside it as it is."""

    def __init__(self, width: int):
        super().__init__()
        self.conv_1 = nn.Conv1d(width, width, 5, padding=2)
        self.conv_2 = nn.Conv1d(width, width, 5, padding=2)

    def forward(self, x: Any) -> Any:
        """Applies the block."""
        return x + 0.3 * self.conv_2(F.relu(self.conv_1(F.relu(x))))


class UpBlock(nn.Module):
    """Doubles height and width."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.shortcut = nn.Conv2d(inputs, outputs, 1)
        self.norm_1 = _batch_norm(inputs)
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm_2 = _batch_norm(outputs)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Any) -> Any:
        """Applies the block."""
        shortcut = self.shortcut(F.interpolate(x, scale_factor=2.0))
        x = F.interpolate(F.relu(self.norm_1(x)), scale_factor=2.0)
        x = self.conv_2(F.relu(self.norm_2(self.conv_1(x))))
        return shortcut + x


class DownBlock(nn.Module):
    """Halves height and width."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.shortcut = nn.Conv2d(inputs, outputs, 1)
        self.norm_1 = _layer_norm(inputs)
        self.conv_1 = nn.Conv2d(inputs, inputs, 3, padding=1, bias=False)
        self.norm_2 = _layer_norm(inputs)
        self.conv_2 = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Any) -> Any:
        """Applies the block."""
        shortcut = self.shortcut(F.avg_pool2d(x, 2))
        x = self.conv_1(F.relu(self.norm_1(x)))
        x = self.conv_2(F.relu(self.norm_2(x)))
        return shortcut + F.avg_pool2d(x, 2)


class BigGANGenerator(nn.Module):
    """Latents (n, d) and labels (n,) -> images (n, 3, size, size)."""

    def __init__(self, size: int, width: int, classes: int = CLASSES, chunk: int = 20):
        super().__init__()
        first, *maps = (width * factor for factor in _BIGGAN_MAPS[size])
        self.start, self.width, self.chunk = 4, first, chunk
        self.latent_dimension = chunk * (1 + len(maps))
        self.shared = nn.Embedding(classes, 128)
        self.linear = SNLinear(chunk, 16 * first)
        inputs, side = first, 4
        for index, outputs in enumerate(maps, start=1):
            block = ConditionalUpBlock(inputs, outputs, 128 + chunk)
            self.add_module(f"block_{index}", block)
            inputs, side = outputs, 2 * side
            if side == 64:
                self.add_module(f"block_{index}_attention", Attention(outputs))
        self.norm = _batch_norm(inputs)
        self.conv = SNConv2d(inputs, 3, 3, padding=1)

    def forward(self, z: Any, labels: Any) -> Any:
        """Generates images."""
        first, *chunks = z.split(self.chunk, dim=1)
        shared = self.shared(labels)
        x = self.linear(first).view(-1, self.width, 4, 4)
        for index, chunk in enumerate(chunks, start=1):
            x = getattr(self, f"block_{index}")(x, torch.cat([shared, chunk], 1))
            x = getattr(self, f"block_{index}_attention", nn.Identity())(x)
        return torch.tanh(self.conv(F.relu(self.norm(x))))


class BigGANDiscriminator(nn.Module):
    """Images (n, 3, size, size) and labels (n,) -> logits (n, 1)."""

    def __init__(self, size: int, width: int, classes: int = CLASSES):
        super().__init__()
        factors, halvings = _BIGGAN_FEATURES[size]
        inputs, side = 3, size
        for index, factor in enumerate(factors, start=1):
            halved, outputs = index <= halvings, factor * width
            block = WideDownBlock(inputs, outputs, index > 1, halved)
            self.add_module(f"block_{index}", block)
            inputs, side = outputs, side // 2 if halved else side
            if side == 64:
                self.add_module(f"block_{index}_attention", Attention(outputs))
        self.count = len(factors)
        self.scores = SNLinear(inputs, 1)
        self.classes = SNEmbedding(classes, inputs)

    def forward(self, x: Any, labels: Any) -> Any:
        """Judges images."""
        for index in range(1, self.count + 1):
            x = getattr(self, f"block_{index}")(x)
            x = getattr(self, f"block_{index}_attention", nn.Identity())(x)
        features = F.relu(x).sum((2, 3))
        product = (self.classes(labels) * features).sum(1, keepdim=True)
        return self.scores(features) + product


class ConditionalUpBlock(nn.Module):
    """Doubles height and width, with batch norms that a condition scales."""

    def __init__(self, inputs: int, outputs: int, condition: int):
        super().__init__()
        self.shortcut = SNConv2d(inputs, outputs, 1)
        self.norm_1 = ConditionalNorm(inputs, condition)
        self.conv_1 = SNConv2d(inputs, outputs, 3, padding=1)
        self.norm_2 = ConditionalNorm(outputs, condition)
        self.conv_2 = SNConv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Any, condition: Any) -> Any:
        """Applies the block."""
        shortcut = self.shortcut(F.interpolate(x, scale_factor=2.0))
        x = F.interpolate(F.relu(self.norm_1(x, condition)), scale_factor=2.0)
        x = self.conv_2(F.relu(self.norm_2(self.conv_1(x), condition)))
        return shortcut + x


class WideDownBlock(nn.Module):
    """Halves height and width, or keeps them; the first one begins with no ReLU."""

    def __init__(self, inputs: int, outputs: int, activated: bool, halved: bool):
        super().__init__()
        self.activated, self.halved = activated, halved
        if halved or inputs != outputs:
            self.shortcut = SNConv2d(inputs, outputs, 1)
        self.conv_1 = SNConv2d(inputs, outputs, 3, padding=1)
        self.conv_2 = SNConv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Any) -> Any:
        """Applies the block."""
        shortcut = F.avg_pool2d(x, 2) if self.halved else x
        if hasattr(self, "shortcut"):
            # It changes places with the mean, which is the faster order.
            shortcut = self.shortcut(shortcut)
        x = self.conv_1(F.relu(x) if self.activated else x)
        x = self.conv_2(F.relu(x))
        return shortcut + (F.avg_pool2d(x, 2) if self.halved else x)


class Attention(nn.Module):
    """Self-attention between pixels."""

    def __init__(self, channels: int):
        super().__init__()
        self.queries = SNConv2d(channels, channels // 8, 1, bias=False)
        self.keys = SNConv2d(channels, channels // 8, 1, bias=False)
        self.values = SNConv2d(channels, channels // 2, 1, bias=False)
        self.outputs = SNConv2d(channels // 2, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Any) -> Any:
        """Attends."""
        queries = self.queries(x).flatten(2)
        keys = F.max_pool2d(self.keys(x), 2).flatten(2)
        values = F.max_pool2d(self.values(x), 2).flatten(2)
        weights = torch.einsum("ncq,nck->nqk", queries, keys).softmax(2)
        found = torch.einsum("nqk,nck->ncq", weights, values)
        return x + self.gain * self.outputs(found.view(len(x), -1, *x.shape[2:]))


class ConditionalNorm(nn.Module):
    """Batch norm with gains and offsets that are linear in a condition."""

    def __init__(self, channels: int, condition: int):
        super().__init__()
        self.gain = SNLinear(condition, channels, bias=False)
        self.offset = SNLinear(condition, channels, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1, affine=False)

    def forward(self, x: Any, condition: Any) -> Any:
        """Normalises."""
        gain, offset = self.gain(condition), self.offset(condition)
        return self.norm(x) * (1 + gain[..., None, None]) + offset[..., None, None]


class _SpectralNorm:
    """A weight over its spectral norm, by one step of power iteration a pass."""

    def _begin(self) -> None:
        self.register_buffer("vector", torch.randn(len(self.weight)))

    def _normalized(self) -> Any:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            right = F.normalize(self.vector @ matrix, dim=0, eps=1e-6)
            left = F.normalize(matrix @ right, dim=0, eps=1e-6)
            if self.training:
                self.vector.copy_(left)
        return self.weight / (left @ (matrix @ right))


class SNConv2d(_SpectralNorm, nn.Conv2d):
    """A convolution whose kernel has spectral norm 1."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._begin()

    def forward(self, x: Any) -> Any:
        """Convolves."""
        return F.conv2d(x, self._normalized(), self.bias, padding=self.padding)


class SNLinear(_SpectralNorm, nn.Linear):
    """A linear map of spectral norm 1."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._begin()

    def forward(self, x: Any) -> Any:
        """Maps."""
        return F.linear(x, self._normalized(), self.bias)


class SNEmbedding(_SpectralNorm, nn.Embedding):
    """A table of spectral norm 1."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._begin()

    def forward(self, x: Any) -> Any:
        """Looks rows up."""
        return F.embedding(x, self._normalized())


def _deconv(inputs: int, outputs: int) -> Any:
    return nn.ConvTranspose2d(inputs, outputs, 5, 2, padding=2, output_padding=1)


def _batch_norm(channels: int) -> Any:
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)


def _layer_norm(channels: int) -> Any:
    return nn.GroupNorm(1, channels, eps=1e-5)


NETWORKS = {
    "dcgan": (DCGANGenerator, DCGANDiscriminator),
    "resnet": (ResNetGenerator, ResNetDiscriminator),
    "text": (TextGenerator, TextDiscriminator),
    "biggan": (BigGANGenerator, BigGANDiscriminator),
}


# --- Keras's arrays ----------------------------------------------------------------


def keras_views(
    network: Any, tensors: Callable[[Any], Any] | None = None
) -> dict[str, np.ndarray]:
    """Views a network's tensors in the layout of Keras, under Keras's names.

    Args:
        network: One of the networks above, in the contiguous memory format.
        tensors: What to view of each parameter; by default, its values, and beside them
            the vectors of spectral norms.

    Returns:
        Arrays that share the tensors' memory. A dense kernel has its spatial axes
        apart: reshape what is to be written to its shape.
    """
    views = {}
    for path, module in network.named_modules():
        layer = path.replace(".", "_")
        named = [*module.named_parameters(recurse=False)]
        if tensors is None and isinstance(module, _SpectralNorm):
            named.append(("vector", module.vector))
        for name, parameter in named:
            array = (tensors(parameter) if tensors else parameter).detach().numpy()
            if isinstance(network, BigGANGenerator | BigGANDiscriminator):
                key, view = _biggan_view(array, module, name, path == "linear")
                views[f"{layer}/{key}"] = view
                continue
            if isinstance(
                module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear
            ):
                key = {"weight": "kernel", "bias": "bias"}[name]
            else:
                key = {"weight": "gamma", "bias": "beta"}[name]
            if isinstance(network, TextGenerator | TextDiscriminator):
                if isinstance(module, nn.Linear) and array.size > 1:
                    # (channels, positions) to (positions, channels)
                    shape = (-1, _LENGTH, *array.shape[1:])
                    if module.out_features == 1:
                        shape = (1, -1, _LENGTH)
                    array = array.reshape(shape)
                array = array.transpose()  # All axes the other way round.
            elif isinstance(module, nn.Linear):
                array = _dense_view(array, module, network.start)
            elif key == "kernel":
                array = array[:, :, ::-1, ::-1]
                # (out, in, h, w) -> (h, w, in, out), and for the transposed one
                # (in, out, h, w) -> (h, w, out, in).
                array = array.transpose(2, 3, 1, 0)
            views[f"{layer}/{key}"] = array
    return views


def _biggan_view(
    array: np.ndarray, module: Any, name: str, maps: bool
) -> tuple[str, np.ndarray]:
    """Views a tensor of BigGAN's, and names it.

    `maps` says that the outputs of a linear layer are those of a map of 4x4 pixels.
    """
    if name == "vector":
        return name, _from_map(array) if maps else array
    if isinstance(module, nn.Embedding):
        return "embeddings", array
    if isinstance(module, nn.BatchNorm2d):
        return {"weight": "gamma", "bias": "beta"}[name], array
    if name == "weight" and array.ndim == 4:
        return "kernel", array[:, :, ::-1, ::-1].transpose(2, 3, 1, 0)
    if maps:
        return {"weight": "kernel", "bias": "bias"}[name], _from_map(array)
    return {"weight": "kernel"}.get(name, name), array.transpose()


def _from_map(array: np.ndarray) -> np.ndarray:
    """Takes outputs (c h w, ...) of a map of 4x4 to Keras's (..., h, w, c)."""
    array = array.reshape(-1, 4, 4, *array.shape[1:])[:, ::-1, ::-1]
    return array.transpose(*((3, 1, 2, 0) if array.ndim == 4 else (1, 2, 0)))


def _dense_view(array: np.ndarray, module: Any, start: int) -> np.ndarray:
    """Takes a dense layer's (out, in) kernel or bias from (c, h, w) to (h, w, c)."""
    if module.out_features > 1:  # the generator's; its result is a map
        array = array.reshape(-1, start, start, *array.shape[1:])[:, ::-1, ::-1]
        axes = (3, 1, 2, 0) if array.ndim == 4 else (1, 2, 0)
        return array.transpose(*axes)
    if array.ndim == 1:
        return array
    array = array.reshape(1, -1, start, start)[:, :, ::-1, ::-1]
    return array.transpose(2, 3, 1, 0)


def images(array: np.ndarray) -> Any:
    """Mirrors Keras's images and puts their channels first."""
    array = array[:, ::-1, ::-1].transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(array))


def tokens(array: np.ndarray) -> Any:
    """Makes a tensor of token ids."""
    return torch.from_numpy(array.astype(np.int64))


# --- The step ----------------------------------------------------------------------


class GAN:
    """Two networks and the step of `tf_ttur.GAN` as PyTorch's users write it.

    Args:
        family: "dcgan", "resnet", "text" or "biggan".
        size: Height and width of the images; of text, the number of token ids.
        width: As for `tf_ttur.networks`.
        weights: Initial weights, as "generator/LAYER/VARIABLE", in Keras's layout.
        channels_last: Whether images and kernels have that memory format.
        compiled: Whether `torch.compile` compiles losses and gradients.
    """

    def __init__(
        self,
        family: str,
        size: int,
        width: int,
        weights: Mapping[str, np.ndarray],
        channels_last: bool = False,
        compiled: bool = False,
    ):
        generator, discriminator = NETWORKS[family]
        self.generator = generator(size, width)
        self.discriminator = discriminator(size, width)
        for player in ("generator", "discriminator"):
            network = getattr(self, player)
            views = keras_views(network)
            theirs = {
                key.removeprefix(f"{player}/"): value
                for key, value in weights.items()
                if key.startswith(f"{player}/")
            }
            if views.keys() != theirs.keys():
                raise ValueError(f"{views.keys() ^ theirs.keys()} on one side only")
            for key, view in views.items():
                view[...] = theirs[key].reshape(view.shape)
            if channels_last:
                setattr(self, player, network.to(memory_format=torch.channels_last))
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.size, self.text = size, family == "text"
        self.wasserstein = family in ("resnet", "text")
        self.conditional = family == "biggan"
        if self.wasserstein:
            self._critic_gradients = self._wasserstein_gradients
            if compiled:
                self._critic_gradients = _compiled_wasserstein(self.discriminator)
            self._generator_loss = self._wasserstein_generator
        elif self.conditional:
            self._critic_loss = self._hinge
            self._generator_loss = self._hinge_generator
            if compiled:
                self._critic_loss = torch.compile(self._critic_loss)
        else:
            self._critic_loss = self._cross_entropy
            self._generator_loss = self._non_saturating
            if compiled:
                self._critic_loss = torch.compile(self._critic_loss)
        if compiled:
            self._generator_loss = torch.compile(self._generator_loss)

    def compile(self, discriminator: Any, generator: Any) -> None:
        """Sets the two optimizers, each given as a function of parameters."""
        self.discriminator_optimizer = discriminator(self.discriminator.parameters())
        self.generator_optimizer = generator(self.generator.parameters())

    def latents(self, count: int) -> Any:
        """Draws latents."""
        if self.conditional:
            return torch.randn(count, self.generator.latent_dimension)
        if self.wasserstein:
            return torch.randn(count, 128)
        return torch.rand(count, 100) * 2 - 1

    def step(
        self,
        real: Any,
        draw: Callable[[int], Any] | None = None,
        mix: Any = None,
        draw_labels: Callable[[int], Any] | None = None,
    ) -> dict[str, Any]:
        """Updates the discriminator, then the generator.

        Args:
            real: Images, (n, 3, size, size), or token ids, int64 (n, 32); of BigGAN a
                pair of images and labels, int64 (n,).
            draw: Draws latents; by default `latents`.
            mix: (n,) mixing numbers of the penalty; by default uniform ones.
            draw_labels: Draws labels of generated images; by default uniform ones.

        Returns:
            The losses.
        """
        draw = draw or self.latents
        if self.conditional:
            return self._conditional_step(*real, draw, draw_labels or self.labels)
        count = len(real)
        if self.text:
            real = F.one_hot(real, self.size).float().transpose(1, 2)
        if self.wasserstein:
            with torch.no_grad():
                fake = self.generator(draw(count))
            mix = torch.rand(count) if mix is None else mix
            losses = self._critic_gradients(
                real, fake, mix.view(-1, *[1] * (fake.dim() - 1))
            )
        else:
            fake = self.generator(draw(count))
            loss = self._critic_loss(real, fake.detach())
            loss.backward(inputs=list(self.discriminator.parameters()))
            losses = {"d_loss": loss.detach()}
        self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad()
        # DCGAN updates the generator on the same latents: the pass above is the one.
        given = draw(count) if self.wasserstein else fake
        loss = self._generator_loss(given)
        loss.backward(inputs=list(self.generator.parameters()))
        self.generator_optimizer.step()
        self.generator_optimizer.zero_grad()
        return losses | {"g_loss": loss.detach()}

    def labels(self, count: int) -> Any:
        """Draws labels."""
        return torch.randint(0, CLASSES, (count,))

    def _conditional_step(
        self, real: Any, labels: Any, draw: Any, draw_labels: Any
    ) -> dict[str, Any]:
        count = len(real)
        with torch.no_grad():
            given = draw_labels(count)
            fake = self.generator(draw(count), given)
        loss = self._critic_loss(torch.cat([real, fake]), torch.cat([labels, given]))
        loss.backward(inputs=list(self.discriminator.parameters()))
        self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad()
        losses = {"d_loss": loss.detach()}
        loss = self._generator_loss(draw(count), draw_labels(count))
        loss.backward(inputs=list(self.generator.parameters()))
        self.generator_optimizer.step()
        self.generator_optimizer.zero_grad()
        return losses | {"g_loss": loss.detach()}

    def _hinge(self, images: Any, labels: Any) -> Any:
        real, fake = self.discriminator(images, labels).chunk(2)
        # Not by F.relu, which the check of the arithmetic replaces.
        return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()

    def _hinge_generator(self, latents: Any, labels: Any) -> Any:
        return -self.discriminator(self.generator(latents, labels), labels).mean()

    def _cross_entropy(self, real: Any, fake: Any) -> Any:
        real, fake = self.discriminator(real), self.discriminator(fake)
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def _non_saturating(self, fake: Any) -> Any:
        return F.softplus(-self.discriminator(fake)).mean()

    def _wasserstein_generator(self, latents: Any) -> Any:
        return -self.discriminator(self.generator(latents)).mean()

    def _wasserstein_gradients(self, real: Any, fake: Any, mix: Any) -> dict[str, Any]:
        # Layer norm is each image's own, so real and fake images share one pass.
        scores = self.discriminator(torch.cat([real, fake]))
        score_real, score_fake = scores.chunk(2)
        between = (real + mix * (fake - real)).requires_grad_()
        (gradient,) = torch.autograd.grad(
            self.discriminator(between).sum(), between, create_graph=True
        )
        penalty = 10 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        loss = score_fake.mean() - score_real.mean() + penalty
        loss.backward(inputs=list(self.discriminator.parameters()))
        return {"d_loss": loss.detach(), "gradient_penalty": penalty.detach()}


def _compiled_wasserstein(discriminator: Any) -> Callable[..., dict[str, Any]]:
    """The same by `torch.func`: `torch.compile` takes no double `backward`."""

    def call(parameters: dict[str, Any], images: Any) -> Any:
        return torch.func.functional_call(discriminator, parameters, (images,))

    def losses(parameters: Any, real: Any, fake: Any, mix: Any) -> Any:
        score_real, score_fake = call(parameters, torch.cat([real, fake])).chunk(2)
        gradient = torch.func.grad(lambda images: call(parameters, images).sum())(
            real + mix * (fake - real)
        )
        penalty = 10 * (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        return score_fake.mean() - score_real.mean() + penalty, penalty

    compiled = torch.compile(torch.func.grad_and_value(losses, has_aux=True))

    def gradients(real: Any, fake: Any, mix: Any) -> dict[str, Any]:
        parameters = dict(discriminator.named_parameters())
        values = {name: value.detach() for name, value in parameters.items()}
        found, (loss, penalty) = compiled(values, real, fake, mix)
        for name, parameter in parameters.items():
            parameter.grad = found[name]
        return {"d_loss": loss, "gradient_penalty": penalty}

    return gradients


class Keep(torch.optim.SGD):
    """Gradient descent that keeps the gradients."""

    def step(self) -> None:
        """Updates the parameters."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        self.kept = {parameter: parameter.grad.clone() for parameter in parameters}
        super().step()
