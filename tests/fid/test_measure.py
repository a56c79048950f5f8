"""From folders to the printed number, against TensorFlow's own session."""

import json

import numpy as np
import pytest
import rounding
import synthetic_graph
from image_folders import write_image, write_photographs
from oracles import low_rank_distance
from PIL import Image
from synthetic_graph import v1_features
from toy_extractors import Colours, ColoursAndLogits

import fid
from fid import cli, measure

pytestmark = pytest.mark.portable

# A feature of `Colours` is a mean in float32. A sum of less than 2^16 bytes is exact
# there, so that it is rounded once.
MEAN_OF_BYTES = rounding.gamma(1, "float32")


def near(value, x, y, roundings=1):
    """Equal to the distance of two sets of mean colours that float32 has rounded."""
    error = rounding.gamma(roundings, "float32") * max(np.abs(x).max(), np.abs(y).max())
    moved = rounding.frechet_of_features(value, error) + rounding.frechet(x, y)
    return pytest.approx(value, rel=0, abs=moved)


@pytest.mark.slow
def test_compute_fid_equals_the_v1_session_and_the_low_rank_formula(
    tmp_path, synthetic_pb, capsys
):
    a = write_photographs(tmp_path / "a", 24, 0)
    b = write_photographs(tmp_path / "b", 24, 1)
    argv = ["compute_fid.py", f"{tmp_path}/a", f"{tmp_path}/b", "--batch_size=16"]
    argv += [f"--inception={synthetic_pb}"]
    assert cli.compute_fid([*argv, "--json"]) == 0
    captured = capsys.readouterr()
    value = json.loads(captured.out)["fid"]
    features = [v1_features(synthetic_pb, images)[0] for images in (a, b)]
    expected = low_rank_distance(*features)
    error = synthetic_graph.rounding_error(np.concatenate(features))
    moved = rounding.frechet_of_features(expected, error) + rounding.printed(6)
    assert value == pytest.approx(expected, rel=0, abs=moved)
    assert "24 images for 2048 features" in captured.err

    # The same through a statistics file, whose distance has no features at hand.
    stats = f"{tmp_path}/stats/b.npz"
    flags = argv[3:]
    assert cli.precalc_stats(["x", f"{tmp_path}/b", f"--output={stats}", *flags]) == 0
    capsys.readouterr()
    assert cli.compute_fid(["x", f"{tmp_path}/a", stats, *flags]) == 0
    name, printed = capsys.readouterr().out.split()
    assert name == "FID:"
    assert float(printed) == pytest.approx(expected, rel=0, abs=moved)


def test_batch_size_and_order_do_not_matter(tmp_path):
    others = write_photographs(tmp_path / "a", 23, 0)
    images = write_photographs(tmp_path / "b", 20, 1)
    values = [
        fid.compare(tmp_path / "a", tmp_path / "b", Colours(), batch_size=size).value
        for size in (1, 7, 64)
    ]
    (tmp_path / "c").mkdir()
    for index, image in enumerate(reversed(images)):
        Image.fromarray(image).save(tmp_path / "c" / f"{index}.bmp")
    values.append(fid.compare(tmp_path / "a", tmp_path / "c", Colours()).value)
    # The features are the same; their sums in float64 are in another order.
    few = rounding.frechet(Colours()(others), Colours()(images))
    assert values == pytest.approx([values[0]] * 4, rel=0, abs=few)


def test_statistics_say_how_they_came_about(tmp_path):
    write_photographs(tmp_path / "a", 12, 0)
    statistics = fid.compute_statistics(tmp_path / "a", Colours())
    facts = statistics.provenance
    assert facts["n"] == statistics.n == 12
    assert facts["source"] == str(tmp_path / "a")
    assert facts["extractor"] == "pixels"
    assert facts["extractor_sha256"] == "0" * 64
    assert facts["resize"] == "none"
    assert facts["source_resolution"] == "mixed"
    assert set(facts["versions"]) == {"tensorflow", "keras", "numpy", "Pillow"}
    assert facts["created"].endswith("+00:00")


