"""The 2015 Inception network as one function: images to pool_3 and logits.

The layers and their wiring are the table `fid.extractors.graph.NETWORK`. Batch
normalisation is folded into the convolutions, which changes features by about 1e-5 and
saves a pass over every activation. TensorFlow then fuses convolution, bias and ReLU,
and runs them on oneDNN where that is at hand: a third faster than XLA's convolutions on
a CPU, and there is nothing to compile.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fid.extractors.download import find_graph
from fid.extractors.extractor import INCEPTION
from fid.extractors.graph import (
    IMAGE_SIZE,
    NETWORK,
    Concat,
    Conv,
    ConvBlock,
    Layer,
    Pool,
    load_graph,
)
from fid.files import InputError
from fid.mistaken import local_path
from fid.sources.pixels import VALUE_RANGES, ValueRange, range_name, span
from fid.values import Count, checked

__all__ = ["Inception"]


class Inception:
    """Features and logits of the 2015 Inception graph.

    Args:
        path: `classify_image_graph_def.pb`; None looks where
            `fid.extractors.download.find_graph` does.
        batch_size: Images per execution. It changes features by rounding only.
        jit_compile: Whether XLA compiles the network, at the first call. It changes
            features by rounding only.

    Attributes:
        name: "inception_2015".
        dimension: 2048.
        channels: 3.
        batch_size: As given.
        resize_bytes: Images of one size are resized together as long as they take no
            more than this, since they are copied for it.
        fingerprint: SHA-256 of the graph file, hexadecimal.
        protocol: What else decides the features, as JSON values.

    Raises:
        InputError: The graph cannot be found or is not the 2015 graph.

    Example:
        >>> inception = Inception()
        >>> inception(np.zeros([5, 32, 32, 3], np.uint8)).shape
        (5, 2048)
    """

    name = INCEPTION
    dimension = 2048
    channels = 3
    resize_bytes = 64 * 2**20

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        batch_size: int = 50,
        jit_compile: bool = False,
    ):
        batch_size = checked({"batch_size": Count}, batch_size=batch_size)["batch_size"]
        if path is not None:
            path = local_path(path)
        weights = load_graph(find_graph(path))
        self.batch_size = batch_size
        self.fingerprint = weights.sha256
        self.protocol = {
            "resize": "legacy bilinear to 299x299 "
            "(align_corners=False, half_pixel_centers=False)",
            "normalisation": "(x-128)/128",
            "dtype": "float32",
        }
        convs = {name: _fold(block) for name, block in weights.blocks.items()}
        softmax = tf.constant(weights.softmax_weights)

        # Tensors that a function captures enter it as arguments; as constants, they
        # would make tracing and compilation slow.
        @tf.function(
            input_signature=[tf.TensorSpec([None, IMAGE_SIZE, IMAGE_SIZE, 3])],
            jit_compile=jit_compile,
            autograph=False,
        )
        def network(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            features = _forward(NETWORK, (images - 128.0) * 0.0078125, convs)
            features = tf.reshape(features, [-1, self.dimension])
            return features, features @ softmax

        self._network = network
        self._jit_compile = jit_compile

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Returns the pool_3 features of images.

        Args:
            images: One NHWC array or a sequence of HWC arrays of any sizes, RGB,
                uint8 or numbers in [0, 255].

        Returns:
            float32, (n, 2048).

        Raises:
            InputError: The images are empty, of another shape or type, not finite or
                outside [0, 255].
        """
        return self.features_and_logits(images)[0]

    def features_and_logits(
        self, images: np.ndarray | Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pool_3 features of images and the logits of 1008 classes.

        The logits leave out the biases of the softmax layer, as the Inception Score
        of the original code does.

        Args:
            images: As for `__call__`.

        Returns:
            float32 arrays (n, 2048) and (n, 1008).

        Raises:
            InputError: As for `__call__`.
        """
        images = _checked(images)
        results = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            runs = _runs_of_one_size(batch, self.resize_bytes)
            resized = [_resize(run) for run in runs]
            resized = tf.concat(resized, 0) if len(resized) > 1 else resized[0]
            if self._jit_compile:  # Every other number of images is compiled anew.
                missing = self.batch_size - len(batch)
                resized = tf.pad(resized, [(0, missing), (0, 0), (0, 0), (0, 0)])
            with _full_precision():
                features, logits = self._network(resized)
            results.append((features[: len(batch)], logits[: len(batch)]))
        features, logits = zip(*results, strict=True)
        return np.concatenate(features), np.concatenate(logits)

    def classifier_fn(
        self,
        outputs: str | Sequence[str] = "pool_3",
        value_range: ValueRange = "-1,1",
    ) -> Callable[[tf.Tensor], Any]:
        """Returns the network as a function from tensors to tensors.

        It works eagerly and inside of a `tf.function` that XLA does not compile, and
        it is what TF-GAN calls a classifier function: give "pool_3" to
        `tfgan.eval.frechet_classifier_distance` and "logits" to
        `tfgan.eval.classifier_score`, both to `tfgan.eval.run_classifier_fn`.

        Args:
            outputs: "pool_3" (n, 2048) or "logits" (n, 1008; without biases), or a
                sequence of these.
            value_range: What the images span: "-1,1" as TF-GAN's, "0,1" or "0,255", or
                the two numbers.

        Returns:
            A function of images (n, height, width, 3), of any real type. It returns
            one float32 tensor, or, for a sequence of `outputs`, a dictionary of them.
            Values outside of `value_range` end in `tf.errors.InvalidArgumentError`.

        Raises:
            InputError: There is no such output or range.

        Example:
            >>> classifier_fn = Inception().classifier_fn(["pool_3", "logits"])
            >>> found = classifier_fn(tf.zeros([2, 32, 32, 3]))
            >>> {name: tuple(tensor.shape) for name, tensor in found.items()}
            {'pool_3': (2, 2048), 'logits': (2, 1008)}
        """
        wanted = [outputs] if isinstance(outputs, str) else list(outputs)
        if unknown := [name for name in wanted if name not in ("pool_3", "logits")]:
            raise InputError(
                f"The network has no output {unknown[0]!r}; choose pool_3 or logits."
            )
        low, high = VALUE_RANGES[range_name(value_range) or "0,255"]
        scale = 255.0 / (high - low)

        def classify(images: tf.Tensor) -> Any:
            images = tf.cast(images, tf.float32)
            # Neither comparison holds for NaN.
            inside = tf.reduce_all((images >= low) & (images <= high))
            message = f"The images are not finite or not all in [{low:g}, {high:g}]:"
            check = tf.debugging.Assert(inside, [message, images], summarize=3)
            with tf.control_dependencies([check] if check is not None else []):
                resized = _resize((images - low) * scale)
            features, logits = self._network(resized)
            found = {"pool_3": features, "logits": logits}
            if isinstance(outputs, str):
                return found[outputs]
            return {name: found[name] for name in wanted}

        return classify


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    # TensorFloat-32, TensorFlow's default on recent GPUs, changes features by 1e-3.
    allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(allowed)


def _checked(images: Any) -> np.ndarray | list[np.ndarray]:
    if isinstance(images, list | tuple):
        images = [np.asarray(image) for image in images]
    else:
        images = np.asarray(images)
        if images.ndim != 4:
            raise InputError(
                f"The images have shape {images.shape}, expected one NHWC array or a "
                "list of HWC arrays; give a single image a first axis of length 1."
            )
    if len(images) == 0:
        raise InputError("There are no images, expected at least one.")
    for index, image in enumerate(images):
        _check_image(index, image)
    return images


def _check_image(index: int, image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"Image {index} has shape {image.shape}, expected height x width x 3; "
            "convert it to RGB with the channels last."
        )
    if image.dtype == np.uint8:
        return
    if image.dtype.kind not in "uif":
        raise InputError(
            f"Image {index} has dtype {image.dtype}, expected uint8 or numbers in "
            "[0, 255]; convert it."
        )
    low, high = span(image[np.newaxis], "the batch", index)
    if low < 0 or high > 255:
        raise InputError(
            f"Image {index} has values from {low:g} to {high:g}, expected [0, 255]; "
            "rescale the images, for instance (x + 1) * 127.5 for x in [-1, 1]."
        )


def _runs_of_one_size(
    images: np.ndarray | Sequence[np.ndarray], max_bytes: int
) -> Iterator[np.ndarray]:
    # Neighbours of one size are resized together, large ones only a few at a time.
    for _, group in itertools.groupby(images, lambda image: (image.shape, image.dtype)):
        alike = list(group)
        most = max(1, max_bytes // alike[0].nbytes)
        for start in range(0, len(alike), most):
            run = np.stack(alike[start : start + most])
            yield run if run.dtype == np.uint8 else run.astype(np.float32)


def _resize(images: np.ndarray | tf.Tensor) -> tf.Tensor:
    # tf.image.resize puts pixel centres elsewhere, which changes pixels by up to 36
    # grey levels.
    return tf.raw_ops.ResizeBilinear(
        images=images,
        size=[IMAGE_SIZE, IMAGE_SIZE],
        align_corners=False,
        half_pixel_centers=False,
    )


def _fold(block: ConvBlock) -> tuple[tf.Tensor, tf.Tensor]:
    # normalise(conv(x, kernel)) = conv(x, kernel * scale) + bias. It is computed in
    # float64, so that each folded weight is rounded once.
    scale = 1 / np.sqrt(
        block.moving_variance.astype(np.float64) + block.variance_epsilon
    )
    if block.scale_after_normalization:
        scale = scale * block.gamma
    kernel = block.kernel * scale
    bias = block.beta - block.moving_mean * scale
    return tf.constant(kernel, tf.float32), tf.constant(bias, tf.float32)


def _forward(
    layers: Sequence[Layer],
    x: tf.Tensor,
    convs: Mapping[str, tuple[tf.Tensor, tf.Tensor]],
) -> tf.Tensor:
    match layers:
        case [Pool(op="AvgPool") as pool, Conv(kernel=(1, 1, _, _)) as conv]:
            # A mean and a 1x1 convolution commute, and this way round the pool reads
            # a fraction of the channels: about 5 % of the network's time.
            kernel, bias = convs[conv.name]
            return tf.nn.relu(_pool(pool, tf.nn.conv2d(x, kernel, 1, "SAME")) + bias)
    for layer in layers:
        match layer:
            case Conv():
                kernel, bias = convs[layer.name]
                x = tf.nn.conv2d(x, kernel, layer.stride, layer.padding)
                x = tf.nn.relu(x + bias)
            case Pool():
                x = _pool(layer, x)
            case Concat(branches):
                x = tf.concat([_forward(branch, x, convs) for branch in branches], -1)
    return x


def _pool(layer: Pool, x: tf.Tensor) -> tf.Tensor:
    pool = {"MaxPool": tf.nn.max_pool2d, "AvgPool": tf.nn.avg_pool2d}[layer.op]
    return pool(x, layer.size, layer.stride, layer.padding)
