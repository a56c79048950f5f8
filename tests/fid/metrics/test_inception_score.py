import importlib.util
import re

import numpy as np
import oracles
import pytest
import rounding
from toy_extractors import ColoursAndLogits

import fid
from fid import InputError, Statistics, open_images
from fid.metrics.inception_score import (
    Score,
    ScoreSums,
    inception_score,
    score_error,
    score_warnings,
)
from fid.metrics.metric import Measured

pytestmark = pytest.mark.portable


def logits(n, classes, seed=0, scale=3.0):
    random = np.random.default_rng(seed)
    return random.normal(scale=scale, size=(n, classes)).astype(np.float32)


def near(value, logits, largest=None):
    """Equal to a score, or to a deviation of scores up to `largest`, but for rounding.

    A deviation moves by no more than the scores do, and no score is above the number of
    classes.
    """
    if largest is None:
        return pytest.approx(value, rel=rounding.score(logits), abs=0)
    return pytest.approx(value, rel=0, abs=rounding.score(logits) * largest)


@pytest.mark.parametrize(("n", "splits"), [(50, 1), (50, 10), (53, 10), (10, 10)])
def test_against_scipy(n, splits):
    x = logits(n, 20)
    got = inception_score(x, splits=splits)
    mean, std = oracles.inception_score(x, splits)
    assert got.mean == near(mean, x)
    assert got.std == near(std, x, largest=20)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_gan") is None,
    reason="TF-GAN is not installed",
)
def test_against_tfgan():
    from tf_ttur import tfgan

    x = logits(64, 1008)
    expected = tfgan.load().eval.classifier_score_from_logits(x.astype(np.float64))
    assert inception_score(x, splits=1).mean == near(float(expected), x)


def test_sure_and_even_predictions_score_the_classes():
    sure = 1e4 * np.tile(
        np.eye(7, dtype=np.float32), (3, 1)
    )  # 0 log 0 off the diagonal
    assert inception_score(sure, splits=3).mean == near(7.0, sure)


def test_equal_predictions_score_one():
    x = np.tile(logits(1, 9), (20, 1))
    got = inception_score(x)
    assert got.mean == near(1.0, x)
    assert got.std == near(0.0, x, largest=1.0)


def test_huge_logits_do_not_overflow():
    x = logits(40, 6, scale=2.0)
    # A constant in an image's logits changes no probability, but the sum with it is
    # rounded, by u of 39e6 at most. Each logit is an error of its own in p, whose sum
    # with log p - log q is at most that times 2 (1 + log 6).
    shifted = x.astype(np.float64) + 1e6 * np.arange(40)[:, None]
    expected = inception_score(x).mean
    bound = rounding.unit() * 39e6 * 2 * (1 + np.log(6)) + rounding.score(x)
    assert inception_score(shifted).mean == pytest.approx(expected, rel=bound)


def test_splits_are_consecutive():
    x = np.concatenate([np.zeros((10, 4)), 1e3 * np.tile(np.eye(4), (3, 1))[:10]])
    first, second = (inception_score(part, splits=1).mean for part in (x[:10], x[10:]))
    got = inception_score(x, splits=2)
    assert first == pytest.approx(1.0)
    # The scores are the same to the last bit; the mean and the deviation of two are
    # five operations on them.
    few = rounding.gamma(5) * second
    assert got.mean == pytest.approx((first + second) / 2, rel=0, abs=few)
    assert got.std == pytest.approx((second - first) / 2, rel=0, abs=few)