def test_differing_protocols_warn_and_strict_refuses(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    one = fid.compute_statistics(images, Colours())
    two = fid.compute_statistics(images[:, :4].astype("float32"), Colours())
    comparison = fid.compare(one, two)
    assert comparison.metric == "frechet_pixels"
    (first, second) = (w for w in comparison.warnings if "not measured alike" in w)
    assert "pixels is '8-bit'" in first
    assert "source_resolution is '8x8'" in second
    with pytest.raises(fid.InputError, match="not measured alike: pixels is '8-bit'"):
        fid.compare(one, two, strict=True)


def test_grey_is_repeated_for_extractors_of_colour():
    grey = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    one = fid.compute_statistics(grey, Colours())
    two = fid.compute_statistics(np.repeat(grey, 3, -1), Colours())
    np.testing.assert_array_equal(one.sigma, two.sigma)


def test_a_generator_is_measured_in_one_call():
    class Generator:
        def generate_batches(self, count, seed, batch_size):
            random = np.random.default_rng(seed)
            yield random.uniform(-1, 1, (count, 4, 4, 3)).astype("float32")

    reference = np.random.default_rng(9).integers(0, 256, (99, 4, 4, 3), dtype=np.uint8)
    value = fid.compute(
        generator=Generator(), reference=reference, num_samples=80, extractor=Colours()
    )
    (generated,) = Generator().generate_batches(80, 0, 50)
    x = ((generated.astype("float64") + 1) * 127.5).mean((1, 2))
    y = reference.mean((1, 2))
    # Two operations on each value, and a mean of 16.
    assert value == near(low_rank_distance(x, y), x, y, roundings=2 + 16)


def test_wrong_statistics_are_found_before_the_work(tmp_path):
    class Slow(Colours):
        def __call__(self, images):
            raise AssertionError("too late")

    images = np.zeros((3, 4, 4, 3), np.uint8)
    bare = fid.Statistics(np.zeros(3), np.eye(3))
    with pytest.raises(fid.InputError, match="have 5 dimensions"):
        fid.compare(images, fid.Statistics(np.zeros(5), np.eye(5)), Slow())
    with pytest.raises(fid.InputError, match="do not say"):
        fid.compare(images, bare, Slow(), strict=True)


def test_one_pass_gives_all_metrics(tmp_path):
    one, two = (
        write_photographs(tmp_path / name, 40, i) for i, name in enumerate("ab")
    )
    passes = []

    class Counting(ColoursAndLogits):
        def features_and_logits(self, images):
            passes.append(len(images))
            return super().features_and_logits(images)

    found = fid.compare(
        tmp_path / "a",
        tmp_path / "b",
        Counting(),
        metrics=("fid", "kid", "is"),
        batch_size=16,
        kid_subsets=0,
        is_splits=4,
    )
    assert passes == [16, 16, 8]  # the score is the first set's
    x, y = (np.stack([i.mean((0, 1)) for i in images]) for images in (one, two))
    assert found.value == near(low_rank_distance(x, y), x, y)

    def mean_kernel(a, b, same):
        kernel = (a @ b.T / 3 + 1) ** 3
        return (kernel.sum() - np.trace(kernel)) / (40 * 39) if same else kernel.mean()

    kid = mean_kernel(x, x, 1) + mean_kernel(y, y, 1) - 2 * mean_kernel(x, y, 0)
    moved = rounding.kernel(x, y, features=MEAN_OF_BYTES)
    assert found.kernel.full == pytest.approx(kid, rel=0, abs=moved)
    assert moved < abs(kid) / 80
    probabilities = np.exp(x / 16) / np.exp(x / 16).sum(1, keepdims=True)
    scores = [
        np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
        for p in np.split(probabilities, 4)
    ]
    moved = rounding.score(x, error=MEAN_OF_BYTES * 255 / 16)
    assert found.score.mean == pytest.approx(np.mean(scores), rel=moved)
    # A deviation moves by no more than the scores, which are of three classes.
    assert found.score.std == pytest.approx(np.std(scores), rel=0, abs=3 * moved)
    assert 3 * moved < np.std(scores) / 100
    assert list(found.values()) == [
        "frechet_pixels", "kernel_pixels_full", "score_pixels_mean", "score_pixels_std",
    ]  # fmt: skip
    assert found.lines() == [
        f"frechet_pixels: {found.value:.6f}",
        f"kernel_pixels of all images: {found.kernel.full:.8f}",
        f"score_pixels: {found.score.mean:.6f} ± {found.score.std:.6f}",
    ]


def test_the_images_that_move_the_distance_most_are_named(tmp_path):
    write_photographs(tmp_path / "a", 40, 0)
    write_photographs(tmp_path / "b", 40, 1)
    odd = sorted((tmp_path / "a").iterdir())[7]
    Image.fromarray(np.full((16, 16, 3), (255, 0, 255), np.uint8)).save(odd)
    statistics = fid.compute_statistics(tmp_path / "b", Colours())
    x = np.stack(
        [
            np.asarray(Image.open(path)).mean((0, 1), np.float32)
            for path in sorted((tmp_path / "a").iterdir())
        ]
    )
    phi = fid.influence(x, statistics)
    for second in (tmp_path / "b", statistics):
        found = fid.compare(tmp_path / "a", second, Colours(), influence=3).influences
        assert found.highest[0] == (odd.name, pytest.approx(phi[7] / 40, rel=1e-3))
        assert len(found.highest) == len(found.lowest) == 3
    # Arrays have no names.
    array = np.random.default_rng(0).integers(0, 256, (41, 4, 4, 3), np.uint8)
    array[40] = 255, 0, 255
    found = fid.compare(array, array[:40], Colours(), influence=1).influences
    assert found.highest[0][0] == 40


def test_an_influence_that_there_is_none_of_is_refused():
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), np.uint8)
    bare = fid.Statistics(np.zeros(3), np.eye(3), n=9, label="bare.npz")
    for sets, message in (
        ((bare, images), "is one of images, and bare.npz holds statistics: give the"),
        ((images[:3], images), "No image has an influence: .* 3 images for 3 features"),
    ):
        with pytest.raises(fid.InputError, match=message):
            fid.compare(*sets, Colours(), influence=1)
    with pytest.raises(fid.InputError, match="influence is -1; it must be at least 0"):
        fid.compare(images, images, Colours(), influence=-1)


