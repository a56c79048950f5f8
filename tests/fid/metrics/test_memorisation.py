import json
import math
import tracemalloc

import numpy as np
import pytest
import rounding
import scipy.stats
import toy_extractors

import fid
from fid import InputError, cli
from fid.metrics import choose, memorisation
from fid.metrics.in_balls import MeanOverImages
from fid.metrics.memorisation import authenticity, copying
from fid.metrics.metric import Measured

pytestmark = pytest.mark.portable


def drawn(n, seed, d=6):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def distances(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.sqrt(np.square(x[:, None] - y[None]).sum(axis=-1))


# --- AuthPct -------------------------------------------------------------------------


def test_authpct_by_hand():
    train = np.array([[0.0], [1.0], [5.0]])
    # 0.4 is nearer to 0 than 1 is; 2.5 is 1.5 from 1, which has 0 at 1; 9 is 4 from 5,
    # which has 1 at 4: not nearer.
    new = np.array([[0.4], [2.5], [9.0], [9.5]])
    assert authenticity(new, train) == MeanOverImages.of(np.array([0, 100, 0, 100]))


def test_authpct_against_whole_tables():
    new, train = drawn(120, 0), drawn(150, 1)
    apart = distances(new, train)
    chosen = apart.argmin(axis=1)
    among = distances(train, train)
    np.fill_diagonal(among, np.inf)
    expected = 100 * np.mean(among[chosen].min(axis=1) < apart.min(axis=1))
    found = authenticity(new, train)
    assert found.mean == pytest.approx(expected, rel=rounding.gamma(200))
    assert 0 < found.standard_error < 100 / np.sqrt(120)


def test_copies_of_training_images_are_not_authentic():
    train = drawn(150, 1)
    assert authenticity(train[:90], train) == MeanOverImages(0.0, 0.0)
    # Where training images have copies among themselves as well.
    twice = np.concatenate([train, train])
    assert authenticity(train[:90], twice) == MeanOverImages(0.0, 0.0)
    # Where they lie in clusters far tighter than these are apart.
    tight = 1e-3 * drawn(200, 3, 2) + np.arange(200)[:, None] % 2
    assert authenticity(tight.copy(), tight) == MeanOverImages(0.0, 0.0)
    mixed = np.concatenate([train[:50], drawn(50, 2) + 100])
    assert authenticity(mixed, train).mean == 50.0


@pytest.mark.parametrize("d", [1, 2])
def test_new_images_are_as_often_authentic_as_points_of_a_poisson_process(d):
    """By hand: let r be the volume up to the nearest training image.

    It is exponential. The ball of that size around the training image is free of others
    with the probability exp(-a r), where a is the share of it that lies outside of the
    ball around the new image. So authentic are a / (1 + a) of all.
    """
    random = np.random.default_rng(d)
    # Away from the edge, and few of them, so that hardly two have the same neighbours.
    new = random.uniform(0.1, 0.9, (1000, d))
    found = authenticity(new, random.uniform(size=(8000, d)))
    a = 1 / 2 if d == 1 else 1 / 3 + math.sqrt(3) / (2 * math.pi)
    expected = a / (1 + a)
    deviation = math.sqrt(expected * (1 - expected) / 1000)
    assert found.mean / 100 == pytest.approx(
        expected, abs=rounding.DEVIATIONS * deviation
    )


# --- C_T -----------------------------------------------------------------------------


def with_error(new, train, test):
    statistics = fid.Statistics(np.zeros(1), np.eye(1))
    new, train, test = (Measured(statistics, x) for x in (new, train, test))
    return memorisation.Copying().with_errors(new, new, train=train, test=test)


def ours(x, y):
    return memorisation._z_score(np.asarray(x, float), np.asarray(y, float))


@pytest.mark.parametrize("ties", [False, True])
def test_the_z_score_is_that_of_mann_and_whitney(ties):
    random = np.random.default_rng(0)
    x, y = random.normal(size=40), random.normal(size=70) + 0.3
    if ties:
        x, y = np.round(2 * x), np.round(2 * y)
    u = scipy.stats.mannwhitneyu(x, y).statistic
    expected = (u - 40 * 70 / 2 + 0.5) / np.sqrt(40 * 70 * (40 + 70 + 1) / 12)
    assert ours(x, y) == pytest.approx(expected, rel=rounding.gamma(20), abs=1e-12)


def test_c_t_against_scipy_in_the_cells():
    new, train, test = drawn(200, 0), drawn(300, 1), drawn(150, 2)
    cells = memorisation._cells(*(x.astype(float) for x in (train, new, test)), seed=0)
    total, weights = 0.0, 0
    for cell in range(3):
        here, inside, unseen = (
            x[of == cell] for x, of in zip((train, new, test), cells, strict=True)
        )
        x, y = (distances(z, here).min(axis=1) for z in (inside, unseen))
        u = scipy.stats.mannwhitneyu(x, y).statistic
        n, m = len(x), len(y)
        score = (u - n * m / 2 + 0.5) / np.sqrt(n * m * (n + m + 1) / 12)
        total, weights = total + m * score, weights + m
    assert weights == 150
    assert copying(new, train, test) == pytest.approx(
        total / weights, rel=rounding.gamma(100), abs=1e-9
    )


def test_c_t_by_hand():
    """One feature, and cells around 0, 1000 and 2000."""
    train = np.repeat([0.0, 1000.0, 2000.0], 2)[:, None]
    test = np.concatenate([[1, 2, 3, 4], [1001, 1003], 2000 + np.arange(10)])
    new = np.repeat([2.5, 1000.0, 2000.0], [21, 30, 20])
    test, new = test.astype(float)[:, None], new[:, None]
    # Of 21 * 4 pairs half are above, less the half: z is 0.5 / sqrt(84 * 26 / 12). None
    # of 30 * 2 is: z is -29.5 / sqrt(60 * 33 / 12). And 20 images are too few.
    expected = (4 * 0.5 / math.sqrt(182) - 2 * 29.5 / math.sqrt(165)) / 6
    assert copying(new, train, test) == pytest.approx(expected)
    value, (error,) = with_error(new, train, test)
    assert value == copying(new, train, test)
    assert error.value == pytest.approx(math.sqrt(4**2 + 2**2) / 6)


def test_c_t_varies_by_its_error_where_nothing_is_copied():
    count, scaled = 200, []
    for s in range(count):
        value, (error,) = with_error(*(drawn(90, 3 * s + i, 2) for i in range(3)))
        scaled.append(value / error.value)
    assert np.std(scaled) == pytest.approx(1, rel=rounding.deviation_of(count))
    assert abs(np.mean(scaled)) < rounding.DEVIATIONS / math.sqrt(count)


def test_cells_are_nearest_midpoints_and_hold_all_training_images():
    train = np.concatenate([drawn(50, k).astype(float) + 100 * k for k in range(3)])
    new = np.array([[0.0] * 6, [100.0] * 6, [200.0] * 6])
    of_train, of_new = memorisation._cells(train, new, seed=0)
    assert sorted(of_new) == [0, 1, 2]
    np.testing.assert_array_equal(of_train, of_new.repeat(50))


def test_copies_of_training_images_are_far_below_zero():
    train, test = drawn(300, 1), drawn(300, 2)
    assert copying(train, train, test) < -10
    noise = train + 1e-3 * drawn(300, 3)
    assert copying(noise, train, test) < -10
    # Images far from all others are the opposite.
    assert copying(test * 3, train, test) > 5


def test_images_like_the_test_images_are_around_zero():
    """With equal distributions it is a weighted mean of z-scores of three cells."""
    found = [
        copying(drawn(200, 3 * s), drawn(300, 3 * s + 1), drawn(200, 3 * s + 2))
        for s in range(10)
    ]
    assert np.abs(found).max() < rounding.DEVIATIONS
    assert copying(drawn(200, 0), drawn(300, 1), drawn(200, 2)) == found[0]


def test_many_features_are_projected_onto_those_that_vary():
    """Directions in which training images do not vary do not count."""
    new, train, test = drawn(100, 0, 80), drawn(300, 1, 80), drawn(100, 2, 80)
    for each in (new, train, test):
        each[:, 40:] *= 1e-6
    one = copying(new[:, :40], train[:, :40], test[:, :40])
    # Distances differ by 1e-6 of themselves, and then, ever so rarely, a rank by one.
    assert copying(new, train, test) == pytest.approx(one, abs=0.05)
    few = copying(drawn(100, 0, 80), drawn(30, 1, 80), drawn(100, 2, 80))
    assert np.isfinite(few)


def test_what_cannot_be_used_is_refused():
    x, bad = drawn(60, 0), drawn(60, 0)
    bad[5, 1] = np.inf
    for work, arguments, message in (
        (authenticity, (x[:1], x), "the first set has 1: add images"),
        (authenticity, (x, x[:1]), "the training set has 1: add images"),
        (authenticity, (x, bad), "image 5 .* training set are not finite"),
        (authenticity, (x, x[:, :2]), "6 features an image and the training 2"),
        (copying, (x, x[:2], x), "into 3 cells, and 2 of them are different"),
        (copying, (x, np.ones_like(x), x), "into 3 cells, and 1 of them are different"),
        (copying, (x[:20], x, x), "20 generated and 60 test images have none"),
        (copying, (x, x, bad), "of the test set are not finite"),
        (
            copying,
            (x, x, x[:, :2]),
            "The test set has 2 features an image and the t",
        ),
    ):
        with pytest.raises(InputError, match=message):
            work(*arguments)
    with pytest.raises(InputError, match="seed is -1; it must be from 0 to 4294967295"):
        copying(x, x, x, seed=-1)


# --- As metrics ----------------------------------------------------------------------


class Pixels(toy_extractors.Colours):
    name = "pixels"


def images(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 1, 1, 3), np.uint8)


