"""`ImagePlayers`: players that learn from images, with or without labels.

What a data set may yield, and what is refused of it, is the same for a GAN and for a
diffusion model; it stands here once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from fid.values import Count
from tf_ttur import labels as classes
from tf_ttur import refusals, xla
from tf_ttur.labels import Labelled
from tf_ttur.players import Players

__all__ = ["ImagePlayers"]


class ImagePlayers(Players):
    """Networks that are trained on images in [-1, 1], and perhaps on their labels.

    A subclass calls `self.prepared(data)` for what a step is given.

    Args:
        networks: As for `Players`.
        sample_shape: Shape of an image, (H, W, C), or of whatever stands for one.
        image_key: Where a data set yields dicts, the key of the images in them.
        num_classes: If given, each image has a label in [0, num_classes).
        label_key: Where a data set yields dicts, the key of the labels in them.
        pixels: Whether images are pixels in [-1, 1]. Latents of an autoencoder are not:
            their range is neither checked nor kept to.
        **options: As for `Players`.

    Attributes:
        sample_shape: The shape of an image.
        num_classes: The number of classes, or None.

    Raises:
        ValueError: An argument cannot be.
    """

    #: What messages call it.
    called: ClassVar[str] = "model"
    #: What makes its images.
    maker: ClassVar[str] = "network"

    def __init__(
        self,
        networks: Mapping[str, Any],
        *,
        sample_shape: tuple[int, ...],
        image_key: str = "image",
        num_classes: int | None = None,
        label_key: str = "label",
        pixels: bool = True,
        **options: Any,
    ):
        kinds = {"num_classes": Count | None, "pixels": refusals.Switch}
        refusals.checked(kinds, num_classes=num_classes, pixels=pixels)
        super().__init__(networks, **options)
        self.image_key, self.label_key = image_key, label_key
        self.num_classes = None if num_classes is None else int(num_classes)
        self.sample_shape = tuple(sample_shape)
        self.pixels = bool(pixels)
        self._generate = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image that is generated."""
        return self.sample_shape

    def compile(self, **settings: Any) -> None:
        """Sets how the networks are trained; see `Players.compile`.

        Args:
            **settings: As there.
        """
        super().compile(**settings)
        self._generate = None

    def prepare_real(self, data: Any) -> tf.Tensor | Labelled:
        """Takes the images, and labels, out of what the data set yields.

        Args:
            data: Images, or a dict with the images under `image_key`, or a pair that
                starts with one of these. With `num_classes` labels belong to it: the
                second of the pair, or what the dict has under `label_key`.

        Returns:
            Real images, float32 (n, H, W, C) in [-1, 1]; with `num_classes`, `Labelled`
            of these and their labels.

        Raises:
            ValueError: They have another shape or dtype than the generator's images,
                or the data set does not yield images where this looks for them, or
                labels that are whole numbers, one for each.
        """
        if isinstance(data, tuple) and len(data) == 3 and data[2] is not None:
            raise ValueError(
                "The data set yields triples, whose third part Keras takes for weights "
                "of the examples; the losses here take none. Map it to images or "
                "(images, labels)."
            )
        real = self._images(data)
        if not tf.is_tensor(real):
            found = data[0] if isinstance(data, tuple | list) and data else data
            raise ValueError(
                f"The data set yields {_describe(found)}, in which {self.called} does "
                "not find the images. It takes images, (images, labels), or dicts with "
                f"the key image_key={self.image_key!r}: name the key, "
                f"{self.called}(..., image_key=...), map the data set, or override "
                "prepare_real."
            )
        if not real.dtype.is_floating:
            raise ValueError(
                f"Real images are {real.dtype.name}; {self.called} needs floats in "
                "[-1, 1]: use tf.cast(images, tf.float32) / 127.5 - 1."
            )
        if not real.shape[1:].is_compatible_with(self.sample_shape):
            raise ValueError(
                f"Real images have shape {tuple(real.shape[1:])}; the {self.maker} "
                f"makes {self.sample_shape}."
            )
        real = tf.cast(real, tf.float32)
        if self.num_classes is None:
            return real
        return Labelled(real, classes.as_labels(self._labels(data), self.num_classes))

    def _labels(self, data: Any) -> Any:
        """Finds the labels in what a data set yields."""
        first = data[0] if isinstance(data, tuple | list) and data else data
        if isinstance(first, Mapping) and self.label_key in first:
            return first[self.label_key]
        if isinstance(data, tuple | list) and len(data) > 1:
            return data[1]
        raise ValueError(
            f"The data set yields no labels; a {self.called} with "
            f"num_classes={self.num_classes} takes (images, labels), or dicts with the "
            f"key label_key={self.label_key!r}."
        )

    def _images(self, data: Any) -> Any:
        """Finds the images in what a data set yields."""
        data = data[0] if isinstance(data, tuple | list) and data else data
        return data.get(self.image_key) if isinstance(data, Mapping) else data

    def check_first(self, data: Any) -> None:
        """Refuses first images that are none, not finite or far from [-1, 1].

        With `num_classes`, labels that are of no class are refused, too; `check_all`
        looks at those of later batches. A subclass that overrides `prepare_real` may
        take images of any range.

        Args:
            data: What the data set yields.

        Raises:
            ValueError: There are none, or their values cannot be.
        """
        if self.num_classes is not None:
            # A `prepare_real` of a subclass may draw, and looking is to change nothing.
            states = [(state, state.numpy()) for state in self._random_states()]
            real = self.prepared(data)
            for state, before in states:
                state.assign(before)
            if len(real.labels) != len(real.images):
                raise ValueError(
                    f"There are {len(real.labels)} labels for {len(real.images)} "
                    "images; each image needs one."
                )
            classes.check_range(real.labels.numpy(), self.num_classes)
        images = self._images(data)
        own = type(self).prepare_real is not ImagePlayers.prepare_real
        if not own and tf.is_tensor(images) and images.dtype.is_floating:
            real = tf.cast(images, tf.float32).numpy()
            _check_finite(real)
            if len(self.sample_shape) == 3 and self.pixels:
                _check_range(real, self.called)

    def check_all(self, x: Any, y: Any = None) -> Any:
        """Refuses labels that are of no class, wherever they are in the data.

        Those of arrays are looked at now, and those of a `tf.data.Dataset` as each
        batch is read. Of other loaders, and where a subclass overrides `prepare_real`,
        it is the first batch only: see `check_first`.

        Args:
            x: What Keras takes.
            y: Likewise.

        Returns:
            `x`, or a data set that fails at a batch with such labels.

        Raises:
            ValueError: An array has some.
        """
        own = type(self).prepare_real is not ImagePlayers.prepare_real
        if self.num_classes is None or own:
            return x
        spec = getattr(x, "element_spec", x)
        try:
            found = self._labels(spec if y is None else (spec, y))
        except ValueError:
            return x  # There are none, which the first step says.
        dense = isinstance(found, np.ndarray | tf.TensorSpec) or tf.is_tensor(found)
        if not dense or not tf.as_dtype(found.dtype).is_integer:
            return x
        if isinstance(x, tf.data.Dataset):
            return classes.check_each(x, self._labels, self.num_classes)
        if not isinstance(found, tf.TensorSpec):
            classes.check_range(found, self.num_classes)
        return x

    def explain(self, error: tf.errors.OpError) -> None:
        """Says which labels a data set had that are of no class.

        Args:
            error: TensorFlow's.

        Raises:
            ValueError: It is of such labels.
        """
        if self.num_classes is not None:
            classes.check_told(error, self.num_classes)

    def check_given(self, x: Any, method: str) -> None:
        """Refuses a list of single images, each of which Keras takes for an input.

        Args:
            x: What a method of Keras was called with.
            method: Which method, for the message.

        Raises:
            ValueError: It is such a list.
        """
        super().check_given(x, method)
        if isinstance(x, list | tuple) and x and np.shape(x[0]) == self.sample_shape:
            raise ValueError(
                f"{method} was given a {type(x).__name__} of {len(x)} images; it takes "
                "them in one array: stack them, np.stack(images)."
            )

    def prepared(self, data: Any) -> tf.Tensor | Labelled:
        """Returns what `prepare_real` does, and sees that it is of the right kind.

        Args:
            data: What the data set yields.

        Raises:
            ValueError: As `prepare_real`, or a subclass's returned something else.
        """
        real = self.prepare_real(data)
        if (self.num_classes is not None) != isinstance(real, Labelled):
            raise ValueError(
                f"{type(self).__name__}.prepare_real returns a {type(real).__name__}; "
                f"with num_classes={self.num_classes} it is to return "
                f"{'images' if self.num_classes is None else 'Labelled'}."
            )
        return real

    def minibatches(self, real: Any, count: int, what: str) -> list[Any]:
        """Shares a batch out to the updates of one step, each with images of its own.

        Args:
            real: What `prepared` returned.
            count: How many updates.
            what: What they are, for the message.

        Returns:
            As many batches.

        Raises:
            ValueError: The images cannot be shared evenly.
        """
        if count == 1:
            return [real]
        images = classes.images_of(real)
        size = images.shape[0]
        message = (
            f"A batch of {size or 'some'} images cannot be shared by {count} {what}; "
            f"batch by a multiple of {count} and drop the remainder "
            "(tf_ttur.datasets.group)."
        )
        if size is None:
            tf.debugging.assert_equal(tf.shape(images)[0] % count, 0, message)
        elif size % count:
            raise ValueError(message)
        # Every k-th image: so the minibatches of replicas, each of which holds a
        # stretch of the global batch, make up the minibatches of one device.
        return [
            tf.nest.map_structure(lambda each: each[index::count], real)  # noqa: B023
            for index in range(count)
        ]

    # ---- sampling

    latent: Any
    """The distribution of what images are made of; a subclass sets it."""

    def call(self, latents: Any, training: bool = False) -> tf.Tensor:
        """Makes images of latents; a subclass says how.

        Args:
            latents: Float32 (n, latent.dimension); with `num_classes` a list of these
                and of labels, whole numbers (n,).
            training: As for any Keras model.

        Returns:
            Images, float32 (n, H, W, C) in [-1, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} lacks call.")

    def generate(
        self,
        count: int,
        seed: int | None = None,
        batch_size: int = 256,
        labels: int | Sequence[int] | np.ndarray | None = None,
    ) -> np.ndarray:
        """Generates images, without touching the state of training.

        Args:
            count: How many.
            seed: Seed of the latents; equal seeds give equal images. None draws one.
            batch_size: Images at a time; it does not change the result's latents.
            labels: With `num_classes`, the class of all images, or one for each,
                (count,). None draws them uniformly, from the seed.

        Returns:
            Float32 array (count, H, W, C) in [-1, 1].

        Raises:
            ValueError: As for `generate_batches`.
        """
        return np.concatenate(
            list(self.generate_batches(count, seed, batch_size, labels))
        )

    def generate_batches(
        self,
        count: int,
        seed: int | None = None,
        batch_size: int = 256,
        labels: int | Sequence[int] | np.ndarray | None = None,
    ) -> Iterator[np.ndarray]:
        """As `generate`, batch by batch, for more images than fit in memory.

        Args:
            count: How many in all.
            seed: Seed of the latents. None draws one.
            batch_size: Images in each batch but the last.
            labels: As for `generate`.

        Yields:
            Float32 arrays (<= batch_size, H, W, C) in [-1, 1].

        Raises:
            ValueError: `count` or `batch_size` is no positive whole number, or there
                cannot be such labels.
        """
        count, batch_size = refusals.checked(
            {"count": Count, "batch_size": Count}, count=count, batch_size=batch_size
        ).values()
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        if labels is not None and self.num_classes is None:
            raise ValueError(
                f"This {self.called} has no classes, so it makes no images of given "
                "labels; make it with num_classes, and train it on (images, labels)."
            )
        if self._generate is None:
            compiled = bool(self.compiled and self.jit_compile)

            def generate(*given: tf.Tensor) -> tf.Tensor:
                with xla.for_xla(compiled):
                    latents = given[0] if len(given) == 1 else list(given)
                    return self(latents, training=False)

            self._generate = tf.function(generate, jit_compile=compiled)
        latents = self.latents_of(count, seed)
        chosen = []
        if self.num_classes is not None:
            chosen.append(classes.chosen(labels, count, self.num_classes, seed))
        batch_size = min(batch_size, count)
        for start in range(0, count, batch_size):
            # The last batch is filled up with the first latents: a smaller one would
            # compile a program of its own, and other numbers than latents would show in
            # networks that look at their whole batch.
            rows = np.arange(start, start + batch_size) % count
            batch = [latents(rows), *(each[rows] for each in chosen)]
            images = np.asarray(self._generate(*batch), "float32")
            yield images[: count - start]

    def latents_of(self, count: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        """Returns what gives the latents of images by their numbers.

        Args:
            count: How many images there are in all.
            seed: Seed of the latents.

        Returns:
            A function of numbers, integers (n,) below `count`, that gives their
            latents, float32 (n, latent.dimension).
        """
        drawn = np.asarray(self.latent(count, seed=seed))
        return lambda rows: drawn[rows]

    # ---- saving

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments that are not the usual ones."""
        return super().get_config() | {
            **({"image_key": self.image_key} if self.image_key != "image" else {}),
            **({"num_classes": self.num_classes} if self.num_classes else {}),
            **({"label_key": self.label_key} if self.label_key != "label" else {}),
            **({} if self.pixels else {"pixels": False}),
        }


