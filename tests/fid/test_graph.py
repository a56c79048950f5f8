import contextlib
import functools
import hashlib
import http.server
import io
import json
import pathlib
import socket
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
import synthetic_graph
from tensorflow.core.framework import graph_pb2

from fid import graph
from fid.files import InputError

NAME = "classify_image_graph_def.pb"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Bytes of a valid graph whose tensors store one value each."""
    path = tmp_path_factory.mktemp("small") / NAME
    return synthetic_graph.write_synthetic_graph(path, splat=True).read_bytes()


@pytest.fixture(autouse=True)
def no_outside(monkeypatch, tmp_path):
    monkeypatch.delenv("TTUR_INCEPTION", raising=False)
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path / "cache"))


def refusal(path):
    with pytest.raises(InputError) as caught:
        graph.load_graph(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
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
    code = "import sys, fid.graph; sys.exit('tensorflow' in sys.modules)"
    root = pathlib.Path(graph.__file__).parents[1]
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


def test_missing_folder_and_too_large(tmp_path, monkeypatch, small):
    assert "does not exist" in refusal(tmp_path / "missing.pb")
    assert "is a folder" in refusal(tmp_path)
    assert "not a regular file" in refusal(pathlib.Path("/dev/zero"))
    path = tmp_path / NAME
    path.write_bytes(small)
    monkeypatch.setattr(graph, "_MAX_GRAPH_BYTES", len(small) - 1)
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


# --- Where the graph is found


def test_path_before_variable_before_cache(tmp_path, monkeypatch, small):
    given, variable = tmp_path / "given.pb", tmp_path / "variable.pb"
    cached = tmp_path / "cache" / NAME
    cached.parent.mkdir()
    for path in (given, variable, cached):
        path.write_bytes(small)
    assert graph.find_graph() == cached
    monkeypatch.setenv("TTUR_INCEPTION", str(variable))
    assert graph.find_graph() == variable
    assert graph.find_graph(given) == given

    variable.unlink()
    with pytest.raises(InputError, match=r"given by \$TTUR_INCEPTION, does not exist"):
        graph.find_graph()
    with pytest.raises(InputError, match="given by --inception, does not exist"):
        graph.find_graph(variable)


def test_download_is_the_last_resort(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(graph, "download_graph", lambda path: asked.append(path))
    graph.find_graph()
    assert asked == [tmp_path / "cache" / NAME]


# --- Downloading


def archive_of(*members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@contextlib.contextmanager
def server(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{served.server_port}"
        finally:
            # Its thread would go on with a closed socket, at the full speed of a core.
            served.shutdown()


@pytest.fixture
def serve(tmp_path):
    """Downloads the given bytes from a local server into the cache folder."""

    def download(data, archive_bytes=None, name="good.tgz"):
        folder = tmp_path / "served"
        folder.mkdir(exist_ok=True)
        (folder / "good.tgz").write_bytes(data)
        with server(folder) as root:
            return graph.download_graph(
                urls=[f"{root}/missing.tgz", f"{root}/{name}"],
                archive_bytes=len(data) if archive_bytes is None else archive_bytes,
            )

    return download


def test_download_puts_a_verified_graph_in_place(tmp_path, small, serve):
    members = [("LICENSE", b"text"), (NAME, "/etc/passwd"), (f"./{NAME}", small)]
    path = serve(archive_of(*members))
    assert path == tmp_path / "cache" / NAME
    assert path.read_bytes() == small
    record = json.loads(path.with_name(f"{NAME}.json").read_text())
    assert record["sha256"] == hashlib.sha256(small).hexdigest()
    assert record["bytes"] == len(small)
    assert record["source"].endswith("/good.tgz")
    assert sorted(p.name for p in path.parent.iterdir()) == [NAME, f"{NAME}.json"]
    assert graph.find_graph() == path

    path.write_bytes(small + b"\x22\x00")
    with pytest.raises(InputError, match="the file was changed") as caught:
        graph.find_graph()
    assert record["sha256"] in str(caught.value)


def refused_download(tmp_path, serve, *args, **options):
    with pytest.raises(InputError) as caught:
        serve(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    cache = tmp_path / "cache"
    assert not cache.exists() or not list(cache.iterdir())
    return message


def test_download_of_the_wrong_size(tmp_path, small, serve):
    data = archive_of((NAME, small))
    size = len(data)
    message = refused_download(tmp_path, serve, data, archive_bytes=size + 1)
    assert f"sent {size:,} bytes, expected {size + 1:,}" in message
    message = refused_download(tmp_path, serve, data, archive_bytes=size - 1)
    assert f"sent more than {size - 1:,} bytes" in message
    assert "404" in message  # of the first URL
    for fix in ("--inception", "$TTUR_INCEPTION", "inception-2015-12-05.tgz"):
        assert fix in message
    assert str(tmp_path / "cache" / NAME) in message


def test_download_of_a_damaged_archive(tmp_path, small, serve):
    data = archive_of((NAME, small))
    middle = len(data) // 2
    damaged = [
        b"not an archive",
        data[:middle],
        data[:middle] + bytes(1000) + data[middle + 1000 :],
        archive_of(("other.pb", small)),
        archive_of((NAME, "../../elsewhere")),
    ]
    for content in damaged:
        message = refused_download(tmp_path, serve, content)
        assert "Cannot download the 2015 Inception graph" in message


def test_download_of_another_graph(tmp_path, serve):
    message = refused_download(tmp_path, serve, archive_of((NAME, b"<html>")))
    assert f"{NAME} from http://127.0.0.1" in message
    assert "HTML page" in message


def test_a_member_cannot_choose_where_it_is_written(tmp_path, small, serve):
    path = serve(archive_of(("../../evil", b"x"), (f"../../../{NAME}", small)))
    assert path == tmp_path / "cache" / NAME
    written = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert written == {NAME, f"{NAME}.json", "good.tgz"}
    assert not (tmp_path.parent / NAME).exists()


def test_an_archive_that_expands_without_end(tmp_path, monkeypatch, small, serve):
    monkeypatch.setattr(graph, "_MAX_GRAPH_BYTES", len(small))
    data = archive_of((NAME, bytes(len(small) + 1)))
    assert "in one file" in refused_download(tmp_path, serve, data)


def test_no_network_fails_within_seconds(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refused
        url = f"https://127.0.0.1:{unused.getsockname()[1]}/x.tgz"
        start = time.monotonic()
        with pytest.raises(InputError, match=r"put that at .*--inception"):
            graph.download_graph(tmp_path / NAME, urls=[url])
        assert time.monotonic() - start < 5
    assert not (tmp_path / NAME).exists()
