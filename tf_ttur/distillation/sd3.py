"""Stable Diffusion 3 as teacher, student and fake score, on one frozen base.

The networks are Keras Hub's (extra `[hub]`): the transformer that takes noise out of
latents (MMDiT; Esser et al. 2024), the autoencoder, and two text encoders, with T5
where the preset has it. `networks` makes of them what `FlashDMD` takes:

- The teacher is the transformer itself. The student and the fake score are the same
  transformer with an adapter each (`tf_ttur.networks.lora`), so all three take the
  memory of one.
- Texts are numbers (`tf_ttur.distillation.prompts`). `num_classes` is how many there
  are, and the label behind the last is the empty text.
- "Images" of the training are latents. The discriminator sees pixels: its frozen
  encoder decodes latents and looks at the pixels with SAM's encoder. Real images are
  decoded from their latents, too, or the autoencoder's traces would tell them apart.

Texts and images are encoded once, into files of a folder. The parametrisation is
`parametrisation(backbone)`, and latents are no pixels: `FlashDMD(..., pixels=False)`.

    backbone, preprocessor = sd3.load("stable_diffusion_3_medium", (512, 512, 3))
    texts = prompts.read("prompts.txt")
    embedded = sd3.embed(backbone, preprocessor, texts, "cache")
    real = sd3.latents(backbone, files, "cache").values
    made = sd3.networks(backbone, embedded, sam.load("sam_base_sa1b", (512, 512, 3)))
    model = FlashDMD(
        made.student, made.fake_score, heads, made.teacher, made.encoder,
        made.decoder, parametrisation=sd3.parametrisation(backbone),
        num_classes=embedded.count, pixels=False)
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import string
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fid import npz
from fid.extractors.extractor import weights_sha256
from fid.files import InputError, atomic_write, printable, sha256_of_file
from fid.mistaken import local_path
from tf_ttur.datasets import pictures
from tf_ttur.distillation.prompts import Prompts, PromptTable, cached
from tf_ttur.networks import hub, lora

__all__ = [
    "Cost",
    "Latents",
    "Networks",
    "cost",
    "decoder",
    "embed",
    "known",
    "latents",
    "load",
    "networks",
    "parametrisation",
    "passes",
    "sizes",
    "small",
]

_log = logging.getLogger(__name__)
_ADVICE = (
    "The weights of Stable Diffusion 3 Medium are under Stability AI's community "
    "licence: accept it at huggingface.co/stabilityai/stable-diffusion-3-medium, and "
    "at Kaggle's keras/stablediffusion3, from where Keras Hub downloads them with a "
    "network and an account (KAGGLE_USERNAME, KAGGLE_KEY); or give a preset's folder."
)
# The layers of the transformer that are adapted begin with these names.
_TARGETS = ("attention_",)
# Texts that are embedded at a time; both halves of them are.
_TEXTS = 16


@dataclasses.dataclass(frozen=True)
class Networks:
    """What `FlashDMD` takes.

    Attributes:
        student: The base with an adapter: `[latents, 1000 t, numbers of texts]` ->
            velocities like the latents.
        fake_score: Likewise, with an adapter of its own.
        teacher: The base.
        encoder: The discriminator's frozen encoder: latents -> a list of maps.
        decoder: What makes images of latents; see `decoder`.
    """

    student: keras.Model
    fake_score: keras.Model
    teacher: keras.Model
    encoder: keras.Model
    decoder: keras.Model


@dataclasses.dataclass(frozen=True)
class Latents:
    """Encoded images.

    Attributes:
        values: Float16 (n, H / 8, W / 8, 16), as the transformer knows latents; a file
            that is read as it is used.
        fingerprint: Hexadecimal digits that say what they were made of: the encoder,
            and the images.
    """

    values: np.ndarray
    fingerprint: str


def load(
    preset: str | os.PathLike[str], image_shape: tuple[int, int, int], **options: Any
) -> tuple[Any, Any]:
    """Loads Stable Diffusion 3 from a preset of Keras Hub.

    Args:
        preset: Its name, such as `"stable_diffusion_3_medium"`, its address, or its
            folder.
        image_shape: The shape of images, multiples of 8 (and of the transformer's
            patches) high and wide; what the model was trained at is (1024, 1024, 3).
        **options: As `from_preset` of Keras Hub takes them. `dtype` is the
            transformer's; the text encoders and the autoencoder of a saved preset keep
            the types that are written there. `"bfloat16"` halves the memory, but then
            Keras Hub rounds the time that the transformer is told, up to 1000, to
            multiples of 4.

    Returns:
        The backbone, and what makes tokens of texts.

    Raises:
        InputError: Keras Hub is not installed, or it cannot load the preset.
    """
    found = hub.from_preset(
        "StableDiffusion3TextToImage",
        preset,
        _ADVICE,
        image_shape=tuple(image_shape),
        **options,
    )
    return found.backbone, found.preprocessor


def small(
    image_size: int = 32,
    width: int = 16,
    layers: int = 2,
    seed: int = 0,
    dtype: str = "float32",
) -> tuple[Any, Any]:
    """Makes a small Stable Diffusion 3 with random weights, to try everything out.

    Its tokens are single letters and digits. The autoencoder, whose normalisations
    need 32 channels, has most of the weights.

    Args:
        image_size: The height and width of images, a multiple of 16.
        width: The hidden size of the transformer and of the text encoders, even.
        layers: The transformer's blocks.
        seed: Seed of the weights.
        dtype: Their type, and that of the computation.

    Returns:
        As `load`.

    Raises:
        InputError: Keras Hub is not installed.

    Example:
        >>> from tf_ttur.distillation import sd3
        >>> backbone, _ = sd3.small()
        >>> tuple(backbone.diffuser.input["latent"].shape)
        (None, 4, 4, 16)
    """
    models = hub.imported().models
    # The public names lack it.
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    letters = [*string.ascii_lowercase, *string.digits]
    letters += [f"{each}</w>" for each in letters]
    # Keras Hub's tokenizer needs one rule at least. The projection looks for a text's
    # end at its largest number.
    letters += ["at</w>", "<|startoftext|>", "<|endoftext|>"]

    def clip(name: str) -> Any:
        return models.CLIPTextEncoder(
            vocabulary_size=len(letters), embedding_dim=width, hidden_dim=width,
            num_layers=2, num_heads=2, intermediate_dim=2 * width,
            intermediate_output_index=-2, max_sequence_length=8, name=name,
            dtype=dtype,
        )  # fmt: skip

    def tokens(pad_with_end: bool) -> Any:
        tokenizer = models.CLIPTokenizer(
            {each: i for i, each in enumerate(letters)},
            merges=["a t</w>"],
            pad_with_end_token=pad_with_end,
        )
        return models.CLIPPreprocessor(tokenizer, sequence_length=8)

    backbone = models.StableDiffusion3Backbone(
        mmdit_patch_size=2, mmdit_hidden_dim=width, mmdit_num_layers=layers,
        mmdit_num_heads=2, mmdit_position_size=image_size // 16,
        mmdit_qk_norm=None, mmdit_dual_attention_indices=None,
        vae=VAEBackbone(
            [32, 32, 32, 32], [1, 1, 1, 1], [32, 32, 32, 32], [1, 1, 1, 1],
            dtype=dtype,
        ),
        clip_l=clip("clip_l"), clip_g=clip("clip_g"),
        image_shape=(image_size, image_size, 3), dtype=dtype,
    )  # fmt: skip
    random = np.random.default_rng(seed)
    for weight in backbone.trainable_variables:
        drawn = random.normal(size=weight.shape)
        if len(weight.shape) > 1:
            # Keras Hub starts them without a seed.
            weight.assign(drawn / np.sqrt(np.prod(weight.shape[:-1])))
        else:
            # So that no part is without effect: biases start at 0.
            weight.assign(np.asarray(weight.numpy(), "float32") + 0.5 * drawn)
    preprocessor = models.StableDiffusion3TextToImagePreprocessor(
        clip_l_preprocessor=tokens(True), clip_g_preprocessor=tokens(False)
    )
    return backbone, preprocessor


def networks(
    backbone: Any,
    embedded: Prompts,
    encoder: keras.Model,
    *,
    rank: int = 64,
    alpha: float = 8.0,
    targets: Sequence[str] = _TARGETS,
    seed: int = 0,
) -> Networks:
    """Makes the networks of a distillation.

    The adapters of the student and of the fake score start equal, with the same A, so
    that a pull of one to the other, which is of A and B by themselves, keeps meaning
    something.

    Args:
        backbone: What `load` or `small` returned. Its transformer and autoencoder are
            frozen; the text encoders are not needed any more.
        embedded: What `embed` returned.
        encoder: A frozen network: images (n, H, W, 3) in [-1, 1] -> a list of maps;
            `networks.sam` makes one.
        rank: Of the adapters (SenseFlow: 64).
        alpha: Likewise (SenseFlow: 8).
        targets: How the names of the layers begin that are adapted.
        seed: Seed of the adapters.

    Returns:
        The networks.

    Raises:
        InputError: They do not go together.
    """
    diffuser = backbone.diffuser
    table = _remembered(backbone, embedded)

    def adapted() -> Any:
        return lora.Adapted(diffuser, rank, alpha, targets, seed)

    pixels = decoder(backbone)
    if pixels.outputs[0].shape[1:] != encoder.inputs[0].shape[1:]:
        raise InputError(
            f"The encoder is for images of {tuple(encoder.inputs[0].shape[1:])}, the "
            f"autoencoder makes {tuple(pixels.outputs[0].shape[1:])}."
        )
    start = keras.Input(pixels.inputs[0].shape[1:], name="latents")
    looking = keras.Model(start, encoder(pixels(start)), name="decoded_maps")
    looking.trainable = False
    return Networks(
        student=_denoiser(diffuser, adapted(), table, "student"),
        fake_score=_denoiser(diffuser, adapted(), table, "fake_score"),
        teacher=_denoiser(diffuser, diffuser, table, "teacher"),
        encoder=looking,
        decoder=pixels,
    )


@contextlib.contextmanager
def known(backbone: Any, embedded: Prompts) -> Iterator[PromptTable]:
    """Makes a base and texts known, so that a file of a student can be loaded.

    Such a file holds adapters, and names the base and the texts. What is loaded while
    they are known keeps them.

    Args:
        backbone: What `load` or `small` returned.
        embedded: What `embed` returned.

    Yields:
        A layer with the texts.

    Raises:
        InputError: They do not go together.
    """
    table = _remembered(backbone, embedded)
    yield table


def _remembered(backbone: Any, embedded: Prompts) -> PromptTable:
    """Sees that the two go together; then files, and copies, find what they lack."""
    diffuser = backbone.diffuser
    diffuser.trainable = False
    wanted = (
        diffuser.input["context"].shape[-1],
        *(diffuser.input["pooled_projection"].shape[1:]),
    )
    found = embedded.shape[1], *embedded.pooled.shape[1:]
    if found != wanted:
        raise InputError(
            f"The transformer takes embeddings of the widths {wanted}, those of the "
            f"texts have {found}: embed them with this model's encoders."
        )
    table = PromptTable(embedded)
    lora.remember(diffuser)
    table.remember()
    return table


def _denoiser(diffuser: Any, called: Any, table: PromptTable, name: str) -> keras.Model:
    """Makes a network as `Denoiser` takes it, of the transformer with an adapter."""
    shape = tuple(diffuser.input["latent"].shape[1:])
    given = keras.Input(shape, name="latents")
    time = keras.Input((), name="noise")
    numbers = keras.Input((), dtype="int32", name="labels")
    context, pooled = table.sharing()(numbers)
    velocity = called(
        {
            "latent": given,
            "context": context,
            "pooled_projection": pooled,
            "timestep": keras.layers.Reshape((1,))(time),
        }
    )
    # Keras Hub says no height and width of it, and may compute it in half precision.
    output = keras.layers.Reshape(shape, dtype="float32")(velocity)
    return keras.Model([given, time, numbers], output, name=name)


def parametrisation(backbone: Any) -> str:
    """Says what the transformer's output means, and for which noise it was trained.

    Args:
        backbone: What `load` or `small` returned.

    Returns:
        What `Denoiser` takes: a flow, with the shift that the backbone is sampled with.

    Example:
        >>> from tf_ttur.distillation import sd3
        >>> backbone, _ = sd3.small()
        >>> sd3.parametrisation(backbone)
        'flow:3'
    """
    return f"flow:{float(backbone.scheduler.shift):g}"


def decoder(backbone: Any) -> keras.Model:
    """Makes the network that turns latents into images.

    Args:
        backbone: What `load` or `small` returned. Its autoencoder is frozen.

    Returns:
        A Keras model, differentiable in its input: latents (n, H / 8, W / 8, 16), as
        the transformer knows them -> images, float32 (n, H, W, 3), mostly in [-1, 1].
    """
    latent = keras.Input(backbone.latent_shape[1:], name="latents")
    pixels = backbone.vae.decoder(backbone.latent_rescaling(latent))
    shape = backbone.input["images"].shape[1:]
    images = keras.layers.Reshape(shape, dtype="float32")(pixels)
    network = keras.Model(latent, images, name="decoder")
    network.trainable = False
    return network


def embed(
    backbone: Any,
    preprocessor: Any,
    texts: Sequence[str],
    folder: str | os.PathLike[str] | None = None,
) -> Prompts:
    """Embeds texts, and the empty one; or reads what was embedded before.

    How many texts fill all of CLIP's tokens is logged: what does not fit is cut off.

    Args:
        backbone: What `load` or `small` returned.
        preprocessor: Likewise.
        texts: The texts, at least one.
        folder: Where embeddings are kept, in a file that is named by the encoders'
            weights and type of computation, and the texts' tokens. None: nowhere.

    Returns:
        The embeddings.

    Raises:
        InputError: There is no text, a file there is damaged, or the embeddings are no
            finite numbers.
    """
    if not texts:
        raise InputError("There are no texts to embed.")
    tokens = {
        name: np.asarray(each, "int32")
        for name, each in preprocessor.generate_preprocess([*texts, ""]).items()
    }
    # This tokenizer fills up with what is no text's end.
    filling = preprocessor.clip_g_preprocessor.tokenizer.pad_token_id
    if full := int(np.count_nonzero(tokens["clip_g"][:, -1] != filling)):
        _log.warning(
            "%d of %d texts have all %d tokens that CLIP looks at, or more: what is "
            "behind these is cut off.",
            full,
            len(texts),
            tokens["clip_g"].shape[1],
        )
    parts = [getattr(backbone, name) for name in ("clip_l", "clip_g", "t5")]
    parts += [backbone.clip_l_projection, backbone.clip_g_projection]
    told = [
        f"{weights_sha256(part)} {part.compute_dtype}"
        for part in parts
        if part is not None
    ]
    fingerprint = _fingerprint(told, [tokens[name] for name in sorted(tokens)])

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        encode = tf.function(backbone.encode_text_step)
        count = len(texts) + 1
        for first in range(0, count, _TEXTS):
            # The last ones are filled up, so that one program is for all. It has two
            # inputs because guidance has.
            rows = np.minimum(np.arange(first, first + _TEXTS), count - 1)
            halves = np.split(rows, 2)
            one, two = ({k: v[half] for k, v in tokens.items()} for half in halves)
            found = [np.asarray(x, "float32") for x in encode(one, two)]
            context, pooled = np.concatenate(found[:2]), np.concatenate(found[2:])
            yield context[: count - first], pooled[: count - first]

    def made() -> Prompts:
        return Prompts.of_blocks(blocks(), fingerprint)

    return made() if folder is None else cached(folder, fingerprint, made)


def latents(
    backbone: Any,
    files: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    batch_size: int = 4,
) -> Latents:
    """Encodes images; or opens what was encoded before.

    Of each image the central square is scaled, and the mean of the latents that the
    encoder allows is taken.

    Args:
        backbone: What `load` or `small` returned, for square images.
        files: Image files, in the order of the latents.
        folder: Where latents are kept, in a file that is named by the encoder's
            weights and type of computation, and the images' contents.
        batch_size: Images at a time.

    Returns:
        The latents.

    Raises:
        InputError: There are no images, some cannot be read or encoded in finite
            numbers, or the file of latents is damaged or cannot be written.
    """
    height, width, _ = backbone.input["images"].shape[1:]
    if height != width or not files:
        raise InputError(
            f"Latents are of squares, of one image at least. Received: {len(files)} "
            f"images for a model of {height}x{width}."
        )
    vae, shape = backbone.vae, (len(files), *backbone.latent_shape[1:])
    types = f"{vae.encoder.compute_dtype} {backbone.image_rescaling.compute_dtype}"
    told = [weights_sha256(vae.encoder), types, f"{vae.scale} {vae.shift} {shape}"]
    told += pictures.each_file(sha256_of_file, files, files)
    fingerprint = _fingerprint(told, [])
    path = local_path(folder, writing=True) / f"latents-{fingerprint[:16]}.npy"
    if not path.exists():
        encode = tf.function(lambda x: _mean_latents(backbone, x))
        # It is written from its start to its end. In a file that is mapped into memory
        # a full disk would kill the process.
        with atomic_write(path) as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, len(files), batch_size):
                some = files[first : first + batch_size]
                read = pictures.each_file(
                    lambda each: pictures.picture(each, None, height), some, some
                )
                x = np.stack(read).astype("float32") / 127.5 - 1.0
                block = encode(x).numpy()
                if not np.isfinite(block).all():
                    raise InputError(
                        "The latents of some of these images are no finite numbers in "
                        f"float16: {pictures.listed([*map(printable, some)])}. Remove "
                        "these images; if it is so of all, the autoencoder lacks its "
                        "weights, or its type is too small."
                    )
                file.write(block.astype("<f2").tobytes())
    with npz.reading(path, ".npy"):
        found = np.lib.format.open_memmap(path, mode="r")
        if found.shape != shape or found.dtype != np.float16:
            raise InputError(
                f"{printable(path)} has {found.dtype} {found.shape}, and float16 "
                f"{shape} is due: delete it, and it is made again."
            )
    return Latents(found, fingerprint)


def _mean_latents(backbone: Any, images: Any) -> Any:
    moments = backbone.vae.encoder(images, training=False)
    mean, _ = tf.split(moments, 2, axis=-1)
    return tf.cast(backbone.image_rescaling(mean), tf.float16)


def _fingerprint(texts: Sequence[str], arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256("\n".join(texts).encode())
    for each in arrays:
        digest.update(f"{each.dtype} {each.shape}\n".encode())
        digest.update(np.ascontiguousarray(each).tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a transformer takes, by counting; nothing of it was measured.

    Attributes:
        parameters: Of the base.
        adapter: Parameters of one adapter.
        flops: Floating point operations of one pass of one image; products only.
        activations: Bytes that one image keeps for the gradient, at the least.
    """

    parameters: int
    adapter: int
    flops: int
    activations: int


