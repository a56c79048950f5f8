"""A synthetic `classify_image_graph_def.pb`, and TensorFlow's own session to run it.

The graph has the nodes, ops, attributes, wiring and shapes of the 2015 graph with
seeded weights. Nothing here shares code with the package `fid`: it is the oracle.

    python tests/synthetic_graph.py OUT.pb
"""

import pathlib
import sys

import numpy as np
import rounding
import tensorflow as tf
from tensorflow.core.framework import types_pb2

FLOAT = types_pb2.DT_FLOAT


def write_synthetic_graph(
    path,
    seed=0,
    *,
    random_gamma=False,
    scale_after_normalization=True,
    variance_epsilon=0.001,
    splat=False,
):
    """Writes a graph that cannot be told from the 2015 one but by its weights.

    Args:
        path: Where the file goes.
        seed: Of the weights.
        random_gamma: Whether the gammas differ from one.
        scale_after_normalization: The attribute of every batch normalisation.
        variance_epsilon: Likewise.
        splat: Whether every tensor stores one value only, which makes a file of a
            few hundred kB with the same structure and useless weights.

    Returns:
        `path`.
    """
    writer = _Writer(seed, splat)
    writer.random_gamma = random_gamma
    writer.norm = {
        "scale_after_normalization": scale_after_normalization,
        "variance_epsilon": variance_epsilon,
    }
    _preprocessing(writer)
    _body(writer)
    _head(writer)
    # Protocol buffer maps have no order of their own; equal seeds make equal bytes.
    pathlib.Path(path).write_bytes(writer.graph.SerializeToString(deterministic=True))
    return path


def v1_run(path, images, tensors):
    """Runs the graph in a `tf.compat.v1.Session`, one image at a time.

    Args:
        path: The graph.
        images: HWC images of any sizes, uint8 or float in [0, 255].
        tensors: Names of the tensors to fetch, such as "pool_3:0".

    Returns:
        One array per tensor, the images along its first axis.
    """
    graph_def = tf.compat.v1.GraphDef.FromString(pathlib.Path(path).read_bytes())
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
        tf.import_graph_def(graph_def, input_map={"ExpandDims:0": x}, name="")
        with tf.compat.v1.Session(graph=graph) as session:
            results = [
                session.run(list(tensors), {x: np.asarray(image, np.float32)[None]})
                for image in images
            ]
    return tuple(np.concatenate(arrays) for arrays in zip(*results, strict=True))


# The sums on the longest way to the features, and one of 2048 terms to the logits: 27,
# 288, 288, 64 and 720 terms up to the second pool; three convolutions of 1632, 1696 and
# 1728 terms in mixed to mixed_2, and 1728 in mixed_3; five of 4352, 5248, 5248 and 6144
# in mixed_4 to mixed_7; four of 5184, then three of 6464 and of 7232.
TERMS = 50_000
# The network multiplies a small relative change of an image's values by at most this,
# on the way to the features and to the logits. A test measures it.
AMPLIFIED = 10


def rounding_error(outputs):
    """The root mean square difference of two programs' features, or logits.

    Features are not negative, and so have a larger root mean square than what their
    sums vary by, which is to the safe side.
    """
    size = np.sqrt(np.mean(np.square(outputs, dtype=np.float64)))
    return size * rounding.random_sums(TERMS, amplified=AMPLIFIED)


def allowed(outputs):
    """What two programs' features, or logits, may differ by at most."""
    size = np.sqrt(np.mean(np.square(outputs, dtype=np.float64)))
    most = rounding.random_sums(TERMS, np.size(outputs), amplified=AMPLIFIED)
    return {"rtol": 0, "atol": size * most}


def v1_features(path, images):
    """Returns `pool_3`, float32 (n, 2048), and the softmax, float32 (n, 1008)."""
    pool, softmax = v1_run(path, images, ("pool_3:0", "softmax:0"))
    return pool.reshape(len(images), 2048), softmax


