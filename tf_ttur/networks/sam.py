"""The image encoder of Segment Anything (SAM), frozen, as a discriminator's eyes.

A discriminator that learns on top of a frozen encoder starts with features that tell
edges and surfaces apart. Flash-DMD takes SAM's encoder, a Vision Transformer (Kirillov
et al. 2023), and gives heads of their own to maps at several depths, as ADM does: after
the blocks 3, 6, 9 and 12 of ViT-B. Here are the maps; the heads are networks that are
trained.

The encoder is `keras_hub.models.ViTDetBackbone`, with the extra `[hub]`. Its
weights are downloaded by Keras Hub: `sam_base_sa1b` (ViT-B), `sam_large_sa1b`,
`sam_huge_sa1b`.
"""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
from keras import ops

from fid.files import InputError
from tf_ttur.networks import hub

__all__ = ["depths", "encoder", "load", "resizing"]

# How many maps are looked at.
_MAPS = 4
# What the encoder itself takes away from images in [0, 1]: where it is grey for it.
_MEAN = (0.485, 0.456, 0.406)
_ADVICE = (
    "SAM's weights are on Kaggle (keras/sam, Apache 2.0): download a version of "
    "sam_base_sa1b with a network, and give its folder."
)


def load(
    preset: str | os.PathLike[str], image_shape: tuple[int, int, int], **options: Any
) -> keras.Model:
    """Loads SAM's encoder from a preset of Keras Hub, and freezes it.

    Args:
        preset: Its name, such as `"sam_base_sa1b"`, its address, or its folder; of a
            whole SAM, or of the encoder alone.
        image_shape: Shape of an image, (H, W, C), with 1 or 3 channels.
        **options: As `from_preset` of Keras Hub takes them, such as
            `dtype="mixed_bfloat16"`.

    Returns:
        The maps of an image; see `encoder`.

    Raises:
        InputError: Keras Hub is not installed, it cannot load the preset, or that is
            something else.
    """
    found = hub.from_preset("Backbone", preset, _ADVICE, **options)
    return encoder(found, image_shape)


def encoder(backbone: Any, image_shape: tuple[int, int, int]) -> keras.Model:
    """Makes a network that gives the maps of an image at four depths of SAM's encoder.

    An image is treated as SAM treats it. Its longer side becomes the encoder's side,
    by bilinear interpolation, antialiased where it shrinks; what is missing to a square
    is filled at the bottom and the right with what the encoder takes for 0. The mean
    and the deviation of ImageNet's colours are the encoder's own business. Grey is
    repeated.

    Args:
        backbone: A `keras_hub.models.ViTDetBackbone`, or a `SAMBackbone`, whose image
            encoder it is. It is frozen.
        image_shape: Shape of an image, (H, W, C), with 1 or 3 channels.

    Returns:
        A Keras model, frozen and differentiable in its input: images float32 (n, H, W,
        C) in [-1, 1] -> a list of four maps (n, side, side, hidden size), whose side is
        the encoder's over its patch's.

    Raises:
        InputError: It is another kind of network, has fewer than four blocks, or images
            have another number of channels.

    Example:
        >>> import keras_hub, numpy as np
        >>> from tf_ttur.networks import sam
        >>> vit = keras_hub.models.ViTDetBackbone(
        ...     image_shape=(32, 32, 3), patch_size=8, hidden_size=8, num_layers=4,
        ...     global_attention_layer_indices=[3], intermediate_dim=16, num_heads=2,
        ...     window_size=2)
        >>> maps = sam.encoder(vit, (16, 24, 1))(np.zeros((5, 16, 24, 1), "float32"))
        >>> [tuple(x.shape) for x in maps]
        [(5, 4, 4, 8), (5, 4, 4, 8), (5, 4, 4, 8), (5, 4, 4, 8)]
    """
    vit = getattr(backbone, "image_encoder", backbone)
    blocks = [each for each in vit.layers if hasattr(each, "window_size")]
    if len(blocks) != getattr(vit, "num_layers", None):
        raise InputError(
            "SAM's encoder is keras_hub.models.ViTDetBackbone, or the image encoder of "
            f"a SAMBackbone. Received: {type(vit).__name__}."
        )
    taken = depths(len(blocks))
    height, width, channels = image_shape
    if channels not in (1, 3):
        raise InputError(
            "SAM looks at colours: images have 3 channels, or 1 that is repeated. "
            f"Received: the shape {tuple(image_shape)}."
        )
    features = keras.Model(vit.input, [blocks[depth - 1].output for depth in taken])
    images = keras.Input((height, width, channels), name="images")
    x = _prepared(images, vit.input.shape[1])
    network = keras.Model(images, features(x), name="sam")
    network.trainable = False
    return network


def depths(count: int) -> tuple[int, ...]:
    """Returns after which blocks maps are looked at: a quarter, a half, and so on.

    Args:
        count: The encoder's number of blocks.

    Returns:
        Four numbers, from 1 to `count`.

    Raises:
        InputError: There are fewer than four blocks.

    Example:
        >>> from tf_ttur.networks import sam
        >>> sam.depths(12), sam.depths(32)
        ((3, 6, 9, 12), (8, 16, 24, 32))
    """
    if count < _MAPS:
        raise InputError(
            f"Maps are taken at {_MAPS} depths, so the encoder needs as many blocks. "
            f"Received: {count}."
        )
    return tuple(-(-count * part // _MAPS) for part in range(1, _MAPS + 1))


def resizing(before: int, after: int) -> np.ndarray:
    """Returns the matrix that resizes a row of pixels by bilinear interpolation.

    Each new pixel is a mean of old ones with the weights of a triangle, which is as
    wide as two old pixels, or as two new ones where these are wider (antialiasing, as
    in Pillow). A product with a matrix is compiled by XLA and differentiated, which
    TensorFlow's antialiased resizing is not on all devices.

    Args:
        before: The number of old pixels.
        after: The number of new ones.

    Returns:
        Float32 (after, before), whose rows have the sum 1.

    Example:
        >>> from tf_ttur.networks import sam
        >>> sam.resizing(2, 4).tolist()
        [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    step = before / after
    centres = (np.arange(after) + 0.5) * step
    distances = np.abs(np.arange(before) + 0.5 - centres[:, None])
    weights = np.maximum(1.0 - distances / max(step, 1.0), 0.0)
    return (weights / weights.sum(1, keepdims=True)).astype("float32")


def _prepared(images: Any, side: int) -> Any:
    """Makes of images in [-1, 1] what the encoder takes: squares in [0, 1]."""
    height, width, channels = images.shape[1:]
    longer = max(height, width)
    rows, columns = (int(each * side / longer + 0.5) for each in (height, width))
    x = (images + 1.0) / 2.0
    if rows != height:
        x = ops.einsum("ab,nbwc->nawc", resizing(height, rows), x)
    if columns != width:
        x = ops.einsum("ab,nhbc->nhac", resizing(width, columns), x)
    if channels == 1:
        x = ops.repeat(x, 3, axis=-1)
    mean = np.array(_MEAN, "float32")
    missing = [(0, 0), (0, side - rows), (0, side - columns), (0, 0)]
    return ops.pad(x - mean, missing) + mean if side > min(rows, columns) else x
