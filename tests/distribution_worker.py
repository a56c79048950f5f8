"""Trains on several replicas, in a process of its own; see test_distribution.py.

Logical devices have to be made, and clusters joined, before TensorFlow starts.
"""

import json
import os
import pathlib
import sys

import half_precision

SHAPE = (8, 8, 1)
BATCH = 8
# In place of ReLU, LeakyReLU and ELU. Two devices differ by rounding, by up to 1e-6
# where an activation is applied, and so a unit may be on the other side of a kink. One
# unit of a ReLU moves a critic's gradient penalty by some 6e-3 then, and gradients by
# 4e-2. Each of the 2,048 units of a pass does so with a probability of 1e-7, so of the
# hundreds of passes of a test one does about once in twenty runs. ELU has its kink one
# derivative later, in the penalty's gradients. SiLU is smooth in every derivative, and
# rounding stays rounding.
SMOOTH = "silu"
# Bounds that the gradients of `clipped` are above, which one step of each shows. What
# scales a loss has its gradients whole again before any of them is clipped.
CLIPPED = [(x, "float32") for x in ("norm:0.25", "value:0.125", "global_norm:0.25")]
if not half_precision.RESTRICTED:
    CLIPPED += [("global_norm:0.25", "mixed_float16")]


def images(n, seed=0):
    import numpy as np

    return np.random.default_rng(seed).uniform(-1, 1, (n, *SHAPE)).astype("float32")


def resnet_like():
    """Networks as `networks.resnet`, without batch norm, with smooth activations."""
    import keras

    from tf_ttur import layers

    generator = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4 * 4 * 4, kernel_initializer=_normal(0)),
            keras.layers.Reshape((4, 4, 4)),
            layers.ImageNormalization(),
            keras.layers.Activation(SMOOTH),
            layers.UpsampleConv2D(4, 3, kernel_initializer=_normal(1)),
            keras.layers.Conv2D(
                1, 3, padding="same", activation="tanh", kernel_initializer=_normal(2)
            ),
            keras.layers.Activation("linear", dtype="float32"),
        ]
    )
    discriminator = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(4, 3, padding="same", kernel_initializer=_normal(3)),
            layers.ImageNormalization(),
            keras.layers.Activation(SMOOTH),
            layers.ConvMeanPool2D(8, 3, kernel_initializer=_normal(4)),
            # Neither a linear end nor a last bias, unlike the original: a critic's mean
            # is free, so such biases have a gradient of zero but for rounding, and Adam
            # makes whole steps of that.
            keras.layers.Activation(SMOOTH),
            keras.layers.Flatten(),
            keras.layers.Dense(
                1, use_bias=False, kernel_initializer=_normal(5), dtype="float32"
            ),
        ]
    )
    return generator, discriminator


def dcgan_like(norm=False):
    """Networks as `networks.dcgan`, with batch norm if asked, smooth activations."""
    import keras

    from tf_ttur import layers

    generator = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4 * 4 * 4, kernel_initializer=_normal(0)),
            keras.layers.Reshape((4, 4, 4)),
            *([keras.layers.BatchNormalization(momentum=0.5)] if norm else []),
            keras.layers.Activation(SMOOTH),
            layers.Conv2DTranspose(
                1, 5, 2, padding="same", kernel_initializer=_normal(1)
            ),
            keras.layers.Activation("tanh", dtype="float32"),
        ]
    )
    discriminator = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 5, 2, padding="same", kernel_initializer=_normal(2)),
            keras.layers.Activation(SMOOTH),
            keras.layers.Flatten(),
            keras.layers.Dense(1, kernel_initializer=_normal(3), dtype="float32"),
        ]
    )
    return generator, discriminator