def cost(
    image_size: int = 512,
    *,
    width: int = 1536,
    layers: int = 24,
    heads: int = 24,
    positions: int = 192,
    tokens: int = 154,
    context: int = 4096,
    pooled: int = 2048,
    channels: int = 16,
    patch: int = 2,
    rank: int = 64,
    bytes_each: int = 2,
) -> Cost:
    """Counts what the transformer of Stable Diffusion 3 takes; by default of Medium.

    With d the width, a block has two streams of 12 d^2 products for each token and
    18 d^2 + 15 d parameters; the last one of the texts has no way out. All tokens
    attend to each other: 2 d products for each pair. For the gradient a block keeps 17
    vectors of a token in the type of the computation and 2 in float32; and of each pair
    of tokens and each head a weight, in float32 and, if that is another, in the type
    of the computation, since TensorFlow's form of Keras Hub has no fused attention.

    How many passes a step takes, `passes` says.

    Args:
        image_size: Height and width of images.
        width: The hidden size.
        layers: The number of blocks.
        heads: The heads of attention.
        positions: The side of the table of positions.
        tokens: The tokens of a text; with T5 256 more or fewer, as it is asked.
        context: The width of their embeddings.
        pooled: The width of a whole text's embedding.
        channels: The channels of latents.
        patch: The side of a token's patch of latents.
        rank: The adapter's rank, on the layers that `networks` adapts.
        bytes_each: Bytes of a number in the type of the computation.

    Example:
        >>> from tf_ttur.distillation import sd3
        >>> for size in (512, 1024):
        ...     found = sd3.cost(size)
        ...     print(f"{found.flops / 1e12:.2f}e12, {found.activations / 1e9:.1f} GB")
        1.80e12, 6.6 GB
        8.44e12, 69.0 GB
    """
    d, side = width, image_size // 8 // patch
    pixels = patch * patch * channels
    streams = 2 * layers - 1
    parameters = (
        (pixels * d + d) + positions**2 * d + (context * d + d)
        + (pooled * d + d + d * d + d) + (256 * d + d + d * d + d)
        + streams * (18 * d * d + 15 * d) + (5 * d * d + 5 * d)
        + (2 * d * d + 2 * d) + (d * pixels + pixels)
    )  # fmt: skip
    adapter = rank * (2 * layers * 4 * d + streams * 2 * d)
    seen = side * side
    whole = seen + tokens
    products = (
        seen * (layers * 12 * d * d + 2 * pixels * d)
        + tokens * ((layers - 1) * 12 * d * d + 3 * d * d + context * d)
        + layers * 2 * whole * whole * d
    )
    weights = 4 + (bytes_each if bytes_each != 4 else 0)
    activations = layers * (
        whole * d * (17 * bytes_each + 2 * 4) + heads * whole * whole * weights
    )
    return Cost(parameters, adapter, 2 * products, activations)


