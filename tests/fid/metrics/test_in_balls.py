"""What the metrics of neighbours share: one pass, options, error bars, refusals."""

import math
import statistics

import numpy as np
import pytest
import rounding

import fid
from fid import InputError, Moments, Statistics, open_images
from fid.metrics import choose, in_balls, neighbours
from fid.metrics.in_balls import MeanOverImages
from fid.metrics.metric import Error, Measured
from fid.metrics.neighbours import Balls

pytestmark = pytest.mark.portable

ALL = ("precision", "recall", "density", "coverage", "realism")


def measured(n, seed, d=6, shift=0.0):
    features = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    moments = Moments(d)
    moments.update(features + np.float32(shift))
    return Measured(moments.statistics(), features + np.float32(shift))


def numbers(first, second, keys=ALL, **options):
    return {m.key: m(first, second) for m in choose(keys, options)}


@pytest.fixture
def products(monkeypatch):
    """The shapes of all tables of distances that are computed."""
    shapes = []

    table = neighbours._distances

    def counted(x, y, half):
        shapes.append((len(x), len(y)))
        return table(x, y, half)

    monkeypatch.setattr(neighbours, "_distances", counted)
    return shapes


@pytest.mark.parametrize("variant", ["paper", "adm", "kynkaanniemi", "prdc"])
def test_one_pass_serves_all_metrics_of_two_sets(variant, products):
    first, second = measured(40, 0), measured(50, 1)
    together = numbers(first, second, variant=variant)
    assert sorted(products) == [(40, 40), (50, 40), (50, 50)]
    for key in ALL:
        alone = numbers(measured(40, 0), measured(50, 1), key, variant=variant)
        assert alone[key] == together[key]


def test_real_images_are_compared_with_each_other_once(products):
    real = measured(50, 1)
    for step in range(3):
        numbers(measured(40, step), real)
    assert products.count((50, 50)) == 1
    assert products.count((50, 40)) == products.count((40, 40)) == 3
    # Other options are another question.
    numbers(measured(40, 3), real, neighbours=7)
    assert products.count((50, 50)) == 2


def test_a_line_has_its_error_once_and_says_how_it_came_about():
    first, second = measured(40, 0), measured(50, 1)
    for metric in choose(ALL, {}):
        result, errors = metric.with_errors(first, second)
        assert result == metric(first, second)
        letter = "B" if metric.key in ("recall", "coverage") else "A"
        origin = f"spread over the images of {letter}; the balls are taken as exact"
        assert errors == (Error(result.standard_error, origin),)
        assert metric.lines_with_errors(result, errors, "X") == [
            f"X: {result.mean:.6f} ± {result.standard_error:.6f} ({origin})"
        ]


def test_what_was_found_of_other_sets_is_not_taken():
    first, one, two = measured(40, 0), measured(50, 1), measured(50, 2, shift=0.5)
    before = numbers(first, one), numbers(first, two)
    assert before[0] != before[1]
    assert numbers(measured(40, 0), measured(50, 2, shift=0.5)) == before[1]
    assert numbers(first, one) == before[0]


def test_the_variant_of_the_paper_is_each_metrics_own():
    chosen = choose(ALL, {})
    assert {m.key: m.balls for m in chosen} == {
        "precision": Balls(3, closed=True),
        "recall": Balls(3, closed=True),
        "density": Balls(5, closed=False),
        "coverage": Balls(5, closed=False),
        "realism": Balls(3, closed=True),
    }
    chosen = choose(ALL, {"variant": "adm", "distances": "float32", "neighbours": 2})
    assert {m.balls for m in chosen} == {Balls(2, closed=True)}
    chosen = choose(ALL, {"variant": "adm"})
    assert {m.balls for m in chosen} == {Balls(3, closed=True, half=True)}


def test_a_few_images_are_enough_for_balls_of_few_neighbours():
    """Although the pass would serve density as well, if there were more."""
    first, second = measured(5, 0), measured(4, 1)
    assert 0 <= numbers(first, second, "precision")["precision"].mean <= 1
    with pytest.raises(InputError, match="has 5 images, and a ball reaches to neighb"):
        numbers(first, second, "density")


def images(count):
    """A source of so many images, none of which is read here."""
    return open_images(np.zeros((count, 1, 1, 3), np.uint8))


@pytest.mark.parametrize("key", ALL)
def test_too_few_images_are_refused_before_they_are_read(key):
    (metric,) = choose(key, {"neighbours": 8})
    metric.check([images(9), images(9)])
    few = Statistics(np.zeros(3), np.eye(3), 8, rows=np.zeros((8, 3)), label="few")
    for sets in ((images(8), images(9)), (images(9), images(8)), (images(9), few)):
        with pytest.raises(InputError, match="reach to neighbour 8, and .* has 8 imag"):
            metric.check(sets)
    bare = Statistics(np.zeros(3), np.eye(3), 9000, label="bare")
    with pytest.raises(InputError, match="features of both sets, and bare holds stat"):
        metric.check([images(9), bare])


def test_statistics_of_few_images_will_do():
    one, two = (Measured.of(measured(60, s, d=64).statistics) for s in (0, 1))
    expected = numbers(measured(60, 0, d=64), measured(60, 1, d=64))
    assert numbers(one, two) == expected