def test_copies_are_found_from_images_and_the_caveat_is_printed():
    train, test = images(150, 0), images(150, 1)
    both = {"train": train, "test": test, "metrics": ("authpct", "ct")}
    found = fid.compare(train, test, Pixels(), **both)
    values = found.values()
    assert values["authenticity_pixels_mean"] == 0.0
    assert values["copying_pixels"] < -8
    caveats = [text for text in found.warnings if "Stein et al. 2023" in text]
    assert [text.split()[0] for text in caveats] == ["AuthPct", "C_T"]
    found = fid.compare(images(150, 2), test, Pixels(), **both).values()
    assert found["authenticity_pixels_mean"] > 25
    assert abs(found["copying_pixels"]) < rounding.DEVIATIONS


def test_sets_that_are_missing_or_not_needed_are_refused():
    a, b = images(60, 0), images(60, 1)
    for arguments, message in (
        (
            {"metrics": "authpct"},
            "^AuthPct needs the images of the train set: give --tr",
        ),
        (
            {"metrics": "ct", "train": b},
            "^C_T needs the images of the test set: give -",
        ),
        (
            {"metrics": "ct", "test": b},
            "^C_T needs the images of the train set: give -",
        ),
        (
            {"metrics": "fid", "train": b},
            "^None of the metrics fid takes --train: leav",
        ),
        ({"metrics": ("fid", "authpct"), "train": b, "test": b}, "takes --test: leave"),
        ({"metrics": "authpct", "train": b[:1]}, "has 1 image"),
        ({"metrics": "authpct", "train": "no/such/folder"}, "no/such/folder"),
    ):
        with pytest.raises(InputError, match=message):
            fid.compare(a, b, Pixels(), **arguments)
    with pytest.raises(InputError, match="^C_T needs .* than 20 .* and array has 20: "):
        sets = [fid.open_images(each) for each in (a[:20], b)]
        choose("ct", {})[0].check(sets, train=sets[1], test=sets[1])
    bare = fid.Statistics(np.zeros(3), np.eye(3), 5000, label="bare.npz")
    with pytest.raises(InputError, match="features of all sets, and bare.npz holds"):
        fid.compare(a, b, Pixels(), metrics="authpct", train=bare)
    with pytest.raises(InputError, match="AuthPct needs two images of a set"):
        few = fid.Statistics(np.zeros(3), np.eye(3), 1, rows=np.zeros((1, 3)))
        choose("authpct", {})[0].check([few, few], train=few)