def labelled():
    """Networks that take labels of three classes, with smooth activations."""
    import keras

    def network(values, seed, outputs):
        labels = keras.Input((), dtype="int32")
        rows = keras.layers.Embedding(3, 4, embeddings_initializer=_normal(seed))
        x = keras.layers.Concatenate()([keras.layers.Flatten()(values), rows(labels)])
        hidden = keras.layers.Dense(8, SMOOTH, kernel_initializer=_normal(seed + 1))
        # No last bias, of which a relativistic loss leaves rounding errors only.
        last = keras.layers.Dense(
            outputs, use_bias=False, kernel_initializer=_normal(seed + 2)
        )
        return labels, last(hidden(x))

    latents, pixels = keras.Input((4,)), keras.Input(SHAPE)
    labels, made = network(latents, 0, 64)
    generator = keras.Model([latents, labels], keras.layers.Reshape(SHAPE)(made))
    labels, logits = network(pixels, 10, 1)
    return generator, keras.Model([pixels, labels], logits)


def _normal(seed):
    import keras

    return keras.initializers.RandomNormal(stddev=0.2, seed=seed)


def make(
    family="resnet",
    kind=None,
    norm=False,
    ema_decay=0.0,
    seed=3,
    method=None,
    **options,
):
    import tf_ttur

    networks = {
        "resnet": resnet_like,
        "dcgan": lambda: dcgan_like(norm),
        "drawn_labels": labelled,
        "pairs_labels": labelled,
    }[family]()
    losses = {
        "resnet": {"loss": "wasserstein", "gradient_penalty": 10.0},
        "dcgan": {"loss": "non_saturating"},
        "drawn_labels": {"loss": "non_saturating", "gradient_penalty": 1.0},
        "pairs_labels": {"loss": "relativistic", "gradient_penalty": "r1+r2:1"},
    }
    classes = {"num_classes": 3} if family.endswith("labels") else {}
    gan = (kind or tf_ttur.GAN)(
        *networks, tf_ttur.NormalLatent(4), seed=seed, ema_decay=ema_decay, **classes
    )
    gan.compile(
        # With the usual epsilon Adam makes whole steps of gradients that are rounding
        # errors, which no two orders of a sum share.
        **tf_ttur.ttur(
            **{"discriminator": 3e-3, "generator": 1e-3, "epsilon": 1e-3},
            **method or {},
        ),
        jit_compile=None if _distributed() else False,
        **losses[family] | options,
    )
    return gan


def _distributed():
    import tensorflow as tf

    return tf.distribute.has_strategy()


def fit(gan, steps, k=1, start=0, **options):
    """Trains, and returns the logs after each step."""
    import keras
    import tensorflow as tf

    x = images(BATCH * k * (start + steps))[BATCH * k * start :]
    rows = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rows.append(
            {key: float(value) for key, value in logs.items()}
        )
    )
    if gan.num_classes:
        x = x, [i * i % gan.num_classes for i in range(len(x))]
    data = tf.data.Dataset.from_tensor_slices(x).batch(BATCH * k, drop_remainder=True)
    callbacks = [record, *options.pop("callbacks", [])]
    gan.fit(data, verbose=0, shuffle=False, callbacks=callbacks, **options)
    return rows


def weights(model):
    return [w.numpy().tolist() for w in model.weights]


def copies(strategy, variables):
    """The copies of variables on each replica."""
    return [
        [copy.numpy().tolist() for copy in strategy.experimental_local_results(v.value)]
        for v in variables
    ]


def both(strategy, run):
    """What `run` gives on one device and on all replicas."""
    with strategy.scope():
        several = run()
    return {"one": run(), "several": several}


# ---- mirrored, on two logical devices


def equal_losses(strategy, cases):
    def run(family, k, reuse):
        gan = make(family, discriminator_steps=k, reuse_latents=reuse)
        return fit(gan, 20, k)

    return {
        "-".join(map(str, case)): both(strategy, lambda case=case: run(*case))
        for case in cases
    }


def adabelief(strategy):
    """Its first rectified step is the fifth of twenty."""

    def run():
        method = {"optimizer": "adabelief", "beta_2": 0.95}
        gan = make("dcgan", method=method)
        rows = fit(gan, 20)
        states = [v.numpy().tolist() for v in gan.generator_optimizer.variables]
        return {"rows": rows, "weights": weights(gan), "states": states}

    return both(strategy, run)


class Given:
    """Latents that are the same in every step."""

    dimension = 2

    def __init__(self, latents):
        self.latents = latents

    def __call__(self, count, seed):
        import tensorflow as tf

        return tf.constant(self.latents)


