"""`Diffusion`: one network that takes noise out of images, trained and sampled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import keras
import numpy as np
import tensorflow as tf

from fid.files import InputError
from fid.values import Between, Count
from tf_ttur import refusals, replicas
from tf_ttur.distillation import parametrisations, sampler
from tf_ttur.image_players import ImagePlayers
from tf_ttur.labels import images_of, labels_of
from tf_ttur.latents import NormalLatent
from tf_ttur.players import DECAY, learning_rate

__all__ = [
    "Denoiser",
    "Diffusion",
    "DiffusionPlayers",
    "Sampling",
    "normal_of",
    "sample_shape",
]

# Images whose noise is drawn at a time.
_BLOCK = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How images are made of noise.

    Attributes:
        sampler: A name of `sampler.SAMPLERS`.
        steps: In how many steps.
        guidance: The scale of classifier-free guidance; 1 for none.

    Raises:
        InputError: There is no such sampler, or a number cannot be.
    """

    sampler: str = "heun"
    steps: int = 18
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.sampler not in sampler.SAMPLERS:
            raise InputError(
                f"There is no sampler {self.sampler!r}; choose from "
                f"{', '.join(sampler.SAMPLERS)}."
            )
        kinds = {"steps": Count, "guidance": Annotated[float, Between(0)]}
        try:
            refusals.checked(kinds, steps=self.steps, guidance=self.guidance)
        except ValueError as error:
            raise InputError(str(error)) from error

    @property
    def noises(self) -> int:
        """How many arrays of noise an image is made of: the start, and fresh noise."""
        return self.steps if self.sampler == "renoise" else 1


class Denoiser:
    """A network and its parametrisation: estimates clean images of noisy ones.

    Args:
        network: Keras model, `[images, noise condition]`, with `num_classes` also
            labels, to an output of the images' shape; `networks.unet.denoiser` makes
            such.
        parametrisation: What the output means.
        num_classes: The number of classes, or None. The label `num_classes` itself
            says that none is told.

    Example:
        >>> import tensorflow as tf
        >>> from tf_ttur.distillation import EDM
        >>> from tf_ttur.distillation.diffusion import Denoiser
        >>> nothing = lambda given, training: 0.0 * given[0]
        >>> denoise = Denoiser(nothing, EDM())
        >>> noisy = tf.ones((2, 4, 4, 1))
        >>> clean = denoise.clean(noisy, tf.constant([0.5, 0.5]))
        >>> round(float(clean[0, 0, 0, 0]), 6)
        0.5
    """

    def __init__(self, network: Any, parametrisation: Any, num_classes: Any = None):
        self.network, self.parametrisation = network, parametrisation
        self.num_classes = num_classes

    def output(
        self, noisy: tf.Tensor, times: tf.Tensor, labels: Any = None, training=False
    ) -> tf.Tensor:
        """Returns what the network says of noisy images.

        Args:
            noisy: Float32 (n, H, W, C).
            times: Native times, float32 (n,).
            labels: Int32 (n,); None where none are told.
            training: Whether dropout is on.

        Returns:
            Float32 (n, H, W, C).
        """
        given = [*self.parametrisation.inputs(noisy, times)]
        if self.num_classes is not None:
            if labels is None:
                labels = tf.fill(tf.shape(noisy)[:1], self.num_classes)
            given.append(labels)
        return tf.cast(self.network(given, training=training), tf.float32)

    def clean(
        self, noisy: tf.Tensor, times: tf.Tensor, labels: Any = None, training=False
    ) -> tf.Tensor:
        """Returns the estimate of the clean images; arguments as for `output`."""
        output = self.output(noisy, times, labels, training)
        return self.parametrisation.clean(noisy, output, times)

    def guided(self, labels: Any, scale: float) -> Callable[..., tf.Tensor]:
        """Returns `denoise(noisy, times)` for a sampler, guided by labels.

        Args:
            labels: Int32 (n,), or None.
            scale: The scale of guidance; see `sampler.guided`.
        """
        if labels is None:
            return self.clean
        return sampler.guided(self.clean, labels, scale, self.num_classes)


