"""Small students, teachers and discriminators, traced in no time."""

import keras
import numpy as np

SIDE = 8
LAYER = "middle"


def denoiser(seed=0, num_classes=None, width=4):
    """A network that is traced in no time, with weights that are not 0."""
    inputs = [keras.Input((SIDE, SIDE, 1)), keras.Input(())]
    told = [keras.layers.Reshape((1,))(inputs[1] / 1000.0)]
    if num_classes is not None:
        inputs.append(keras.Input((), dtype="int32"))
        told.append(keras.layers.Embedding(num_classes + 1, 3)(inputs[2]))
    told = keras.layers.Concatenate()(told) if len(told) > 1 else told[0]
    x = keras.layers.Conv2D(width, 3, padding="same")(inputs[0])
    x += keras.layers.Reshape((1, 1, width))(keras.layers.Dense(width)(told))
    x = keras.layers.Activation("silu", name=LAYER)(x)
    return seeded(
        keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(x)), seed
    )


def seeded(network, seed):
    random = np.random.default_rng(seed)
    network.set_weights(
        [0.3 * random.normal(size=w.shape) for w in network.get_weights()]
    )
    return network


def encoder_and_heads():
    images = keras.Input((SIDE, SIDE, 1))
    one = keras.layers.Conv2D(4, 3, 2, activation="elu")(images)
    two = keras.layers.Conv2D(4, 3)(one)
    encoder = seeded(keras.Model(images, [one, two]), 10)
    maps = [keras.Input(x.shape[1:]) for x in (one, two)]
    logits = [keras.layers.Dense(1)(keras.layers.Flatten()(x)) for x in maps]
    return encoder, seeded(keras.Model(maps, logits), 11)


def bottleneck_heads(num_classes):
    maps = keras.Input(
        denoiser(num_classes=num_classes).get_layer(LAYER).output.shape[1:]
    )
    logits = keras.layers.Dense(1)(keras.layers.Flatten()(maps))
    return seeded(keras.Model([maps], [logits]), 11)


def real(count=8, seed=0):
    shape = (count, SIDE, SIDE, 1)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


def weights(model):
    return {k: v.get_weights() for k, v in {**model.networks, **model.frozen}.items()}


def moved(model, before):
    return {
        name
        for name, values in weights(model).items()
        if any(map(np.any, (a != b for a, b in zip(values, before[name], strict=True))))
    }


def scorer(seed=3, num_classes=None):
    """A network that scores noisy images, told what a student is told."""
    inputs = denoiser(num_classes=num_classes).inputs
    x = keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(inputs[0]))
    told = [x, keras.layers.Reshape((1,))(inputs[1] / 1000.0)]
    if num_classes is not None:
        told.append(keras.layers.Embedding(num_classes, 2)(inputs[2]))
    score = keras.layers.Dense(1)(keras.layers.Concatenate()(told))
    return seeded(keras.Model(inputs, score), seed)