def test_too_few_images_for_an_influence_are_refused_before_the_work():
    class Slow(Colours):
        def __call__(self, images):
            raise AssertionError("too late")

    few, many = np.zeros((3, 4, 4, 3), np.uint8), np.zeros((9, 4, 4, 3), np.uint8)
    for sets in ((few, many), (many, few)):
        with pytest.raises(fid.InputError, match="3 images for 3 features"):
            fid.compare(*sets, Slow(), influence=1)


def test_errors_keep_the_features_of_images_alone():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, 30, 4, 4, 3), np.uint8)
    bare = fid.compute_statistics(images[1], Colours())
    found = fid.compare(*images, Colours(), standard_errors=True)
    assert found.errors["fid"][0].origin == "influence function of both sets"
    alone = fid.compare(images[0], bare, Colours(), standard_errors=True)
    assert "images of A alone" in alone.errors["fid"][0].origin
    assert 0 < alone.errors["fid"][0].value < found.errors["fid"][0].value
    assert fid.compare(*images, Colours()).errors == {}


def test_metrics_that_cannot_be_computed_are_refused_before_the_work(tmp_path):
    class Slow(ColoursAndLogits):
        def __call__(self, images):
            raise AssertionError("too late")

        features_and_logits = __call__

    fid.Statistics(np.zeros(3), np.eye(3), n=99).save(tmp_path / "stats.npz")
    images = np.zeros((9, 4, 4, 3), np.uint8)
    stats = tmp_path / "stats.npz"
    for args, options, message in (
        ((images, images), {"metrics": ("ppl",)}, "choose from fid, kid, is"),
        ((images, images), {"metrics": "ppl"}, "metrics is ppl"),
        ((images, images), {"metrics": ()}, "metrics is empty"),
        ((stats, images), {"metrics": ("is",)}, "is one of images"),
        ((images, images), {"metrics": "is"}, "over 10 parts .*, and array has 9"),
        ((iter(images), images), {"metrics": "is", "is_splits": 0}, "over 0 parts"),
        ((stats, images), {"metrics": ("kid",)}, "needs the features"),
        (
            (images, images),
            {"metrics": ("kid",)},
            "subsets have 1000 images, and array has 9",
        ),
        ((images, images), {"metrics": "kid", "seed": 2**32}, "seed is 4294967296"),
        (
            (images, images),
            {"metrics": "kid", "kid_subset_size": 1},
            "must be at least 2",
        ),
        ((images, images[:1]), {}, "array has 1 image; a covariance needs at least 2"),
    ):
        with pytest.raises(fid.InputError, match=message):
            fid.compare(*args, Slow(), **options)

    class NoLogits(Colours):
        def __call__(self, images):
            raise AssertionError("too late")

    with pytest.raises(fid.InputError, match="has no logits"):
        fid.compare(images, images, NoLogits(), metrics="is", is_splits=3)


def test_a_set_of_one_image_is_named():
    with pytest.raises(fid.InputError, match="iterator has 1 image; a covariance"):
        fid.compute_statistics(iter(np.zeros((1, 4, 4, 3), np.uint8)), Colours())


def test_a_number_that_is_none_is_refused():
    rows = np.random.default_rng(0).normal(size=(9, 3)) * 1e200
    wide = fid.Statistics(np.zeros(3), np.eye(3), rows=rows, n=9, label="wide")
    with pytest.raises(fid.InputError, match="kernel_full of wide and wide is nan"):
        fid.compare(wide, wide, metrics="kid", kid_subsets=0)