class _Writer:
    def __init__(self, seed, splat):
        self.graph = tf.compat.v1.GraphDef()
        self.graph.versions.producer = 8  # batch normalisation was removed at 9
        self.random = np.random.default_rng(seed)
        self.splat = splat

    def node(self, name, op, inputs, **attributes):
        node = self.graph.node.add(name=name, op=op, input=inputs)
        for key, value in attributes.items():
            attr = node.attr[key]
            match value:
                case bool():
                    attr.b = value
                case float():
                    attr.f = value
                case str():
                    attr.s = value.encode()
                case list():
                    attr.list.i.extend(value)
                case _:
                    attr.type = value
        return name

    def const(self, name, value, dtype=np.float32):
        value = np.asarray(value, dtype)
        node = self.graph.node.add(name=name, op="Const")
        node.attr["dtype"].type = tf.as_dtype(dtype).as_datatype_enum
        tensor = node.attr["value"].tensor
        if self.splat and value.size > 2:
            # One stored value stands for all.
            tensor.CopyFrom(tf.make_tensor_proto(value.flat[0], shape=[]))
            tensor.tensor_shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
        else:
            tensor.CopyFrom(tf.make_tensor_proto(value))
        return name

    def conv(self, name, source, kernel, outputs, stride=1, padding="SAME"):
        """Adds one block and returns its node and its number of channels."""
        source, inputs = source
        height, width = kernel
        shape = (height, width, inputs, outputs)
        weights = self.random.standard_normal(shape, np.float32)
        # Zero-sum kernels do not see the positive mean that ReLUs leave; without
        # this all images look alike after twenty layers.
        weights -= weights.mean((0, 1, 2))
        weights *= np.sqrt(2.25 / (height * width * inputs))
        params = self.const(f"{name}/conv2d_params", weights)
        conv = self.node(
            f"{name}/Conv2D",
            "Conv2D",
            [source, params],
            T=FLOAT,
            strides=[1, stride, stride, 1],
            padding=padding,
            use_cudnn_on_gpu=True,
        )
        uniform, normal = self.random.uniform, self.random.normal
        bn = f"{name}/batchnorm"
        gamma = uniform(0.7, 1.3, outputs) if self.random_gamma else np.ones(outputs)
        beta = self.const(f"{bn}/beta", normal(0.1, 0.2, outputs))
        gamma = self.const(f"{bn}/gamma", gamma)
        mean = self.const(f"{bn}/moving_mean", normal(0.0, 0.1, outputs))
        variance = self.const(f"{bn}/moving_variance", uniform(0.5, 1.5, outputs))
        self.node(
            bn,
            "BatchNormWithGlobalNormalization",
            [conv, mean, variance, beta, gamma],
            T=FLOAT,
            **self.norm,
        )
        check = f"{name}/CheckNumerics"
        self.node(check, "CheckNumerics", [bn], T=FLOAT, message="batchnorm")
        control = f"{name}/control_dependency"
        self.node(control, "Identity", [bn, f"^{check}"], T=FLOAT)
        return self.node(name, "Relu", [control], T=FLOAT), outputs

    def convs(self, scope, source, *layers):
        """Adds `conv`, `conv_1`, ... one after the other."""
        for index, layer in enumerate(layers):
            name = f"{scope}/conv_{index}" if index else f"{scope}/conv"
            source = self.conv(name, source, *layer)
        return source

    def pool(self, name, op, source, stride=1, padding="SAME", size=3):
        source, channels = source
        # MaxPool had no attribute T in 2015.
        types = {"T": FLOAT} if op == "AvgPool" else {}
        self.node(
            name,
            op,
            [source],
            ksize=[1, size, size, 1],
            strides=[1, stride, stride, 1],
            padding=padding,
            **types,
        )
        return name, channels

    def join(self, scope, *sources):
        names, channels = zip(*sources, strict=True)
        axis = self.const(f"{scope}/join/concat_dim", 3, np.int32)
        name = f"{scope}/join"
        self.node(name, "Concat", [axis, *names], T=FLOAT)
        self.graph.node[-1].attr["N"].i = len(names)
        return name, sum(channels)


def _preprocessing(w):
    contents = w.graph.node.add(name="DecodeJpeg/contents", op="Const")
    contents.attr["dtype"].type = types_pb2.DT_STRING
    contents.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(b""))
    w.node("DecodeJpeg", "DecodeJpeg", ["DecodeJpeg/contents"])
    w.graph.node[-1].attr["channels"].i = 3
    w.node("Cast", "Cast", ["DecodeJpeg"], SrcT=types_pb2.DT_UINT8, DstT=FLOAT)
    w.const("ExpandDims/dim", 0, np.int32)
    w.node("ExpandDims", "ExpandDims", ["Cast", "ExpandDims/dim"], T=FLOAT)
    w.const("ResizeBilinear/size", [299, 299], np.int32)
    resize = ["ExpandDims", "ResizeBilinear/size"]
    w.node("ResizeBilinear", "ResizeBilinear", resize, T=FLOAT, align_corners=False)
    w.const("Sub/y", 128.0)
    w.node("Sub", "Sub", ["ResizeBilinear", "Sub/y"], T=FLOAT)
    w.const("Mul/y", 0.0078125)
    w.node("Mul", "Mul", ["Sub", "Mul/y"], T=FLOAT)