def test_a_training_set_measured_in_another_way_is_said():
    train = fid.compute_statistics(images(2, 0), Pixels())
    other = fid.Statistics(train.mu, train.sigma, 2, rows=train.rows, label="old.npz")
    a, b = images(60, 1), images(60, 2)
    found = fid.compare(a, b, Pixels(), metrics="authpct", train=other)
    assert any("old.npz does not say how it was computed" in w for w in found.warnings)
    with pytest.raises(
        InputError, match="old.npz do not say what they were computed w"
    ):
        fid.compare(a, b, Pixels(), metrics="authpct", train=other, strict=True)


def test_the_program_takes_further_sets(tmp_path, capsys):
    paths = {}
    for seed, name in enumerate(("a", "b", "train", "test")):
        moments = fid.Moments(100)
        moments.update(drawn(90, seed, 100))
        paths[name] = tmp_path / f"{name}.npz"
        moments.statistics({"source": name, "extractor": "x"}).save(paths[name])
    argv = ["x", str(paths["a"]), str(paths["b"]), "--metrics=authpct,ct"]
    argv += [f"--train={paths['train']}", f"--test={paths['test']}", "--json"]
    assert cli.compute_fid(argv) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    a, train, test = (drawn(90, seed, 100) for seed in (0, 2, 3))
    assert found["authenticity_x_mean"] == authenticity(a, train).mean
    # The rows went through a file, and are the same.
    assert found["copying_x"] == copying(a, train, test)
    assert [(s.get("role"), s["label"]) for s in found["sets"]] == [
        (role, str(paths[role or name]))
        for role, name in ((None, "a"), (None, "b"), ("train", ""), ("test", ""))
    ]
    assert "warning: AuthPct cannot tell memorisation from" in captured.err
    assert cli.compute_fid([*argv, "--standard_errors"]) == 0
    with_errors = json.loads(capsys.readouterr().out)
    error = with_error(a, train, test)[1][0].value
    assert with_errors == found | {
        "copying_x_standard_error": error,
        "errors": {
            "authenticity_x_standard_error": "spread over the images of A; the "
            "training images are taken as exact",
            "copying_x_standard_error": "its deviation where nothing is copied, in "
            "these cells",
        },
    }
    assert cli.compute_fid(argv[:4]) == 1
    assert "give --train=SOURCE" in capsys.readouterr().err


def test_a_projection_copies_no_set_in_float64():
    x = drawn(20_000, 0, 66)
    tracemalloc.start()
    memorisation._through(np.eye(66)[:, :2], x, np.zeros(66))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes
