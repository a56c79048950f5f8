"""The 2015 Inception graph: its architecture, and its file verified and read.

The file is `classify_image_graph_def.pb` from `inception-2015-12-05.tgz`. It is
parsed as data and never executed, and every node that the Fréchet Inception
Distance depends on is compared with the table `NETWORK` below, because a similar
Inception gives plausible features and a wrong distance.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from fid.files import InputError, printable
from fid.mistaken import BEGINNING, check_local, other_kind

__all__ = [
    "GRAPH_NAME",
    "IMAGE_SIZE",
    "MAX_GRAPH_BYTES",
    "NETWORK",
    "Concat",
    "Conv",
    "ConvBlock",
    "InceptionWeights",
    "Layer",
    "Pool",
    "conv_layers",
    "load_graph",
    "parse_graph",
]

GRAPH_NAME = "classify_image_graph_def.pb"
IMAGE_SIZE = 299
MAX_GRAPH_BYTES = 128 * 2**20  # The graph has about 96 MB.
_REMEDY = f"Use the {GRAPH_NAME} of inception-2015-12-05.tgz."


# --- The architecture -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution without bias, batch normalisation and a ReLU.

    Attributes:
        name: The node of the ReLU; the other nodes of the block are named below it.
        kernel: Height, width, input channels, output channels.
        stride: The same in both directions.
        padding: "SAME" or "VALID".
    """

    name: str
    kernel: tuple[int, int, int, int]
    stride: int = 1
    padding: str = "SAME"


@dataclasses.dataclass(frozen=True)
class Pool:
    """A pooling layer; average pools leave the padding out of the mean.

    Attributes:
        name: The node.
        op: "MaxPool" or "AvgPool".
        size: Height and width of the window.
        stride: The same in both directions.
        padding: "SAME" or "VALID".
    """

    name: str
    op: str
    size: int = 3
    stride: int = 1
    padding: str = "SAME"


@dataclasses.dataclass(frozen=True)
class Concat:
    """Branches that read the same input, joined along the channels in this order."""

    branches: tuple[tuple[Layer, ...], ...]


Layer = Conv | Pool | Concat


def _chain(scope: str, inputs: int, *layers: str, first: int = 0) -> tuple[Conv, ...]:
    # The convolutions `conv`, `conv_1`, ... follow each other. Each is written as
    # "height x width, outputs" and, where they differ from S/1, padding (S or V) and
    # stride.
    convs = []
    for index, layer in enumerate(layers, first):
        size, outputs, mode = (*layer.split(), "S/1")[:3]
        height, width = map(int, size.split("x"))
        convs.append(
            Conv(
                name=f"{scope}conv_{index}" if index else f"{scope}conv",
                kernel=(height, width, inputs, int(outputs)),
                stride=int(mode[2:]),
                padding={"S": "SAME", "V": "VALID"}[mode[0]],
            )
        )
        inputs = int(outputs)
    return tuple(convs)


def _mixed_35(name: str, inputs: int, projection: int) -> Concat:
    """The modules at 35 x 35."""
    return Concat(
        (
            _chain(f"{name}/", inputs, "1x1 64"),
            _chain(f"{name}/tower/", inputs, "1x1 48", "5x5 64"),
            _chain(f"{name}/tower_1/", inputs, "1x1 64", "3x3 96", "3x3 96"),
            (
                Pool(f"{name}/tower_2/pool", "AvgPool"),
                *_chain(f"{name}/tower_2/", inputs, f"1x1 {projection}"),
            ),
        )
    )


def _mixed_17(name: str, c: int) -> Concat:
    """The modules at 17 x 17, whose 7 x 7 convolutions are factorised."""
    return Concat(
        (
            _chain(f"{name}/", 768, "1x1 192"),
            _chain(f"{name}/tower/", 768, f"1x1 {c}", f"1x7 {c}", "7x1 192"),
            _chain(
                f"{name}/tower_1/",
                768,
                *(f"1x1 {c}", f"7x1 {c}", f"1x7 {c}", f"7x1 {c}", "1x7 192"),
            ),
            (
                Pool(f"{name}/tower_2/pool", "AvgPool"),
                *_chain(f"{name}/tower_2/", 768, "1x1 192"),
            ),
        )
    )