def clipped(strategy):
    """One step of linear networks by gradient descent, for NumPy to do by hand."""
    import keras
    import numpy as np

    import tf_ttur
    from tf_ttur.optimizers import make as made

    random = np.random.default_rng(0)
    latents = random.normal(size=(BATCH, 2)).astype("float32")
    real = random.normal(size=(BATCH, 3)).astype("float32")

    def run(clip, policy):
        keras.config.set_dtype_policy(policy)
        try:
            generator = keras.Sequential(
                [
                    keras.Input((2,)),
                    keras.layers.Dense(3, kernel_initializer=_normal(0)),
                ]
            )
            discriminator = keras.Sequential(
                [
                    keras.Input((3,)),
                    keras.layers.Dense(1, kernel_initializer=_normal(1)),
                ]
            )
            gan = tf_ttur.GAN(generator, discriminator, Given(latents))
            optimizers = [made("sgd", 1.0, clip=clip) for _ in range(2)]
            if policy == "mixed_float16":
                optimizers = [
                    keras.optimizers.LossScaleOptimizer(each, initial_scale=256.0)
                    for each in optimizers
                ]
            gan.compile(
                discriminator_optimizer=optimizers[0],
                generator_optimizer=optimizers[1],
                loss="wasserstein",
                jit_compile=False,
            )
            before = weights(generator) + weights(discriminator)
            gan.fit(real, batch_size=BATCH, shuffle=False, verbose=0)
            after = weights(generator) + weights(discriminator)
            return {"before": before, "after": after}
        finally:
            keras.config.set_dtype_policy("float32")

    found = {
        " ".join(case): both(strategy, lambda case=case: run(*case)) for case in CLIPPED
    }
    return {"latents": latents.tolist(), "real": real.tolist(), "found": found}


