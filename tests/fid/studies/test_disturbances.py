"""Each disturbance against its formula, written here with NumPy and SciPy alone."""

import functools

import numpy as np
import pytest
import rounding
import scipy.integrate
import scipy.ndimage
import scipy.stats
from image_folders import write_images

import fid
from fid import InputError
from fid.studies.disturbances import (
    LEVELS,
    DisturbedSource,
    Disturber,
    PartSource,
    contaminants,
    disturb,
)

pytestmark = pytest.mark.portable

pytest.importorskip("skimage", reason="the extra [disturbances] is not installed")


def images(n=12, height=32, width=32, channels=3, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(1, 255, (n, height, width, channels), "uint8")


PHOTOS = images(3, 32, 32, seed=9)

# Disturbed in float64, a grey level is kept in float32, and that is all the rounding
# that counts. Twice that is allowed, for a difference of two.
GREY = 2 * 255 * rounding.unit("float32")
# A place between pixels is found by some thirty operations and functions on numbers of
# up to 50, and grey levels change by up to 255 a pixel, along two axes.
SWIRLED = GREY + 2 * 255 * 50 * rounding.gamma(30 + 5 * rounding.FUNCTION)


@pytest.mark.parametrize("name", LEVELS)
class TestAll:
    def test_level_zero_changes_nothing(self, name):
        x = images()
        np.testing.assert_array_equal(disturb(x, name, 0.0, contamination=PHOTOS), x)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_result_is_floats_of_the_range(self, name, channels):
        x = images(channels=channels)
        for level in LEVELS[name][1:]:
            found = disturb(x, name, level, contamination=PHOTOS)
            assert found.dtype == np.float32
            assert found.shape == x.shape
            assert found.min() >= 0
            assert found.max() <= 255
            assert not np.array_equal(found, x)

    @pytest.mark.parametrize("definition", ["code", "paper"])
    def test_batches_do_not_matter(self, name, definition):
        options = {"definition": definition, "contamination": PHOTOS, "seed": 3}
        whole = disturb(images(), name, LEVELS[name][2], **options)
        source = DisturbedSource(images(), name, LEVELS[name][2], **options)
        for size in (1, 5):
            batches = [np.stack(batch) for batch in source.batches(size)]
            assert max(map(len, batches)) == size
            np.testing.assert_array_equal(np.concatenate(batches), whole)

    def test_floats_and_bytes_are_disturbed_alike(self, name):
        x, level = images(), LEVELS[name][2]
        np.testing.assert_array_equal(
            disturb(x.astype("float32"), name, level, contamination=PHOTOS),
            disturb(x, name, level, contamination=PHOTOS),
        )

    def test_input_is_left_alone(self, name):
        x = images(1).astype("float64")[0]
        before = x.copy()
        disturber = Disturber(1, x.shape, contamination=PHOTOS)
        disturber(name, x, LEVELS[name][3], 0)
        np.testing.assert_array_equal(x, before)

    def test_a_folder_is_disturbed_as_an_array(self, name, tmp_path):
        x = images(4)
        write_images(tmp_path, x)
        source = DisturbedSource(tmp_path, name, LEVELS[name][1], contamination=PHOTOS)
        found = np.concatenate([np.stack(b) for b in source.batches(3)])
        expected = disturb(x, name, LEVELS[name][1], contamination=PHOTOS)
        np.testing.assert_array_equal(found, expected)
        assert source.provenance["disturbance"] == name
        assert source.provenance["source_count"] == 4


class TestNoise:
    def test_is_the_formula_with_one_matrix_scaled_by_its_extremes(self):
        x = images(30).astype(np.float64)
        found = {a: disturb(x, "noise", a).astype(np.float64) for a in (0.25, 0.75)}
        noise = (found[0.75] - 0.25 * x) / 0.75
        assert noise.min() == pytest.approx(0, abs=GREY / 0.75)
        assert noise.max() == pytest.approx(255, rel=0, abs=GREY / 0.75)
        expected = 0.75 * x + 0.25 * noise
        np.testing.assert_allclose(found[0.25], expected, rtol=0, atol=GREY)
        # Affinely scaled normal numbers are normal.
        scaled = (noise - noise.mean()) / noise.std()
        assert scipy.stats.kstest(scaled.ravel(), "norm").pvalue > 1e-3

    def test_deviation_follows_from_the_range_of_normal_numbers(self):
        n, shape = 200, (16, 16, 3)
        zero = np.zeros((n, *shape), np.uint8)
        found = disturb(zero, "noise", 0.5, seed=4) / 0.5 / 127.5  # of [-1, 1]
        # Not of rounding: the range of m normal numbers is the sum of two extremes,
        # each of a deviation of about pi / sqrt(12 log m) (Gumbel's law).
        expected = expected_range(zero.size)
        deviation = np.pi / np.sqrt(12 * np.log(zero.size)) * np.sqrt(2)
        far = rounding.DEVIATIONS * deviation / expected
        assert found.std() == pytest.approx(2 / expected, rel=far)

    def test_deviation_of_the_original(self):
        """The figures for 50,000 CelebA images and for 100 come from the formula."""
        pixels = 64 * 64 * 3
        # To their digits; the first was itself measured, to two units of its last.
        found = 2 / expected_range(50_000 * pixels)
        assert found == pytest.approx(0.166, rel=0, abs=2 * rounding.printed(3))
        found = 2 / expected_range(100 * pixels)
        assert found == pytest.approx(0.20, rel=0, abs=rounding.printed(2))


def expected_range(m):
    """E(max - min) of m standard normal numbers."""
    norm = scipy.stats.norm

    def above(t):  # E(max) = integral of 1 - F^m above 0, less that of F^m below
        return -np.expm1(m * norm.logcdf(t))

    return 2 * scipy.integrate.quad(above, 0, 40, points=[4, 5, 6, 7], limit=200)[0]


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_blur_is_a_convolution_of_each_channel(sigma):
    radius = int(4 * sigma + 0.5)
    x = np.arange(-radius, radius + 1)
    kernel = np.exp(-(x**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    expected = images(2, 20, 24).astype(np.float64)
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (radius, radius)
        expected = np.apply_along_axis(
            functools.partial(np.convolve, v=kernel, mode="valid"),
            axis,
            np.pad(expected, pad, mode="edge"),
        )
    found = disturb(images(2, 20, 24), "blur", sigma)
    np.testing.assert_allclose(found, expected, rtol=0, atol=GREY)


class TestRectangles:
    @staticmethod
    def expected_cover(size, side, number=5):
        """The chance of a pixel to be covered, averaged over all pixels."""
        corners = np.arange(size - side + 1)
        rows = np.arange(size)[:, None]
        share = ((corners <= rows) & (rows < corners + side)).mean(axis=1)
        return 1 - ((1 - np.outer(share, share)) ** number).mean()

    @pytest.mark.parametrize(
        ("level", "published"), [(0.25, 0.26), (0.5, 0.60), (0.75, 0.83)]
    )
    def test_mean_covered_area(self, level, published):
        expected = self.expected_cover(64, int(64 * level))
        # The published areas were measured on images, to two units of the last digit.
        assert expected == pytest.approx(published, rel=0, abs=2 * rounding.printed(2))
        x = np.full((400, 64, 64, 1), 200, np.uint8)
        x[0, 0, 0] = 0  # the set's least value
        covered = (disturb(x, "rectangles", level) == 0).mean(axis=(1, 2, 3))
        error = 4 * covered.std() / np.sqrt(len(x))
        assert covered.mean() == pytest.approx(expected, abs=error)

    def test_one_rectangle_is_the_size_that_the_definition_says(self):
        grey = np.full((40, 60, 3), 200, np.uint8)
        for definition, rows, columns in (("code", 10, 15), ("paper", 20, 30)):
            disturber = Disturber(50, grey.shape, definition=definition, rectangles=1)
            for index in range(50):
                each = disturber("rectangles", grey, 0.25, index)[..., 0] == 0
                where = np.argwhere(each)
                extent = where.max(axis=0) - where.min(axis=0) + 1
                assert extent.tolist() == [rows, columns]
                assert each.sum() == rows * columns

    def test_filled_with_the_least_value_of_all_images(self):
        x = np.full((4, 16, 16, 1), 200, np.uint8)
        x[3, 0, 0] = 7
        assert np.unique(disturb(x, "rectangles", 0.5)).tolist() == [7, 200]
        found = disturb(x, "rectangles", 0.5, definition="paper")
        assert found.min() == 0

    def test_corners_are_uniform_and_reach_the_border(self):
        grey = np.full((8, 8, 1), 200, np.uint8)
        disturber = Disturber(4000, grey.shape, rectangles=1)
        found = [
            disturber("rectangles", grey, 0.5, i)[..., 0] == 0 for i in range(4000)
        ]
        tops = np.any(found, axis=2).argmax(axis=1)
        assert scipy.stats.chisquare(np.bincount(tops, minlength=5)).pvalue > 1e-3


class TestSwirl:
    @staticmethod
    def by_formula(image, strength, radius):
        """theta' = theta + strength exp(-5 r / (ln 2 radius)) about the centre."""
        height, width, _ = image.shape
        y, x = np.mgrid[:height, :width].astype(float)
        y, x = y - height // 2, x - width // 2
        r, theta = np.hypot(x, y), np.arctan2(y, x)
        theta = theta + strength * np.exp(-5 * r / (np.log(2) * radius))
        where = [r * np.sin(theta) + height // 2, r * np.cos(theta) + width // 2]
        return np.stack(
            [
                scipy.ndimage.map_coordinates(c, where, order=1, mode="mirror")
                for c in np.moveaxis(image.astype(float), -1, 0)
            ],
            axis=-1,
        )

    @pytest.mark.parametrize("radius", [25, 70])
    @pytest.mark.parametrize("level", [1.0, 4.0])
    def test_code(self, level, radius):
        x = images(20, 40, 36)
        found = disturb(x, "swirl", level, swirl_radius=radius)
        signs = []
        for image, got in zip(x, found, strict=True):
            inside = np.s_[3:-4, 3:-4]
            errors = [
                np.abs(got - self.by_formula(image, sign * level, radius))[inside].max()
                for sign in (-1, 1)
            ]
            assert min(errors) < SWIRLED
            signs.append(np.argmin(errors))
            frame = np.ones(image.shape, bool)
            frame[inside] = False
            np.testing.assert_array_equal(got[frame], image[frame])
        assert 3 < sum(signs) < 17

    def test_paper(self):
        x = images(6, 40, 36)
        found = disturb(x, "swirl", 2.0, definition="paper", swirl_radius=70)
        for image, got in zip(x, found, strict=True):
            expected = self.by_formula(image, 2.0, 25)
            np.testing.assert_allclose(got, expected, rtol=0, atol=SWIRLED)


@pytest.mark.parametrize("level", LEVELS["salt_pepper"][1:])
def test_salt_and_pepper_is_a_share_of_pixels_in_all_channels(level):
    x = np.full((40, 32, 32, 3), 100, np.uint8)
    found = disturb(x, "salt_pepper", level)
    assert np.unique(found).tolist() == [0, 100, 255]
    assert (found == found[..., :1]).all()
    hit = found[..., 0] != 100
    deviation = np.sqrt(level * (1 - level) / hit.size)
    assert hit.mean() == pytest.approx(level, abs=4 * deviation)
    white = (found[..., 0][hit] == 255).mean()
    assert white == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(hit.sum()))


class TestContamination:
    def test_replaces_a_share_by_the_other_set(self):
        x = np.zeros((40, 8, 8, 3), np.uint8)
        others = images(25, 8, 8)
        before = np.zeros(40, bool)
        for level, count in ((0.25, 10), (0.5, 20), (0.75, 30)):
            found = disturb(x, "contamination", level, contamination=others)
            new = found.any(axis=(1, 2, 3))
            assert new.sum() == count
            assert (new | before == new).all()  # what was replaced stays so
            before = new
            which = (found[new][:, None] == others).all(axis=(2, 3, 4)).argmax(axis=1)
            assert (others[which] == found[new]).all()
            # No image twice before each was there once.
            assert len(set(which)) == min(count, 25)

    def test_others_are_brought_to_the_size(self):
        grey = np.full((5, 20, 30, 1), 90, np.uint8)
        grey[:, :, :5] = grey[:, :, -5:] = 0  # cut off: the middle is 20x20
        found = contaminants(grey, (10, 10, 3), most=3)
        np.testing.assert_array_equal(found, np.full((3, 10, 10, 3), 90))

    def test_needs_the_other_set(self):
        with pytest.raises(InputError, match="--contamination=FOLDER"):
            disturb(images(), "contamination", 0.5)


class TestPart:
    @pytest.mark.parametrize("seed", [None, 1])
    def test_takes_images_in_order(self, seed):
        x = images(30, 4, 4)
        part = PartSource(fid.open_images(x), 12, seed)
        found = np.concatenate([np.stack(b) for b in part.batches(7)])
        which = [int((x == image).all(axis=(1, 2, 3)).argmax()) for image in found]
        assert which == (list(range(12)) if seed is None else sorted(set(which)))
        assert len(which) == 12
        assert seed is None or which != list(range(12))

    def test_refuses_more_than_there_are(self):
        with pytest.raises(InputError, match="31 images are to be taken .* has 30"):
            PartSource(fid.open_images(images(30, 4, 4)), 31)


@pytest.mark.parametrize(
    ("name", "level", "message"),
    [
        ("fog", 1.0, "no disturbance 'fog'; choose from noise, blur"),
        ("noise", 1.5, "The level of noise is 1.5; expected a number from 0 to 1"),
        ("blur", -1.0, "The level of blur is -1"),
        ("swirl", float("nan"), "The level of swirl is nan"),
    ],
)
def test_what_cannot_be_is_refused(name, level, message):
    with pytest.raises(InputError, match=message):
        disturb(images(2), name, level)


def test_range_of_floats():
    x = images(4)
    scaled = x.astype(np.float64) / 127.5 - 1
    found = disturb(scaled, "swirl", 2.0, value_range="-1,1")
    np.testing.assert_allclose(found, disturb(x, "swirl", 2.0), rtol=0, atol=GREY)


def test_images_of_two_sizes_are_refused():
    source = fid.open_images([images(1)[0], images(1, 16, 16)[0]])
    disturbed = DisturbedSource(source, "blur", 1.0)
    with pytest.raises(InputError, match=r"Image 1 has shape \(16, 16, 3\)"):
        list(disturbed.batches(5))


def test_scikit_image_is_asked_for(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skimage", None)
    with pytest.raises(InputError, match=r"pip install 'tf-ttur\[disturbances\]'"):
        disturb(images(2), "blur", 1.0)