def _mixed_8(name: str, inputs: int, pool: str) -> Concat:
    """The modules at 8 x 8, whose towers end in two branches."""

    def fork(scope: str) -> Concat:
        wide, tall = _chain(f"{scope}/", 384, "1x3 384", "3x1 384")
        return Concat(((wide,), (tall,)))

    return Concat(
        (
            _chain(f"{name}/", inputs, "1x1 320"),
            (
                *_chain(f"{name}/tower/", inputs, "1x1 384"),
                fork(f"{name}/tower/mixed"),
            ),
            (
                *_chain(f"{name}/tower_1/", inputs, "1x1 448", "3x3 384"),
                fork(f"{name}/tower_1/mixed"),
            ),
            (
                Pool(f"{name}/tower_2/pool", pool),
                *_chain(f"{name}/tower_2/", inputs, "1x1 192"),
            ),
        )
    )


NETWORK: tuple[Layer, ...] = (
    *_chain("", 3, "3x3 32 V/2", "3x3 32 V/1", "3x3 64"),
    Pool("pool", "MaxPool", stride=2, padding="VALID"),
    *_chain("", 64, "1x1 80", "3x3 192 V/1", first=3),
    Pool("pool_1", "MaxPool", stride=2, padding="VALID"),
    _mixed_35("mixed", 192, projection=32),
    _mixed_35("mixed_1", 256, projection=64),
    _mixed_35("mixed_2", 288, projection=64),
    Concat(
        (
            _chain("mixed_3/", 288, "3x3 384 V/2"),
            _chain("mixed_3/tower/", 288, "1x1 64", "3x3 96", "3x3 96 V/2"),
            (Pool("mixed_3/pool", "MaxPool", stride=2, padding="VALID"),),
        )
    ),
    _mixed_17("mixed_4", 128),
    _mixed_17("mixed_5", 160),
    _mixed_17("mixed_6", 160),
    _mixed_17("mixed_7", 192),
    Concat(
        (
            _chain("mixed_8/tower/", 768, "1x1 192", "3x3 320 V/2"),
            _chain(
                "mixed_8/tower_1/", 768, "1x1 192", "1x7 192", "7x1 192", "3x3 192 V/2"
            ),
            (Pool("mixed_8/pool", "MaxPool", stride=2, padding="VALID"),),
        )
    ),
    _mixed_8("mixed_9", 1280, pool="AvgPool"),
    # This is believed to be a slip of 2015, and is part of the metric ever since.
    _mixed_8("mixed_10", 2048, pool="MaxPool"),
    Pool("pool_3", "AvgPool", size=8, padding="VALID"),
)


def conv_layers(layers: Sequence[Layer] = NETWORK) -> Iterator[Conv]:
    """Yields the convolutions of a network in the order of the graph.

    Args:
        layers: The network; by default all 94 blocks of the 2015 graph.

    Yields:
        Each `Conv`.
    """
    for layer in layers:
        if isinstance(layer, Conv):
            yield layer
        elif isinstance(layer, Concat):
            for branch in layer.branches:
                yield from conv_layers(branch)


# --- The weights ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ConvBlock:
    """The weights of one convolution block as the file has them.

    Attributes:
        name: The block's node.
        kernel: float32, height x width x inputs x outputs.
        beta: float32, (outputs,); as are gamma, moving_mean and moving_variance.
        gamma: Used only if `scale_after_normalization`.
        moving_mean: Subtracted before scaling.
        moving_variance: Not negative.
        variance_epsilon: Added to the variance.
        scale_after_normalization: Whether gamma multiplies the normalised value.
    """

    name: str
    kernel: np.ndarray
    beta: np.ndarray
    gamma: np.ndarray
    moving_mean: np.ndarray
    moving_variance: np.ndarray
    variance_epsilon: float
    scale_after_normalization: bool