def _check_finite(real: np.ndarray) -> None:
    if not real.size:
        raise ValueError(
            "The first batch is empty: losses are means over images, and it has none. "
            "Leave out empty batches (data.filter, or drop_remainder=True)."
        )
    if wrong := int((~np.isfinite(real)).sum()):
        raise ValueError(
            f"Of {real.size} values of the first real images {wrong} are NaN or "
            "infinite; the networks would learn nothing else. Mend or leave out those "
            "images."
        )


def _check_range(images: np.ndarray, called: str) -> None:
    """Refuses images that are far from [-1, 1]; a resize may go a little beyond.

    Args:
        images: Some real images.
        called: What the model is called.

    Raises:
        ValueError: They are.
    """
    low, high = float(images.min()), float(images.max())
    if low < -1.5 or high > 1.5:
        advice = "of images in [0, 255] use images / 127.5 - 1"
        if low < 0 or high > 255.5:
            advice = "of images in [a, b] use (images - a) / (b - a) * 2 - 1"
        raise ValueError(
            f"Real images span {low:g} to {high:g}; {called} needs floats in [-1, 1]: "
            f"{advice}."
        )
    if 0 <= low < high <= 1:
        warnings.warn(
            f"The first real images span {low:g} to {high:g}, and none has a negative "
            f"value; {called}, its samples and distances expect [-1, 1]: of images in "
            "[0, 1] use images * 2 - 1.",
            stacklevel=2,
        )


def _describe(data: Any) -> str:
    if isinstance(data, Mapping):
        return f"dicts with the keys {', '.join(map(repr, data))}"
    return f"a {type(data).__name__}"