@pytest.mark.parametrize(
    ("x", "splits", "message"),
    [
        (np.zeros((9, 3)), 10, "9 images cannot be split into 10 parts"),
        (np.zeros((9, 3)), 0, "at least 1"),
        (np.zeros(9), 1, r"shape \(9,\)"),
        (np.zeros((9, 3), int), 1, "int64"),
        (np.full((9, 3), np.nan), 1, "image 0 .* not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(x, splits, message):
    with pytest.raises(InputError, match=message):
        inception_score(x, splits=splits)


@pytest.mark.parametrize(("n", "splits"), [(100, 10), (97, 7), (5, 5)])
def test_score_sums_are_the_inception_score(n, splits):
    logits = np.random.default_rng(n).normal(scale=40, size=(n, 12)).astype("float32")
    sums = ScoreSums(n, splits)
    for start in range(0, n, 9):
        sums.update(start, logits[start : start + 9])
    expected = inception_score(logits, splits=splits)
    assert sums.score().mean == near(expected.mean, logits)
    assert sums.score().std == near(expected.std, logits, largest=12)


def test_score_sums_go_on_from_a_file(tmp_path):
    x = logits(50, 8)
    whole, begun, again = (ScoreSums(50, 5) for _ in range(3))
    whole.update(0, x)
    begun.update(0, x[:27])
    np.savez(tmp_path / "sums.npz", other=np.zeros(3))
    begun.append_to(tmp_path / "sums.npz")
    again.load(tmp_path / "sums.npz", 27)
    again.update(27, x[27:])
    assert again.score().mean == near(whole.score().mean, x)
    assert again.score().std == near(whole.score().std, x, largest=8)
    assert np.load(tmp_path / "sums.npz")["other"].shape == (3,)
    with pytest.raises(InputError, match=r"score_p of shape \(5, 8\).*delete it"):
        ScoreSums(50, 4).load(tmp_path / "sums.npz", 27)
    # Right in form, they are of other images or cannot be.
    with pytest.raises(InputError, match=r"no sums of 26 images; delete it"):
        ScoreSums(50, 5).load(tmp_path / "sums.npz", 26)
    found = dict(np.load(tmp_path / "sums.npz"))
    for name, value in (("score_p", -1.0), ("score_p_log_p", 1.0)):
        wrong = {**found, name: found[name].copy()}
        wrong[name].flat[0] = value
        np.savez(tmp_path / "wrong.npz", **wrong)
        with pytest.raises(InputError, match="no sums of 27 images"):
            ScoreSums(50, 5).load(tmp_path / "wrong.npz", 27)


def test_score_sums_name_the_image_whose_logits_are_not_finite():
    x = logits(9, 4)
    x[5, 2] = np.inf
    with pytest.raises(InputError, match=r"image 15 \(counted from 0\)"):
        ScoreSums(20, 2).update(10, x)


def test_what_cannot_be_scored_is_refused_before_it_is_read():
    images = open_images(np.zeros((9, 1, 1, 3), np.uint8))
    bare = Statistics(np.zeros(3), np.eye(3), label="bare")
    Score(is_splits=9).check([images, bare])
    for sets, splits, message in (
        ([bare, images], 3, "is one of images, and bare holds statistics: give the im"),
        ([images, bare], 10, "over 10 parts of the images, and array has 9: choose"),
        ([images, bare], 0, "over 0 parts of the images, and array has 9: choose"),
        ([open_images(iter(())), bare], 0, "over 0 parts of the images: choose --is_s"),
    ):
        with pytest.raises(InputError, match=message):
            Score(is_splits=splits).check(sets)


def of_classes(n, classes, seed=0, sure=8.0):
    """Logits of images that show one of some classes, in the order of these."""
    random = np.random.default_rng(seed)
    shown = np.sort(random.integers(classes, size=n))
    return sure * np.eye(20)[shown] + random.normal(scale=0.5, size=(n, 20))


def test_images_in_the_order_of_their_classes_are_warned_of():
    ordered = of_classes(5000, 10).astype(np.float32)
    shuffled = np.random.default_rng(7).permutation(ordered)
    (warning,) = score_warnings(ordered, label="x")
    low, high = (inception_score(each).mean for each in (ordered, shuffled))
    assert low < 1.2 < 9 < high
    numbers = re.search("parts is (.*), and (.*) once they are shuffled", warning)
    assert float(numbers[1]) == pytest.approx(low, rel=1e-5)
    assert float(numbers[2]) == pytest.approx(high, rel=0.01)
    assert "the images of x are in an order" in warning
    assert "--is_splits=1" in warning
    assert score_warnings(shuffled) == []
    assert score_warnings(ordered, splits=1) == []


@pytest.mark.parametrize("part", [0.02, 0.3])
def test_an_order_of_some_of_the_images_is_found_too(part):
    x = of_classes(5000, 10)
    mixed = np.random.default_rng(7).random(len(x)) > part
    x[mixed] = np.random.default_rng(8).permutation(x[mixed])
    lost = inception_score(np.random.default_rng(9).permutation(x)).mean
    lost /= inception_score(x).mean
    assert bool(score_warnings(x)) == (lost > 1.01) == (part == 0.3)


@pytest.mark.parametrize("kind", ["sure", "soft", "rare"])
@pytest.mark.parametrize(("n", "splits"), [(60, 2), (400, 10)])
def test_a_random_order_is_never_taken_for_another(kind, n, splits):
    for seed in range(30):
        random = np.random.default_rng(seed)
        x = {
            "sure": 20 * np.eye(10)[random.integers(10, size=n)],
            "soft": random.normal(scale=2, size=(n, 30)),
            "rare": 20 * np.eye(60)[np.minimum(random.geometric(0.5, size=n), 59)],
        }[kind]
        found = score_warnings(x, splits=splits)
        assert not [warning for warning in found if "order" in warning]


def test_too_few_images_are_warned_of_by_as_much_as_the_score_is_too_low():
    # Ten classes, each as likely: of m sure images a part scores exp(H), H being the
    # entropy of its counts, which is log 10 - 9 / 2m for large m (Miller 1955).
    x = 30 * np.eye(10)[np.random.default_rng(0).integers(10, size=1000)]
    for n, least, short in ((1000, 100, None), (500, 50, "9%"), (10, 1, "99%")):
        found = [y for y in score_warnings(x[:n]) if "too few" in y]
        assert bool(found) == (short is not None)
        for warning in found:
            assert f"parts of {least} images" in warning
            assert f"no part can score above {least}, and" in warning
            assert f"about {short} too low" in warning or least == 1
    assert inception_score(x[:10]).mean == pytest.approx(1.0)
    scores = [inception_score(x[i::20], splits=1).mean for i in range(20)]
    assert np.mean(scores) == pytest.approx(10 * (1 - 0.09), rel=0.02)


def test_images_that_all_look_alike_need_not_be_more():
    assert score_warnings(np.tile(logits(1, 9), (100, 1))) == []


def test_a_score_that_is_hardly_too_low_is_not_said_to_be():
    (warning,) = score_warnings(np.tile(logits(1, 9), (10, 1)), splits=10)
    assert "too few: no part can score above 1; take more images" in warning
    assert "%" not in warning
    with pytest.raises(InputError, match="3 images cannot be split into 4 parts"):
        score_warnings(logits(3, 9), splits=4)


def test_the_metric_hands_on_its_warnings():
    images = np.random.default_rng(0).integers(0, 256, (300, 2, 2, 3), np.uint8)
    found = fid.compare(images, images, ColoursAndLogits(), metrics="is", is_splits=1)
    assert not [text for text in found.warnings if "Inception Score" in text]
    images[:, ..., 0] = np.linspace(0, 255, 300)[:, None, None]  # red in the end
    images[:, ..., 1] = 255 - images[:, ..., 0]
    found = fid.compare(images, images, ColoursAndLogits(), metrics="is", is_splits=3)
    assert [text for text in found.warnings if "array are in an order" in text]
    found = fid.compare(images, images, ColoursAndLogits(), metrics="is", is_splits=300)
    assert [text for text in found.warnings if "no part can score above 1" in text]


# Standard errors ----------------------------------------------------------------------


@pytest.mark.parametrize(("n", "splits"), [(300, 1), (400, 4)])
def test_the_standard_error_is_the_deviation_of_many_draws(n, splits):
    random, count = np.random.default_rng(0), 400
    found = []
    for _ in range(count):
        drawn = 2 * random.normal(size=(n, 6))
        score = inception_score(drawn, splits=splits).mean
        found.append([score, score_error(drawn, splits=splits)])
    values, said = np.transpose(found)
    assert np.sqrt(np.mean(said**2)) == pytest.approx(
        values.std(), rel=0.1 + rounding.deviation_of(count)
    )


def test_the_metric_says_the_standard_error_of_its_mean():
    drawn = logits(40, 5)
    first = Measured(Statistics(np.zeros(1), np.eye(1)), logits=drawn)
    result, (error,) = Score(is_splits=4).with_errors(first, None)
    assert result == inception_score(drawn, splits=4)
    assert error.value == score_error(drawn, splits=4)
    assert error.name("is") == "is_mean_standard_error"
    _, (error,) = Score(is_splits=21).with_errors(first, None)
    assert error.line("IS") == (
        "IS mean standard error: none (a part has fewer than 2 images, which say "
        "nothing of the spread)"
    )
    with pytest.raises(InputError, match="50 parts"):
        score_error(drawn, splits=50)