@dataclasses.dataclass(frozen=True)
class InceptionWeights:
    """All weights of the 2015 graph.

    Attributes:
        blocks: The 94 convolution blocks by name, in the order of the graph.
        softmax_weights: float32, (2048, 1008).
        softmax_biases: float32, (1008,).
        sha256: Of the file's bytes, hexadecimal.
        path: The file.
    """

    blocks: Mapping[str, ConvBlock]
    softmax_weights: np.ndarray
    softmax_biases: np.ndarray
    sha256: str
    path: pathlib.Path


def load_graph(path: str | os.PathLike[str]) -> InceptionWeights:
    """Reads and verifies `classify_image_graph_def.pb`.

    Op types, attributes, wiring and shapes of all nodes up to the logits are
    compared with `NETWORK` before any weight is expanded, so that a file which
    declares enormous tensors costs no memory.

    Args:
        path: The file.

    Returns:
        The weights, all finite.

    Raises:
        InputError: The file cannot be read or is not the 2015 Inception graph.
    """
    path = pathlib.Path(path)
    return parse_graph(_read_bytes(path), path, where=printable(path))


def parse_graph(data: bytes, path: pathlib.Path, where: str) -> InceptionWeights:
    """Verifies the bytes of a graph, which need not be in a file yet.

    Args:
        data: What `load_graph` would read.
        path: Goes into the result.
        where: What to call the bytes in messages.

    Returns:
        The weights, all finite.

    Raises:
        InputError: They are not the 2015 Inception graph.
    """
    graph = _Graph(where, _parse(data, where))
    _check_input(graph)
    outputs = _check_layers(graph, NETWORK, ("Mul",))
    _check_logits(graph, outputs)
    return InceptionWeights(
        blocks={layer.name: _read_block(graph, layer) for layer in conv_layers()},
        softmax_weights=graph.floats("softmax/weights"),
        softmax_biases=graph.floats("softmax/biases"),
        sha256=hashlib.sha256(data).hexdigest(),
        path=path,
    )


# --- From bytes to nodes --------------------------------------------------------

# Other files are often found in place of the graph, and those of `fid.mistaken`. Their
# first bytes, in lower case, tell them.
_ARCHIVES = (
    (b"\x1f\x8b", "a gzip archive", f"Extract it: tar xzf FILE {GRAPH_NAME}"),
    (b"pk\x03\x04", "a zip archive", f"Extract {GRAPH_NAME} from it."),
    (b"\x89hdf", "an HDF5 file", "Keras weights cannot stand in for the graph."),
)


def _read_bytes(path: pathlib.Path) -> bytes:
    label = printable(path)
    check_local(path)
    if path.is_dir():
        raise InputError(
            f"{label} is a folder, expected the file {GRAPH_NAME}; name the file in it."
        )
    if not path.exists():
        raise InputError(f"{label} does not exist, expected the 2015 graph. {_REMEDY}")
    if not path.is_file():  # A pipe or a device might never end.
        raise InputError(f"{label} is not a regular file. {_REMEDY}")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_GRAPH_BYTES + 1)
    except OSError as error:
        raise InputError(f"Cannot read {label}: {error.strerror or error}.") from error
    if not data:
        raise InputError(
            f"{label} has zero bytes, expected about 96 MB: the download was probably "
            f"interrupted. {_REMEDY}"
        )
    if len(data) > MAX_GRAPH_BYTES:
        raise InputError(
            f"{label} has more than {MAX_GRAPH_BYTES:,} bytes, expected about 96 MB. "
            f"{_REMEDY}"
        )
    return data