def _body(w):
    one, three, five = (1, 1), (3, 3), (5, 5)
    row, column = (1, 7), (7, 1)
    half = {"stride": 2, "padding": "VALID"}

    x = w.conv("conv", ("Mul", 3), three, 32, **half)
    x = w.conv("conv_1", x, three, 32, 1, "VALID")
    x = w.conv("conv_2", x, three, 64)
    x = w.pool("pool", "MaxPool", x, **half)
    x = w.conv("conv_3", x, one, 80, 1, "VALID")
    x = w.conv("conv_4", x, three, 192, 1, "VALID")
    x = w.pool("pool_1", "MaxPool", x, **half)

    for m, projected in (("mixed", 32), ("mixed_1", 64), ("mixed_2", 64)):
        a = w.convs(m, x, (one, 64))
        b = w.convs(f"{m}/tower", x, (one, 48), (five, 64))
        c = w.convs(f"{m}/tower_1", x, (one, 64), (three, 96), (three, 96))
        d = w.pool(f"{m}/tower_2/pool", "AvgPool", x)
        d = w.convs(f"{m}/tower_2", d, (one, projected))
        x = w.join(m, a, b, c, d)

    a = w.convs("mixed_3", x, (three, 384, 2, "VALID"))
    b = w.convs("mixed_3/tower", x, (one, 64), (three, 96), (three, 96, 2, "VALID"))
    x = w.join("mixed_3", a, b, w.pool("mixed_3/pool", "MaxPool", x, **half))

    for m, c7 in (
        ("mixed_4", 128),
        ("mixed_5", 160),
        ("mixed_6", 160),
        ("mixed_7", 192),
    ):
        a = w.convs(m, x, (one, 192))
        b = w.convs(f"{m}/tower", x, (one, c7), (row, c7), (column, 192))
        layers = (one, c7), (column, c7), (row, c7), (column, c7), (row, 192)
        c = w.convs(f"{m}/tower_1", x, *layers)
        d = w.pool(f"{m}/tower_2/pool", "AvgPool", x)
        x = w.join(m, a, b, c, w.convs(f"{m}/tower_2", d, (one, 192)))

    a = w.convs("mixed_8/tower", x, (one, 192), (three, 320, 2, "VALID"))
    layers = (one, 192), (row, 192), (column, 192), (three, 192, 2, "VALID")
    b = w.convs("mixed_8/tower_1", x, *layers)
    x = w.join("mixed_8", a, b, w.pool("mixed_8/pool", "MaxPool", x, **half))

    for m, op in (("mixed_9", "AvgPool"), ("mixed_10", "MaxPool")):
        a = w.convs(m, x, (one, 320))
        b = w.convs(f"{m}/tower", x, (one, 384))
        b1 = w.conv(f"{m}/tower/mixed/conv", b, (1, 3), 384)
        b2 = w.conv(f"{m}/tower/mixed/conv_1", b, (3, 1), 384)
        c = w.convs(f"{m}/tower_1", x, (one, 448), (three, 384))
        c1 = w.conv(f"{m}/tower_1/mixed/conv", c, (1, 3), 384)
        c2 = w.conv(f"{m}/tower_1/mixed/conv_1", c, (3, 1), 384)
        d = w.pool(f"{m}/tower_2/pool", op, x)
        d = w.convs(f"{m}/tower_2", d, (one, 192))
        x = w.join(m, a, b1, b2, c1, c2, d)

    w.pool("pool_3", "AvgPool", x, padding="VALID", size=8)


def _head(w):
    w.const("pool_3/_reshape/shape", [1, 2048], np.int32)
    w.node("pool_3/_reshape", "Reshape", ["pool_3", "pool_3/_reshape/shape"], T=FLOAT)
    w.const("softmax/weights", w.random.normal(0, 0.05, (2048, 1008)))
    w.const("softmax/biases", w.random.normal(0, 0.1, 1008))
    product = ["pool_3/_reshape", "softmax/weights"]
    w.node("softmax/logits/MatMul", "MatMul", product, T=FLOAT)
    logits = ["softmax/logits/MatMul", "softmax/biases"]
    w.node("softmax/logits", "BiasAdd", logits, T=FLOAT)
    w.node("softmax", "Softmax", ["softmax/logits"], T=FLOAT)


if __name__ == "__main__":
    print(write_synthetic_graph(sys.argv[1]))
