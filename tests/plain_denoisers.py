"""A denoiser of three convolutions, in place of a U-Net.

A step of distillation calls its networks a dozen times, and to trace that with U-Nets
takes most of a minute. What is tested of a run does not depend on the network.
"""

import keras


def denoiser(image_size, channels, *, width, num_classes=None, seed=0, **_):
    """Makes one with the inputs, the outputs and the name that `unet.denoiser` has.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        width: Channels in between.
        num_classes: As for `unet.denoiser`.
        seed: Seed of the weights.
        **_: The U-Net's own settings, of no effect.
    """
    seeds = iter(range(10 * seed, 10 * seed + 10))

    def conv(filters, name, **options):
        start = keras.initializers.GlorotUniform(seed=next(seeds))
        return keras.layers.Conv2D(
            filters, 3, padding="same", name=name, kernel_initializer=start, **options
        )

    images = keras.Input((image_size, image_size, channels), name="images")
    noise = keras.Input((), name="noise")
    inputs = [images, noise]
    told = keras.layers.Dense(
        width, kernel_initializer=keras.initializers.GlorotUniform(seed=next(seeds))
    )(keras.layers.Reshape((1, 1, 1))(noise))
    if num_classes is not None:
        labels = keras.Input((), dtype="int32", name="labels")
        inputs.append(labels)
        start = keras.initializers.RandomNormal(seed=next(seeds))
        row = keras.layers.Embedding(num_classes + 1, width, start)(labels)
        told = keras.layers.Add()([told, keras.layers.Reshape((1, 1, width))(row)])
    x = keras.layers.Add()([conv(width, f"enc_{image_size}_conv")(images), told])
    x = conv(width, f"dec_{image_size}_in_2", activation="silu")(x)
    return keras.Model(inputs, conv(channels, "out_conv")(x), name="denoiser")