def _parse(data: bytes, where: str) -> Any:
    # Imported here so that finding a graph does not wait for TensorFlow.
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import graph_pb2

    beginning = data[:BEGINNING].lower()
    archives = (found for prefix, *found in _ARCHIVES if beginning.startswith(prefix))
    if found := other_kind(data) or next(archives, None):
        what, advice = found
        raise InputError(f"{where} is {what}, not a GraphDef. {advice} {_REMEDY}")
    try:
        return graph_pb2.GraphDef.FromString(data)
    except DecodeError as error:
        raise InputError(
            f"{where} ({len(data):,} bytes) cannot be parsed as a GraphDef, expected "
            f"about 96 MB: it is truncated or another kind of file. {_REMEDY}"
        ) from error


class _Graph:
    """The nodes of one file by name, with refusals that say which node is wrong."""

    # These operations hand their input on; the file has CheckNumerics and Identity
    # between batch normalisation and ReLU.
    _TRANSPARENT = ("CheckNumerics", "Identity")

    def __init__(self, where: str, graph_def: Any):
        self.where = where
        self._nodes = {node.name: node for node in graph_def.node}
        if len(self._nodes) != len(graph_def.node):
            raise InputError(f"{where} has several nodes of one name. {_REMEDY}")

    def refuse(self, name: str, found: Any, expected: Any) -> NoReturn:
        """Raises an InputError about the node `name`."""
        found, expected = (
            text if len(text) <= 160 else f"{text[:160]}..."
            for text in (str(found), str(expected))
        )
        raise InputError(
            f"{self.where}: node {name[:160]!r} has {found}, expected {expected}. "
            f"{_REMEDY}"
        )

    def node(self, name: str, op: str | None = None) -> Any:
        """Returns the node `name`, which must be of type `op` where that is given."""
        if name not in self._nodes:
            first = next(iter(self._nodes), "")
            raise InputError(
                f"{self.where}: node {name[:160]!r} is missing among the file's "
                f"{len(self._nodes)} nodes, the first of which is {first[:80]!r}: this "
                f"is another graph (another Inception?) or a truncated file. {_REMEDY}"
            )
        node = self._nodes[name]
        if op is not None and node.op != op:
            self.refuse(name, f"op {node.op!r}", repr(op))
        return node

    def inputs(self, node: Any, count: int) -> list[str]:
        """Returns the names of the `count` nodes that `node` reads."""
        names = _data_inputs(node)
        if len(names) != count:
            self.refuse(node.name, f"{len(names)} inputs", count)
        return names

    def expect(self, node: Any, **attributes: Any) -> None:
        """Refuses `node` unless its attributes have these values.

        An attribute that the file leaves out has the value in `_DEFAULTS`.
        """
        for key, expected in attributes.items():
            found = _attribute(node, key)
            if found != expected:
                self.refuse(node.name, f"{key} {found!r}", repr(expected))

    def expect_source(self, node: Any, source: str, expected: tuple[str, ...]) -> None:
        """Refuses `node` unless `source` carries `expected`, joined in this order."""
        pending, found = [source], []
        # An honest join needs far fewer visits; a cycle ends here.
        for _ in range(64):
            if not pending:
                break
            current = self.node(pending.pop())
            if current.op in self._TRANSPARENT:
                pending += self.inputs(current, 1)
            elif current.op == "Concat":
                axis, *parts = _data_inputs(current) or [""]
                self.expect_number(axis, 3)
                pending += reversed(parts)
            else:
                found.append(current.name)
        if tuple(found) != expected or pending:
            more = ", ..." if pending else ""
            self.refuse(
                node.name,
                f"input {', '.join(map(repr, found))}{more}",
                ", ".join(map(repr, expected)),
            )

    def expect_floats(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuses the Const `name` unless it is declared as float32 of this shape."""
        from tensorflow.core.framework import types_pb2

        tensor = self.node(name, "Const").attr["value"].tensor
        if tensor.dtype != types_pb2.DT_FLOAT:
            self.refuse(name, f"data type {tensor.dtype}", "1 (float32)")
        found = _shape(tensor)
        if found != shape:
            self.refuse(name, f"shape {found}", shape)

    def floats(self, name: str) -> np.ndarray:
        """Expands the Const `name`, whose shape and type have been checked."""
        tensor = self.node(name, "Const").attr["value"].tensor
        shape = _shape(tensor)
        size = math.prod(shape)
        if tensor.tensor_content:
            if len(tensor.tensor_content) != 4 * size:
                self.refuse(
                    name, f"{len(tensor.tensor_content)} bytes of values", 4 * size
                )
            values = np.frombuffer(tensor.tensor_content, "<f4")
        else:
            values = np.asarray(tensor.float_val, np.float32)
            # As everywhere in TensorFlow, one stored value fills a tensor.
            if values.size == 1:
                values = np.full(size, values[0])
            elif values.size != size:
                self.refuse(name, f"{values.size} values", size)
        if not np.isfinite(values).all():
            self.refuse(name, "NaN or infinite values", "finite weights")
        return values.reshape(shape)

    def expect_number(self, name: str, expected: float) -> None:
        """Refuses the Const `name` unless it holds this one number, in any shape."""
        tensor = self.node(name, "Const").attr["value"].tensor
        found = _numbers(tensor)
        if found != [expected]:
            self.refuse(name, f"value {found}", expected)


_DEFAULTS = {
    "align_corners": False,
    "half_pixel_centers": False,
    "data_format": "NHWC",
    "dilations": [1, 1, 1, 1],
    "transpose_a": False,
    "transpose_b": False,
}


def _attribute(node: Any, key: str) -> Any:
    if key not in node.attr:
        return _DEFAULTS.get(key)
    value = node.attr[key]
    match value.WhichOneof("value"):
        case "s":
            return value.s.decode("ascii", "replace")
        case "list":
            return list(value.list.i)
        case "f" | "b" | "i" as kind:
            return getattr(value, kind)
        case _:
            return None


def _data_inputs(node: Any) -> list[str]:
    return [name.removesuffix(":0") for name in node.input if name[:1] != "^"]


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(dim.size for dim in tensor.tensor_shape.dim)


def _numbers(tensor: Any) -> list[float]:
    # At most two are read: only the small constants in front of the network need it.
    from tensorflow.core.framework import types_pb2

    wire = {types_pb2.DT_FLOAT: "<f4", types_pb2.DT_INT32: "<i4"}.get(tensor.dtype)
    if wire is None or len(tensor.tensor_content) > 8:
        return []
    if tensor.tensor_content:
        if len(tensor.tensor_content) % 4:
            return []
        return np.frombuffer(tensor.tensor_content, wire).tolist()
    return list(tensor.float_val[:2]) or list(tensor.int_val[:2])


# --- Comparison with the table --------------------------------------------------


def _check_input(graph: _Graph) -> None:
    resize = graph.node("ResizeBilinear", "ResizeBilinear")
    graph.expect(resize, align_corners=False, half_pixel_centers=False)
    source, size = graph.inputs(resize, 2)
    graph.expect_source(resize, source, ("ExpandDims",))
    found = _numbers(graph.node(size, "Const").attr["value"].tensor)
    if found != [IMAGE_SIZE, IMAGE_SIZE]:
        graph.refuse(size, f"value {found}", [IMAGE_SIZE, IMAGE_SIZE])

    for name, source, constant in (
        ("Sub", "ResizeBilinear", 128.0),
        ("Mul", "Sub", 0.0078125),
    ):
        node = graph.node(name, name)
        value, operand = graph.inputs(node, 2)
        graph.expect_source(node, value, (source,))
        graph.expect_number(operand, constant)


def _check_layers(
    graph: _Graph, layers: Sequence[Layer], source: tuple[str, ...]
) -> tuple[str, ...]:
    """Returns the nodes that, joined along the channels, are the layers' output."""
    for layer in layers:
        match layer:
            case Conv():
                _check_conv(graph, layer, source)
                source = (layer.name,)
            case Pool():
                _check_pool(graph, layer, source)
                source = (layer.name,)
            case Concat(branches):
                source = tuple(
                    name
                    for branch in branches
                    for name in _check_layers(graph, branch, source)
                )
    return source


def _check_conv(graph: _Graph, layer: Conv, source: tuple[str, ...]) -> None:
    name = layer.name
    relu = graph.node(name, "Relu")
    graph.expect_source(relu, *graph.inputs(relu, 1), (f"{name}/batchnorm",))

    norm = graph.node(f"{name}/batchnorm", "BatchNormWithGlobalNormalization")
    conv_output, *parameters = graph.inputs(norm, 5)
    graph.expect_source(norm, conv_output, (f"{name}/Conv2D",))
    order = ("moving_mean", "moving_variance", "beta", "gamma")
    for parameter, key in zip(parameters, order, strict=True):
        graph.expect_source(norm, parameter, (f"{name}/batchnorm/{key}",))
        graph.expect_floats(f"{name}/batchnorm/{key}", (layer.kernel[-1],))
    epsilon = _attribute(norm, "variance_epsilon")
    if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
        graph.refuse(norm.name, f"variance_epsilon {epsilon!r}", "about 0.001")
    scale = _attribute(norm, "scale_after_normalization")
    if not isinstance(scale, bool):
        graph.refuse(norm.name, f"scale_after_normalization {scale!r}", "a bool")

    conv = graph.node(f"{name}/Conv2D", "Conv2D")
    image, kernel = graph.inputs(conv, 2)
    graph.expect_source(conv, image, source)
    graph.expect_source(conv, kernel, (f"{name}/conv2d_params",))
    graph.expect_floats(f"{name}/conv2d_params", layer.kernel)
    graph.expect(
        conv,
        strides=[1, layer.stride, layer.stride, 1],
        data_format="NHWC",
        dilations=[1, 1, 1, 1],
    )
    if layer.kernel[:2] != (1, 1):  # For 1x1, both paddings are the same.
        graph.expect(conv, padding=layer.padding)


def _check_pool(graph: _Graph, layer: Pool, source: tuple[str, ...]) -> None:
    node = graph.node(layer.name, layer.op)
    graph.expect_source(node, *graph.inputs(node, 1), source)
    graph.expect(
        node,
        ksize=[1, layer.size, layer.size, 1],
        padding=layer.padding,
        data_format="NHWC",
    )
    if layer.size < 8:  # The last pool has a single window, whatever its stride.
        graph.expect(node, strides=[1, layer.stride, layer.stride, 1])


def _check_logits(graph: _Graph, source: tuple[str, ...]) -> None:
    product = graph.node("softmax/logits/MatMul", "MatMul")
    graph.expect(product, transpose_a=False, transpose_b=False)
    flat, weights = graph.inputs(product, 2)
    reshape = graph.node(flat, "Reshape")
    graph.expect_source(reshape, graph.inputs(reshape, 2)[0], source)
    graph.expect_source(product, weights, ("softmax/weights",))
    graph.expect_floats("softmax/weights", (2048, 1008))
    graph.expect_floats("softmax/biases", (1008,))


def _read_block(graph: _Graph, layer: Conv) -> ConvBlock:
    norm = graph.node(f"{layer.name}/batchnorm")
    block = ConvBlock(
        name=layer.name,
        kernel=graph.floats(f"{layer.name}/conv2d_params"),
        beta=graph.floats(f"{norm.name}/beta"),
        gamma=graph.floats(f"{norm.name}/gamma"),
        moving_mean=graph.floats(f"{norm.name}/moving_mean"),
        moving_variance=graph.floats(f"{norm.name}/moving_variance"),
        variance_epsilon=_attribute(norm, "variance_epsilon"),
        scale_after_normalization=_attribute(norm, "scale_after_normalization"),
    )
    smallest = block.moving_variance.min()
    if smallest < 0 or smallest + block.variance_epsilon <= 0:
        graph.refuse(f"{norm.name}/moving_variance", f"{smallest}", "values above 0")
    return block