def test_lossy_and_skipped_images_are_warned_of(tmp_path):
    images = write_photographs(tmp_path / "a", 8, 0)
    Image.fromarray(images[0]).save(tmp_path / "a" / "x.jpg")
    (tmp_path / "a" / "y.png").write_bytes(b"no image")
    with pytest.raises(fid.InputError, match=r"y\.png"):
        fid.compare(tmp_path / "a", images[:2] * 4, Colours())
    found = fid.compare(
        tmp_path / "a", np.zeros((9, 4, 4, 3), np.uint8), Colours(), skip_bad=True
    )
    assert found.first.n == 9
    assert found.first.provenance["skipped"] == 1
    assert any("1 of 9 images" in w and "lossy" in w for w in found.warnings)
    assert any("y.png" in w and "left out" in w for w in found.warnings)


def test_repeats_give_the_spread_over_seeds():
    def generator(latents):
        return np.tanh(np.asarray(latents)).reshape(-1, 2, 2, 3)

    reference = np.random.default_rng(0).integers(0, 256, (99, 2, 2, 3), dtype=np.uint8)
    settings = {"reference": reference, "num_samples": 50, "extractor": Colours()}
    settings |= {"generator": generator, "latent": 12}
    spread = fid.compute(**settings, seed=3, repeats=3)
    each = [fid.compute(**settings, seed=seed) for seed in (3, 4, 5)]
    assert list(spread.values) == each
    assert len(set(each)) == 3
    assert spread.mean == pytest.approx(sum(each) / 3)
    assert spread.std == pytest.approx(np.std(each, ddof=1))
    with pytest.raises(fid.InputError, match="at least once"):
        fid.compute(**settings, repeats=0)


def test_an_option_that_is_none_is_refused_and_the_others_are_named():
    statistics = fid.Statistics(np.zeros(3), np.eye(3))
    with pytest.raises(
        TypeError, match="no option 'subsets'; choose from method, kid_subsets, .*seed"
    ) as error:
        fid.compare(statistics, statistics, subsets=5)
    for name in ("is_splits", "value_range", "quantize", "recursive", "skip_bad"):
        assert name in str(error.value)


def test_options_of_metrics_and_of_reading_go_where_they_belong():
    images = np.random.default_rng(0).random((2, 30, 4, 4, 3), "float32")
    sets = images[0], images[1] * 0.9
    plain = fid.compare(*[x * 255 for x in sets], Colours(), method="sqrtm")
    found = fid.compare(*sets, Colours(), value_range="0,1", method="sqrtm", seed=3)
    # A product, and a mean of 16 in float32.
    x, y = (255 * each.mean((1, 2), dtype=np.float64) for each in sets)
    assert found.value == near(plain.value, x, y, roundings=1 + 16)
    with pytest.raises(fid.InputError, match="method is 'fast'; choose from eigen, sq"):
        fid.compare(*sets, Colours(), value_range="0,1", method="fast")


def test_what_is_kept_of_a_set_is_what_is_needed():
    images = np.random.default_rng(0).integers(0, 99, (5, 4, 4, 3), np.uint8)
    source = fid.open_images(images)
    for needs in ((), ("statistics",), ("features",), ("logits", "features")):
        found = measure.measure(source, ColoursAndLogits(), batch_size=2, needs=needs)
        assert found.statistics.n == 5
        for name in ("features", "logits"):
            kept = getattr(found, name)
            assert (kept is not None) == (name in needs)
            assert kept is None or kept.shape == (5, 3)


def test_the_key_and_the_range_of_a_data_set_of_dicts_may_be_said():
    images = np.random.default_rng(0).random((2, 30, 4, 4, 3), "float32")
    one, two = ([{"pixels": x, "label": 1} for x in each] for each in images)
    reading = {"image_key": "pixels", "value_range": (0, 1)}
    expected = fid.compare(*images * 255, Colours()).value
    found = fid.compare(one, two, Colours(), **reading)
    assert found.value == pytest.approx(expected, rel=1e-4)
    statistics = fid.compute_statistics(one, Colours(), **reading)
    np.testing.assert_allclose(statistics.mu, found.first.mu)
    settings = {"generator": lambda z: np.tanh(z).reshape(-1, 4, 4, 3), "latent": 48}
    settings |= {"num_samples": 20, "extractor": Colours()}
    distance = fid.compute(reference=one, **settings, **reading)
    assert distance == fid.compute(reference=statistics, **settings)
    with pytest.raises(TypeError, match="compute has no option 'image'; choose from"):
        fid.compute(reference=statistics, **settings, image="pixels")


def test_what_is_left_out_of_a_folder_is_warned_of_and_written_down(tmp_path):
    for index in range(3):
        write_image(tmp_path / f"{index}.png", index)
    (tmp_path / "3.heic").touch()
    found = fid.compare(tmp_path, tmp_path, Colours())
    assert [text for text in found.warnings if "1 in all: 1 .heic" in text]
    found.first.save(tmp_path / "stats.npz")
    facts = fid.Statistics.load(tmp_path / "stats.npz").provenance
    assert facts["source_left_out"] == {".heic": 1}
