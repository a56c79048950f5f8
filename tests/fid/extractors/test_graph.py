import hashlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import synthetic_graph
import tensorflow as tf
from repository import ROOT
from tensorflow.core.framework import graph_pb2

from fid.extractors import graph
from fid.files import InputError, printable

NAME = "classify_image_graph_def.pb"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Bytes of a valid graph whose tensors store one value each."""
    path = tmp_path_factory.mktemp("small") / NAME
    return synthetic_graph.write_synthetic_graph(path, splat=True).read_bytes()


def refusal(path):
    with pytest.raises(InputError) as caught:
        graph.load_graph(path)
    message = str(caught.value)
    assert "\n" not in message
    assert printable(path) in message
    return message


# --- What is accepted


def test_weights_are_those_of_the_file(synthetic_pb):
    weights = graph.load_graph(synthetic_pb)
    blocks = weights.blocks.values()
    assert len(blocks) == 94
    assert sum(block.beta.size for block in blocks) == 17_216
    assert sum(block.kernel.size for block in blocks) == 21_751_136
    assert weights.softmax_weights.size + weights.softmax_biases.size == 2_065_392
    keras_no_top = sum(
        block.kernel.size + block.beta.size * 3 for block in weights.blocks.values()
    )
    assert keras_no_top == 21_802_784
    assert weights.sha256 == hashlib.sha256(synthetic_pb.read_bytes()).hexdigest()
    assert weights.path == synthetic_pb

    oracle = synthetic_graph.v1_run(
        synthetic_pb,
        [np.zeros([1, 1, 3])],
        [
            "mixed_9/tower_1/mixed/conv/conv2d_params:0",
            "mixed_9/tower_1/mixed/conv/batchnorm/moving_variance:0",
            "softmax/biases:0",
        ],
    )
    block = weights.blocks["mixed_9/tower_1/mixed/conv"]
    np.testing.assert_array_equal(block.kernel, oracle[0])
    np.testing.assert_array_equal(block.moving_variance, oracle[1])
    np.testing.assert_array_equal(weights.softmax_biases, oracle[2])
    assert block.variance_epsilon == pytest.approx(0.001)
    assert block.scale_after_normalization


def test_the_table_is_the_published_architecture():
    layers = {layer.name: layer for layer in graph.conv_layers()}
    assert len(layers) == 94
    expected = {
        "conv": ((3, 3, 3, 32), 2, "VALID"),
        "conv_3": ((1, 1, 64, 80), 1, "SAME"),
        "mixed_2/tower_2/conv": ((1, 1, 288, 64), 1, "SAME"),
        "mixed_3/conv": ((3, 3, 288, 384), 2, "VALID"),
        "mixed_5/tower/conv_1": ((1, 7, 160, 160), 1, "SAME"),
        "mixed_7/tower_1/conv_3": ((7, 1, 192, 192), 1, "SAME"),
        "mixed_8/tower_1/conv_3": ((3, 3, 192, 192), 2, "VALID"),
        "mixed_10/tower/mixed/conv_1": ((3, 1, 384, 384), 1, "SAME"),
    }
    for name, (kernel, stride, padding) in expected.items():
        assert layers[name] == graph.Conv(name, kernel, stride, padding)


def test_float_val_and_nested_joins_are_accepted(tmp_path, small):
    definition = graph_pb2.GraphDef.FromString(small)
    nodes = {node.name: node for node in definition.node}
    beta = nodes["conv/batchnorm/beta"].attr["value"].tensor
    beta.ClearField("tensor_content")
    beta.ClearField("float_val")
    beta.float_val.extend(range(32))
    join = nodes["mixed_10/join"]
    inner = definition.node.add(name="mixed_10/tower/mixed/join", op="Concat")
    inner.input.extend(["mixed_10/join/concat_dim", *join.input[2:4]])
    join.input[:] = [*join.input[:2], inner.name, *join.input[4:]]
    path = tmp_path / NAME
    path.write_bytes(definition.SerializeToString())
    blocks = graph.load_graph(path).blocks
    np.testing.assert_array_equal(blocks["conv"].beta, np.arange(32))


def test_importing_does_not_import_tensorflow():
    code = "import sys, fid.extractors.graph; sys.exit('tensorflow' in sys.modules)"
    root = ROOT
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


# --- Files that are something else


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        (b"", ["zero bytes", "interrupted"]),
        (b"\n<!DOCTYPE html><html></html>", ["HTML page", "redirected"]),
        (b"<html><body>404", ["HTML page", "redirected"]),
        (b"\x1f\x8b\x08\x00 archive", ["gzip archive", "Extract it: tar xzf"]),
        (b"PK\x03\x04 archive", ["zip archive", "Extract"]),
        (b"version https://git-lfs.github.com/spec/v1", ["Git LFS", "git lfs pull"]),
        (bytes(range(1, 255)) * 9, ["cannot be parsed", "2,286 bytes"]),
    ],
    ids=["empty", "doctype", "html", "tgz", "zip", "lfs", "noise"],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, fragments):
    path = tmp_path / NAME
    path.write_bytes(content)
    message = refusal(path)
    for fragment in fragments:
        assert fragment in message


def test_missing_folder_and_too_large(tmp_path):
    assert "does not exist" in refusal(tmp_path / "missing.pb")
    assert refusal(tmp_path / "a\nb").isprintable()
    assert "is a folder" in refusal(tmp_path)
    assert "not a regular file" in refusal(pathlib.Path("/dev/zero"))
    path = tmp_path / NAME
    path.touch()
    os.truncate(path, graph.MAX_GRAPH_BYTES + 1)  # It takes no room on the disk.
    assert "more than" in refusal(path)


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_truncated(tmp_path, small, fraction):
    path = tmp_path / NAME
    path.write_bytes(small[: int(len(small) * fraction)])
    assert "truncated" in refusal(path)


def test_truncated_between_nodes(tmp_path, small):
    definition = graph_pb2.GraphDef.FromString(small)
    del definition.node[500:]
    path = tmp_path / NAME
    path.write_bytes(definition.SerializeToString())
    message = refusal(path)
    assert "is missing among the file's 500 nodes" in message
    assert "truncated" in message


def test_another_inception(tmp_path, small):
    definition = graph_pb2.GraphDef.FromString(small)
    for node in definition.node:
        node.name = f"InceptionV3/{node.name}"
    path = tmp_path / NAME
    path.write_bytes(definition.SerializeToString())
    message = refusal(path)
    assert "'InceptionV3/DecodeJpeg/contents'" in message
    assert "another Inception" in message


def test_a_retrained_graph(tmp_path, small):
    # What the retraining tutorial leaves: the body, and a classifier of its own.
    definition = graph_pb2.GraphDef.FromString(small)
    kept = [node for node in definition.node if not node.name.startswith("softmax")]
    del definition.node[:]
    definition.node.extend(kept)
    definition.node.add(name="final_result", op="Softmax", input=["pool_3/_reshape"])
    path = tmp_path / NAME
    path.write_bytes(definition.SerializeToString())
    assert "node 'softmax/logits/MatMul' is missing" in refusal(path)


def test_a_graph_of_keras(tmp_path):
    # As `tf.function` traces a Keras Inception: other ops under other names.
    with tf.Graph().as_default() as traced:
        x = tf.compat.v1.placeholder(tf.float32, [None, 299, 299, 3], name="x")
        kernel = tf.zeros([3, 3, 3, 32], name="inception_v3/conv2d/kernel")
        tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "VALID"), name="inception_v3/relu")
    path = tmp_path / NAME
    path.write_bytes(traced.as_graph_def().SerializeToString())
    message = refusal(path)
    assert "the first of which is 'x'" in message
    assert "another Inception" in message


# --- Graphs that differ in one place


def op(value):
    return lambda node: setattr(node, "op", value)


def text(key, value):
    return lambda node: setattr(node.attr[key], "s", value)


def number(value):
    def change(node):
        tensor = node.attr["value"].tensor
        kind = "float_val" if tensor.float_val else "int_val"
        getattr(tensor, kind)[:] = [value]

    return change


def ints(key, *values):
    def change(node):
        del node.attr[key].list.i[:]
        node.attr[key].list.i.extend(values)

    return change


def flag(key, value=True):
    return lambda node: setattr(node.attr[key], "b", value)


def swap(first, second):
    def change(node):
        inputs = list(node.input)
        inputs[first], inputs[second] = inputs[second], inputs[first]
        node.input[:] = inputs

    return change


def reads(*inputs):
    def change(node):
        node.input[:] = inputs

    return change


def dims(*sizes):
    def change(node):
        tensor = node.attr["value"].tensor
        tensor.tensor_shape.ClearField("dim")
        for size in sizes:
            tensor.tensor_shape.dim.add(size=size)

    return change


def content(data):
    def change(node):
        tensor = node.attr["value"].tensor
        tensor.ClearField("float_val")
        tensor.tensor_content = data

    return change


def epsilon(value):
    return lambda node: setattr(node.attr["variance_epsilon"], "f", value)


def kind(value):
    return lambda node: setattr(node.attr["value"].tensor, "dtype", value)


def drop(key):
    return lambda node: node.attr.pop(key)


def rename(name):
    return lambda node: setattr(node, "name", name)


@pytest.mark.parametrize(
    ("name", "change", "fragment"),
    [
        ("mixed_10/tower_2/pool", op("AvgPool"), "op 'AvgPool', expected 'MaxPool'"),
        ("mixed_9/tower_2/pool", op("MaxPool"), "op 'MaxPool', expected 'AvgPool'"),
        ("conv_4", op("Elu"), "op 'Elu'"),
        ("mixed_3/pool", text("padding", b"SAME"), "expected 'VALID'"),
        ("mixed_8/pool", ints("ksize", 1, 2, 2, 1), "ksize [1, 2, 2, 1]"),
        ("pool", ints("strides", 1, 1, 1, 1), "strides [1, 1, 1, 1]"),
        ("pool_3", ints("ksize", 1, 7, 7, 1), "ksize [1, 7, 7, 1]"),
        ("conv/Conv2D", ints("strides", 1, 1, 1, 1), "expected [1, 2, 2, 1]"),
        ("conv_2/Conv2D", text("padding", b"VALID"), "expected 'SAME'"),
        ("conv_2/Conv2D", text("data_format", b"NCHW"), "expected 'NHWC'"),
        ("conv_2/Conv2D", ints("dilations", 1, 2, 2, 1), "dilations"),
        ("conv_2/Conv2D", reads("conv_1"), "1 inputs, expected 2"),
        ("conv_2/Conv2D", swap(0, 1), "expected 'conv_1'"),
        ("conv_1/Conv2D", reads("conv", "conv/conv2d_params"), "conv/conv2d_params"),
        (
            "conv/Conv2D",
            reads("Sub", "conv/conv2d_params"),
            "input 'Sub', expected 'Mul'",
        ),
        ("conv_1/batchnorm", swap(3, 4), "batchnorm/gamma', expected 'conv_1/b"),
        ("conv_1/batchnorm", swap(1, 2), "moving_variance', expected 'conv_1/"),
        ("conv_1/batchnorm", epsilon(-1.0), "variance_epsilon -1.0"),
        ("conv_1/batchnorm", epsilon(float("nan")), "variance_epsilon nan"),
        ("conv_1/batchnorm", drop("variance_epsilon"), "variance_epsilon None"),
        ("conv_1/batchnorm", drop("scale_after_normalization"), "None"),
        ("conv_1/batchnorm", op("FusedBatchNorm"), "'BatchNormWithGlobalNorm"),
        ("conv_1/conv2d_params", dims(10**9, 10**9, 10**9), "shape (1000000000"),
        ("conv_1/conv2d_params", dims(3, 3, 32, -1), "shape (3, 3, 32, -1)"),
        ("conv_1/conv2d_params", kind(2), "data type 2, expected 1 (float32)"),
        ("conv_1/conv2d_params", kind(9999), "data type 9999"),
        ("conv_1/conv2d_params", op("Placeholder"), "'Placeholder'"),
        ("softmax/weights", dims(2048, 1000), "expected (2048, 1008)"),
        ("softmax/biases", dims(1000), "expected (1008,)"),
        ("softmax/logits/MatMul", flag("transpose_b"), "transpose_b True"),
        ("conv_1/conv2d_params", content(b"1234"), "4 bytes of values"),
        ("conv_1/conv2d_params", content(b""), "0 values, expected 9216"),
        ("conv_1/conv2d_params", number(float("nan")), "NaN or infinite"),
        ("softmax/weights", number(float("inf")), "NaN or infinite"),
        ("conv/batchnorm/moving_variance", number(-1.0), "-1.0, expected values"),
        ("ResizeBilinear", flag("align_corners"), "align_corners True"),
        ("ResizeBilinear", flag("half_pixel_centers"), "half_pixel_centers True"),
        ("ResizeBilinear/size", content(b"\0" * 8), "value [0, 0]"),
        ("Sub/y", number(127.5), "value [127.5], expected 128"),
        ("Mul/y", number(0.5), "value [0.5], expected 0.0078125"),
        ("Sub", op("Add"), "op 'Add', expected 'Sub'"),
        ("mixed_4/join/concat_dim", number(1), "value [1], expected 3"),
        ("conv_1", rename("conv_1" + "x" * 10**6), "missing"),
        ("conv_1", op("x\n" * 10**6), "..."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_difference_is_refused_by_node(tmp_path, small, name, change, fragment):
    definition = graph_pb2.GraphDef.FromString(small)
    change(next(node for node in definition.node if node.name == name))
    path = tmp_path / NAME
    path.write_bytes(definition.SerializeToString())
    message = refusal(path)
    assert f"node {name!r}" in message
    assert fragment in message
    assert len(message) < 1000


def test_the_order_of_a_join_is_checked_by_its_reader(tmp_path, small):
    definition = graph_pb2.GraphDef.FromString(small)
    nodes = {node.name: node for node in definition.node}
    swap(1, 2)(nodes["mixed_10/join"])
    path = tmp_path / NAME
    path.write_bytes(definition.SerializeToString())
    assert "node 'pool_3'" in refusal(path)


def test_cycles_and_expanding_joins_end(tmp_path, small):
    definition = graph_pb2.GraphDef.FromString(small)
    nodes = {node.name: node for node in definition.node}
    path = tmp_path / NAME
    nodes["conv/control_dependency"].input[:] = ["conv/control_dependency"]
    path.write_bytes(definition.SerializeToString())
    assert "node 'conv'" in refusal(path)

    definition = graph_pb2.GraphDef.FromString(small)
    nodes = {node.name: node for node in definition.node}
    axis = "mixed/join/concat_dim"
    nodes["mixed/join"].input[:] = [axis, *["mixed/join"] * 100]
    path.write_bytes(definition.SerializeToString())
    assert "node 'mixed_1/conv/Conv2D'" in refusal(path)


def test_names_from_the_file_stay_on_one_line(tmp_path, small):
    definition = graph_pb2.GraphDef.FromString(small)
    definition.node.add(name="Mul\n" * 1000, op="Mul")
    nodes = {node.name: node for node in definition.node}
    nodes["conv/Conv2D"].input[0] = "Mul\n" * 1000
    path = tmp_path / NAME
    path.write_bytes(definition.SerializeToString())
    message = refusal(path)
    assert "node 'conv/Conv2D'" in message
    assert len(message) < 1000


def test_several_nodes_of_one_name(tmp_path, small):
    definition = graph_pb2.GraphDef.FromString(small)
    definition.node.append(definition.node[-1])
    path = tmp_path / NAME
    path.write_bytes(definition.SerializeToString())
    assert "several nodes of one name" in refusal(path)