def sizes(backbone: Any) -> dict[str, int]:
    """Returns what `cost` is to be told of a transformer, but for the texts' tokens.

    Args:
        backbone: What `load` or `small` returned. Of one whose blocks attend twice
            (Stable Diffusion 3.5) `cost` counts the first attention only.

    Example:
        >>> from tf_ttur.distillation import sd3
        >>> backbone, _ = sd3.small()
        >>> counted = sd3.cost(32, **sd3.sizes(backbone))
        >>> counted.parameters == backbone.diffuser.count_params()
        True
    """
    diffuser = backbone.diffuser
    return {
        "width": diffuser.hidden_dim,
        "layers": diffuser.num_layers,
        "heads": diffuser.num_heads,
        "positions": diffuser.position_size,
        "context": diffuser.context_shape[-1],
        "pooled": diffuser.pooled_projection_shape[-1],
        "channels": diffuser.latent_shape[-1],
        "patch": diffuser.patch_size,
    }


def passes(
    ratio: int = 1, anchors: int = 4, hard: bool = True, guided: bool = True
) -> float:
    """Counts the passes that a step of `FlashDMD` takes for each image, on average.

    For each update of the fake score the student's images are made: by the rollout, a
    pass an anchor, and where the split is hard by one more for what the discriminator
    judges; else the rollout ends at the anchor that was drawn. Then come 2 passes of
    the fake score. The student's update has 2 passes for each of its losses that has an
    image of its own, 1 of the fake score, and 1 of the teacher, or 2 where it is
    guided. A gradient through a frozen base is one more pass, not two: no gradients of
    its weights are due. The decoder's passes, and the encoder's, are not counted.

    Args:
        ratio: Updates of the fake score for one of the student.
        anchors: The student's steps.
        hard: Whether the split is hard.
        guided: Whether the teacher is guided.

    Example:
        >>> from tf_ttur.distillation import sd3
        >>> sd3.passes(), sd3.passes(ratio=2)
        (14.0, 21.0)
    """
    made = anchors + 1 if hard else (anchors + 1) / 2
    student = 2 + 2 * hard + 1 + 1 + guided
    return float(student + ratio * (made + 2))