def test_equal_sets_lie_in_their_own_balls():
    found = numbers(measured(60, 0), measured(60, 0))
    for key in ("precision", "recall", "coverage"):
        assert found[key] == MeanOverImages(1.0, 0.0)
    # Each open ball of 5 neighbours has 4 of them, and its own image.
    assert found["density"].mean == pytest.approx(1.0, rel=rounding.gamma(60 + 2))
    assert found["realism"].mean > 1


def test_sets_far_apart_have_nothing_in_common():
    found = numbers(measured(60, 0), measured(50, 1, shift=1000))
    for key in ("precision", "recall", "density", "coverage"):
        assert found[key] == MeanOverImages(0.0, 0.0)
    assert 0 < found["realism"].mean < 0.01


def test_real_images_that_are_all_equal_are_refused():
    same = Measured(measured(60, 0).statistics, np.ones((60, 6), np.float32))
    for key in ALL:
        with pytest.raises(InputError, match="of the second set equals . others or m"):
            numbers(measured(50, 1), same, key)


def test_a_generator_that_has_collapsed_recalls_nothing_and_it_is_said():
    same = Measured(measured(60, 0).statistics, np.zeros((60, 6), np.float32))
    real = measured(50, 1)
    for metric in choose(ALL, {}):
        result = metric(same, real)
        if metric.key == "recall":
            assert result == MeanOverImages(0.0, 0.0)
        k = metric.balls.neighbours
        assert metric.warnings(same, real) == [
            "100.0% of the images of statistics have balls that are points, since "
            f"{k} others equal them, or nearly: rounding could not tell. Such a ball "
            "holds nothing else"
        ]
        assert metric.warnings(measured(60, 0), real) == []


def test_clusters_too_tight_for_float32_are_said(caplog):
    """Of many features, products are float32."""
    real, new = measured(50, 1, d=100), measured(40, 0, d=100)
    # Half of the images lie in one cluster.
    half = real.features.copy()
    half[:25] = half[0] + 1e-6 * half[:25]
    half = Measured(real.statistics, half)
    (metric,) = choose("coverage", {})
    (text,) = metric.warnings(new, half)
    assert text.startswith("50.0% of the images of statistics have balls that are poin")
    assert metric.warnings(new, real) == []
    fid.density_coverage(new.features, real.features)
    assert not caplog.records
    fid.density_coverage(new.features, half.features)
    assert caplog.messages == [text.replace("statistics", "the second set")]


def test_float16_is_refused_where_no_distance_is_rounded_to_it():
    images = open_images(np.zeros((9, 1, 1, 3), np.uint8))
    for variant in ("paper", "kynkaanniemi", "prdc"):
        options = {"distances": "float16", "variant": variant}
        with pytest.raises(InputError, match="does not round distances to float16"):
            choose("recall", options)[0].check([images, images])
    options = {"distances": "float16", "variant": "adm"}
    (metric,) = choose("recall", options)
    metric.check([images, images])
    assert metric.balls == choose("recall", {"variant": "adm"})[0].balls


def test_features_that_are_no_numbers_are_refused():
    bad = measured(40, 0)
    bad.features[7, 2] = np.nan
    for sets, which in (
        ((bad, measured(50, 1)), "first"),
        ((measured(50, 1), bad), "second"),
    ):
        with pytest.raises(
            InputError, match=f"image 7 .* of the {which} set are not f"
        ):
            numbers(*sets, "precision")
    with pytest.raises(InputError, match="has 6 features an image and the second 7"):
        numbers(measured(40, 0), measured(40, 0, d=7), "recall")


def test_a_mean_over_images_has_the_error_of_its_sample():
    values = [0.5, 2.0, 0.25, 1.0, 0.0]
    found = MeanOverImages.of(np.array(values))
    assert found.mean == pytest.approx(statistics.mean(values), rel=rounding.gamma(9))
    error = statistics.stdev(values) / math.sqrt(5)
    assert found.standard_error == pytest.approx(error, rel=rounding.gamma(30))
    # A share p of n images: sqrt(p (1 - p) / (n - 1)).
    found = MeanOverImages.of(np.arange(100) < 20)
    assert found.mean == pytest.approx(0.2, rel=rounding.gamma(3))
    assert found.standard_error == pytest.approx(
        math.sqrt(0.2 * 0.8 / 99), rel=rounding.gamma(200)
    )


def test_the_error_is_that_of_drawing_generated_images_again():
    """The balls stay; 300 draws of 200 images scatter as one draw says."""
    real = np.random.default_rng(0).normal(size=(100, 2))
    random = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(300):
        new = random.normal(size=(200, 2)) * 2
        found = fid.metrics.in_balls.in_balls(new, real, variant="kynkaanniemi")
        each = MeanOverImages.of(found.within > 0)
        means.append(each.mean)
        errors.append(each.standard_error)
    assert np.mean(errors) == pytest.approx(
        np.std(means, ddof=1), rel=rounding.deviation_of(300)
    )


def test_options_are_refused_as_the_variants_say():
    x = np.ones((9, 2), np.float32)
    with pytest.raises(InputError, match="The variant is 'paper'; choose from adm, k"):
        in_balls.in_balls(x, x, variant="paper")