class DiffusionPlayers(ImagePlayers):
    """Players of which one network makes images of noise by a sampler.

    A subclass says in `denoiser` which.

    Args:
        networks: As for `Players`.
        parametrisation: What the network's output means; see `parametrisations.get`.
        sampling: How images are made, a `Sampling`; it can be set at any time.
        **options: As for `ImagePlayers`.

    Attributes:
        latent: The distribution of the noise that images are made of: standard normal
            numbers, H W C of them, and as many again for each time that a sampler adds
            fresh noise.

    Raises:
        InputError: There is no such parametrisation.
    """

    def __init__(
        self,
        networks: Mapping[str, keras.Model],
        *,
        parametrisation: Any,
        sampling: Sampling,
        **options: Any,
    ):
        super().__init__(networks, **options)
        self.parametrisation = parametrisations.get(parametrisation)
        self.sampling = sampling

    @property
    def sampling(self) -> Sampling:
        """How images are made of noise."""
        return self._sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        if not isinstance(sampling, Sampling):
            raise InputError(
                "sampling must be a Sampling(sampler=..., steps=..., guidance=...). "
                f"Received: {sampling!r}."
            )
        if sampling.guidance != 1 and self.num_classes is None:
            raise InputError(
                f"guidance is {sampling.guidance}; without labels there is nothing to "
                "guide by. Leave it at 1."
            )
        if sampling.guidance != 1 and not getattr(self, "label_dropout", 1):
            raise InputError(
                f"guidance is {sampling.guidance}, and label_dropout is 0: the network "
                "never learnt to do without a label. Leave it at 1."
            )
        if sampling.sampler == "euler":
            sampler.check_flow(self.parametrisation)
        self._sampling = sampling
        self._generate = None
        height, width, channels = self.sample_shape
        self.latent = NormalLatent(sampling.noises * height * width * channels)

    def denoiser(self) -> Denoiser:
        """Returns the network that makes images, with its parametrisation."""
        raise NotImplementedError(f"{type(self).__name__} lacks denoiser.")

    # ---- sampling

    def call(self, latents: Any, training: bool = False) -> tf.Tensor:
        """Makes images of noise by the sampler that `sampling` names.

        Args:
            latents: Standard normal numbers, float32 (n, latent.dimension); with
                `num_classes` a list of these and of labels, whole numbers (n,).
            training: Of no effect: dropout is off.

        Returns:
            Images, float32 (n, H, W, C). A sampler may end a little beyond [-1, 1];
            what is beyond is brought to its ends, unless `pixels` is False.

        Raises:
            ValueError: With `num_classes`, it is no such list.
        """
        labels = None
        if self.num_classes is not None:
            if not isinstance(latents, list | tuple) or len(latents) != 2:
                raise ValueError(
                    f"A {self.called} with num_classes={self.num_classes} makes images "
                    "of two arrays: give [latents, labels]."
                )
            latents, labels = latents
            labels = tf.cast(tf.convert_to_tensor(labels), tf.int32)
        sampling, size = self.sampling, tf.shape(latents)[0]
        noises = tf.reshape(latents, (size, sampling.noises, *self.sample_shape))
        fresh = {}
        if sampling.noises > 1:
            fresh["noises"] = tf.transpose(noises[:, 1:], (1, 0, 2, 3, 4))
        images = sampler.SAMPLERS[sampling.sampler](
            self.denoiser().guided(labels, sampling.guidance),
            self.parametrisation,
            self.parametrisation.prior_scale * noises[:, 0],
            sampling.steps,
            **fresh,
        )
        return tf.clip_by_value(images, -1.0, 1.0) if self.pixels else images

    def latents_of(self, count: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        """Returns what gives the noise of images by their numbers, drawn in blocks.

        The noise is as large as the images, or a few times as large, and all of it
        would not fit into memory. Arguments and answer are those of
        `ImagePlayers.latents_of`.
        """

        @functools.lru_cache(maxsize=2)
        def block(index: int) -> np.ndarray:
            first = index * _BLOCK
            own = seed
            if index:
                own = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
            return np.asarray(self.latent(min(_BLOCK, count - first), seed=own))

        def of(rows: np.ndarray) -> np.ndarray:
            return np.stack(
                [block(row // _BLOCK)[row % _BLOCK] for row in rows.tolist()]
            )

        return of

    # ---- saving

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments that all of them have, serialised."""
        serialize = keras.saving.serialize_keras_object
        return super().get_config() | {
            "parametrisation": serialize(self.parametrisation),
            "sampling": dataclasses.asdict(self.sampling),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> DiffusionPlayers:
        """Makes the model again from `get_config`'s answer; see `Players`."""
        sampling = Sampling(**config["sampling"])
        return super().from_config(config | {"sampling": sampling}, custom_objects)


@keras.saving.register_keras_serializable("tf_ttur")
class Diffusion(DiffusionPlayers):
    """A diffusion model: a network learns to take noise out, and so to make images.

    Each step draws a noise level for every image, adds that much noise, and has the
    network say what the noise was (or the image, see `parametrisations`). Images are
    then made of noise alone, which a sampler takes out in steps.

    Args:
        network: As `Denoiser` takes it, built.
        parametrisation: A name such as `"edm"`, `"vp-eps"`, `"flow:3"`, or an object;
            see `parametrisations.get`.
        num_classes: If given, the network is told the class of an image.
        label_dropout: The share of the labels that are hidden from the network, which
            learns to do without; guidance needs it (Ho and Salimans 2021).
        sampling: How images are made, a `Sampling`; it can be set at any time.
        ema_decay: If not 0, images are made by an exponential moving average of the
            network's weights; see `Players`.
        ema_start: The step from which the average is kept; see `Players`.
        seed: Seed of everything random in training.
        image_key: Where a data set yields dicts, the key of the images.
        label_key: Likewise, of the labels.
        **kwargs: As for `keras.Model`.

    Raises:
        ValueError: The network does not take what it is given, or an argument is out of
            its range.

    Example:
        >>> import numpy as np, tf_ttur
        >>> from tf_ttur.distillation.diffusion import Diffusion, Sampling
        >>> from tf_ttur.networks import unet
        >>> model = Diffusion(
        ...     unet.denoiser(8, 1, width=8, multipliers=(1,), blocks=1),
        ...     sampling=Sampling(steps=2))
        >>> model.compile(network_optimizer="adam", jit_compile=False)
        >>> images = np.zeros((8, 8, 8, 1), "float32")
        >>> sorted(model.fit(images, batch_size=4, verbose=0).history)
        ['loss', 'lr']
        >>> model.generate(2, seed=0).shape
        (2, 8, 8, 1)
    """

    called = "Diffusion"

    def __init__(
        self,
        network: keras.Model,
        parametrisation: Any = "edm",
        *,
        num_classes: int | None = None,
        label_dropout: float = 0.1,
        sampling: Sampling | None = None,
        ema_decay: float = 0.0,
        ema_start: int = 0,
        seed: int = 0,
        image_key: str = "image",
        label_key: str = "label",
        **kwargs: Any,
    ):
        kinds = {"label_dropout": DECAY, "ema_decay": DECAY}
        kinds["ema_start"] = Annotated[int, Between(0)]
        found = refusals.checked(
            kinds, label_dropout=label_dropout, ema_decay=ema_decay, ema_start=ema_start
        )
        # Before the sampling, whose guidance needs it.
        object.__setattr__(self, "label_dropout", float(found["label_dropout"]))
        super().__init__(
            {"network": network},
            parametrisation=parametrisation,
            sampling=sampling or Sampling(),
            sample_shape=sample_shape(network, num_classes is not None),
            num_classes=num_classes,
            averages={"network": found["ema_decay"]},
            average_starts={"network": found["ema_start"]},
            seed=seed,
            image_key=image_key,
            label_key=label_key,
            **kwargs,
        )
        self.label_dropout = float(found["label_dropout"])
        self.ema_decay = float(found["ema_decay"])
        self.ema_start = found["ema_start"]

    def compile(
        self,
        *,
        network_optimizer: Any,
        jit_compile: bool | None = None,
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
        gradient_norms: bool = False,
        **others: Any,
    ) -> None:
        """Sets how the network is trained, and builds its optimizer.

        Args:
            network_optimizer: An optimizer, or what `optimizers.get` makes one of.
            jit_compile: Compile the step by XLA; see `Players.compile`.
            steps_per_execution: Steps in one call of the compiled function.
            run_eagerly: Run the step line by line in Python, slowly, to debug it.
            gradient_norms: Log the squared norm of the gradient, as `gradient`.
            **others: None; those that Keras takes are refused with what to use instead.

        Raises:
            TypeError: There is no such argument.
            ValueError: As for `Players.compile`.
        """
        refusals.refuse_others(others, f"{type(self).__name__}.compile")
        super().compile(
            optimizers={"network": network_optimizer},
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            gradient_norms=gradient_norms,
        )

    loss_names = ("loss",)

    def gradient_names(self) -> dict[str, str]:
        """Returns the name of the gradient's norm in the logs."""
        return {"network": "gradient"}

    def learning_rates(self) -> dict[str, tf.Tensor]:
        """Returns the learning rate, under the name it is logged by."""
        return {"lr": learning_rate(self.network_optimizer)}

    # ---- one step

    def denoising_loss(self, real: Any) -> tf.Tensor:
        """Computes the loss of a batch, with noise levels and noise drawn for it.

        Args:
            real: Images, float32 (n, H, W, C); with `num_classes`, `Labelled`.

        Returns:
            The mean over the images, a scalar.
        """
        images, labels = images_of(real), labels_of(real)
        share = replicas.share(images)
        times = self.noise(self.parametrisation.draw, share)
        noise = self.noise(normal_of(self.sample_shape), share)
        if labels is not None and self.label_dropout:
            labels = tf.where(
                self.noise(_uniform, share) < self.label_dropout,
                self.num_classes,
                labels,
            )
        noisy = self.parametrisation.corrupt(images, noise, times)
        denoiser = Denoiser(self.network, self.parametrisation, self.num_classes)
        output = denoiser.output(noisy, times, labels, training=self.in_training)
        return tf.reduce_mean(self.parametrisation.loss(output, images, noise, times))

    def one_step(self, data: Any) -> None:
        """Makes one update of the network.

        Args:
            data: What the data set yields; see `prepare_real`.
        """
        real = self.prepared(data)
        share = replicas.share(images_of(real))
        with tf.GradientTape() as tape:
            loss = self.denoising_loss(real)
            scaled = self.objective(loss, "network", share)
        self.apply(tape, scaled, "network")
        self.track({"loss": loss}, share)

    def held_out(self, data: Any) -> None:
        """Computes and tracks the loss of held-out images.

        Args:
            data: What the data set yields; see `prepare_real`.
        """
        real = self.prepared(data)
        share = replicas.share(images_of(real))
        self.track({"loss": self.denoising_loss(real)}, share)

    # ---- sampling

    def denoiser(self) -> Denoiser:
        """Returns the network that samples, with its parametrisation."""
        network = self.averaged_network or self.network
        return Denoiser(network, self.parametrisation, self.num_classes)

    # ---- saving

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, serialised."""
        return super().get_config() | {
            "label_dropout": self.label_dropout,
            "ema_decay": self.ema_decay,
            **({"ema_start": self.ema_start} if self.ema_start else {}),
        }


def normal_of(shape: tuple[int, ...]) -> Callable[..., tf.Tensor]:
    """Returns what draws standard normal noise of a shape, for `Players.noise`.

    Args:
        shape: The shape of one example.
    """

    def draw(count: Any, seed: Any) -> tf.Tensor:
        return keras.random.normal((count, *shape), dtype="float32", seed=seed)

    return draw


def _uniform(count: Any, seed: Any) -> tf.Tensor:
    return keras.random.uniform((count,), dtype="float32", seed=seed)


def sample_shape(network: keras.Model, labelled: bool) -> tuple[int, ...]:
    """Returns the shape of the images that a network takes and gives.

    Args:
        network: A network as `Denoiser` takes it.
        labelled: Whether it is to take labels.

    Raises:
        ValueError: It takes or gives something else.
    """
    wanted = (
        "[images, noise condition, labels]"
        if labelled
        else ("[images, noise condition]")
    )
    inputs = getattr(network, "inputs", None) or []
    shape = tuple(inputs[0].shape[1:]) if inputs else ()
    outputs = getattr(network, "outputs", None) or []
    if (
        len(inputs) != 2 + labelled
        or len(outputs) != 1
        or len(shape) != 3
        or None in shape
        or tuple(outputs[0].shape[1:]) != shape
    ):
        raise ValueError(
            f"The network takes {[tuple(x.shape) for x in inputs]} and gives "
            f"{[tuple(x.shape) for x in outputs]}; Diffusion needs one that takes "
            f"{wanted} and gives an array of the images' shape, all sizes known, as "
            "tf_ttur.networks.unet makes."
        )
    return shape