def noise(strategy):
    import tensorflow as tf

    with strategy.scope():
        gan = make("dcgan")

        error = None
        try:
            gan.compile(
                discriminator_optimizer=gan.discriminator_optimizer,
                generator_optimizer=gan.generator_optimizer,
                loss="minimax",
                steps_per_execution=2,
            )
        except ValueError as caught:
            error = str(caught)

    @tf.function
    def draw():
        # Twice, for the state to go on alike.
        return [gan.noise(gan.latent, tf.zeros((BATCH // 2, 1))) for _ in range(2)]

    drawn = strategy.run(draw)
    drawn = [
        [x.numpy().tolist() for x in strategy.experimental_local_results(each)]
        for each in drawn
    ]
    return {"drawn": drawn, "several steps per execution": error}


def uneven(strategy):
    """Batches that the replicas share unevenly, and all that follows a step."""
    import tensorflow as tf

    import tf_ttur

    class Balancing(tf_ttur.GAN):
        """With state of its own that follows the losses, as BEGAN's k."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.balance = self.add_weight(
                shape=(), initializer="zeros", trainable=False, name="balance"
            )

        def after_step(self, real, fake):
            means = {"real": tf.reduce_mean(real), "fake": tf.reduce_mean(fake)}
            means = self.global_mean(means, real)
            self.balance.assign_add(means["real"] - 2.0 * means["fake"])

    def run():
        gan = make(
            "dcgan",
            kind=Balancing,
            ema_decay=0.5,
            loss="wasserstein",
            gradient_penalty=10.0,
            gradient_norms=True,
        )
        # Shares of 3 and 2 images, and in the end 2 and 1.
        history = gan.fit(images(13), batch_size=5, shuffle=False, verbose=0).history
        before = weights(gan), gan.seed_generator.state.numpy().tolist()
        options = {"batch_size": 4, "verbose": 0, "return_dict": True}
        held_out = gan.evaluate(images(11, 7), **options)
        after = weights(gan), gan.seed_generator.state.numpy().tolist()
        found = {
            "steps": gan.steps,
            "weights": weights(gan),
            "averaged": [w.numpy().tolist() for w in gan.averaged_generator.weights],
            "balance": float(gan.balance.numpy()),
            "norms": {key: history[key][0] for key in ("d_gradient", "g_gradient")},
            "held out": held_out,
            "unchanged": before == after,
        }
        if tf.distribute.has_strategy():
            found["copies"] = copies(strategy, gan.weights)
            try:
                gan.fit(images(11), batch_size=5, shuffle=False, verbose=0)
            except tf.errors.InvalidArgumentError as error:
                found["error"] = str(error)
        return found

    return both(strategy, run)


def saved(strategy, folder):
    import keras

    with strategy.scope():
        gan = make("dcgan", ema_decay=0.9)
        fit(gan, 3)
        gan.save(folder / "gan.keras")
        gan.save_weights(folder / "gan.weights.h5")
        loaded = keras.models.load_model(folder / "gan.keras")
        filled = make("dcgan", ema_decay=0.9, seed=9)
        filled.load_weights(folder / "gan.weights.h5")
    alone = keras.models.load_model(folder / "gan.keras")
    alone.jit_compile = False  # XLA draws other random numbers
    found = {}
    for name in ("gan", "loaded", "filled", "alone"):
        each = locals()[name]
        fit(each, 3, start=3)
        found[name] = weights(each)
        found[f"{name} images"] = each.generate(3, seed=1).tolist()
    return found


def half(strategy):
    """mixed_float16: a replica alone with a gradient that is not finite.

    Clipping its numbers would make them finite.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    keras.config.set_dtype_policy("mixed_float16")
    try:
        with strategy.scope():
            clip = {"clip": "value:1"}
            gan = make("dcgan", norm=True, ema_decay=0.5, method=clip)
            first = fit(gan, 2)[-1]
        before = gan.discriminator.get_weights()
        scale = float(gan.discriminator_optimizer.dynamic_scale.numpy())
        x = images(BATCH)
        x[-1] = np.inf  # of the second replica
        # A data set, since an array's first rows are looked at.
        gan.fit(tf.data.Dataset.from_tensors(x), verbose=0, shuffle=False)
        after = gan.discriminator.get_weights()
        return {
            "losses": first,
            "skipped": all(map(np.array_equal, before, after)),
            "scales": [scale, float(gan.discriminator_optimizer.dynamic_scale.numpy())],
            "copies": copies(strategy, gan.weights),
        }
    finally:
        keras.config.set_dtype_policy("float32")


def mirrored(folder):
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    device = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [device, device])
    strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
    # Each family with each number of steps, with latents drawn again and reused, and
    # each of those with the other: the pairs that all eight cases are made of.
    cases = [("resnet", 2, 0), ("resnet", 1, 1), ("dcgan", 2, 1), ("dcgan", 1, 0)]
    cases += [("drawn_labels", 2, 0), ("pairs_labels", 1, 1)]
    return {
        "losses": equal_losses(strategy, cases),
        "noise": noise(strategy),
        "saved": saved(strategy, folder),
        "uneven": uneven(strategy),
        "half": None if half_precision.RESTRICTED else half(strategy),
        "adabelief": adabelief(strategy),
        "clipped": clipped(strategy),
    }


# ---- several processes

IN_PROCESSES = {"family": "dcgan", "discriminator_steps": 2, "gradient_penalty": 1.0}


def multi_worker(folder):
    import tensorflow as tf

    from tf_ttur import callbacks

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        gan = make(**IN_PROCESSES)
    samples = callbacks.SampleGrid(folder / "samples", count=4)
    metrics = callbacks.MetricsLog(folder / "metrics.jsonl")
    board = callbacks.TensorBoardLog(folder / "tensorboard", samples)
    checkpoints = callbacks.Checkpoints(folder / "checkpoints", folder, "d_loss")
    in_order = [callbacks.NaNGuard(), samples, metrics, board, checkpoints]
    rows = fit(gan, 4, 2, callbacks=in_order)
    options = {"batch_size": BATCH, "verbose": 0, "return_dict": True}
    held_out = gan.evaluate(images(16, 7), **options)
    return {
        "rows": rows,
        "evaluated": {key: float(value) for key, value in held_out.items()},
        "images": gan.generate(2, seed=0).tolist(),
    }


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    mode, folder = sys.argv[1:]
    folder = pathlib.Path(folder)
    run = {"mirrored": mirrored, "multi_worker": multi_worker}[mode]
    result = run(folder)
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(result))
