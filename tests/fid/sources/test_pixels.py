import hashlib

import numpy as np
import pytest
import rounding

from fid import InputError
from fid.sources.pixels import Seen, Values, as_array


def floats(*values):
    return np.array(values, np.float32).reshape(-1, 1, 1, 1)


def test_a_set_is_judged_as_a_whole_and_each_pass_anew():
    values = Values("x")
    values.check(floats(0.0, 1.0))
    values.check(floats(1.4))
    with pytest.raises(InputError, match=r"\[0, 1.4\], which does not look like"):
        values.finish()
    values.check(floats(1.6))
    values.finish()
    values.restart()
    values.check(floats(1.0))
    with pytest.raises(InputError, match=r"\[0,|\[1, 1\]"):
        values.finish()


@pytest.mark.parametrize(
    ("value_range", "bad", "message"),
    [
        (None, -0.1, "does not look like"),
        (None, 255.1, r"outside of the range \[0, 255\]"),
        ("0,1", 1.1, r"outside of the range \[0, 1\]"),
        ("-1,1", -1.1, r"outside of the range \[-1, 1\]"),
        (None, np.nan, "Image 5 of x"),
        ("0,1", np.inf, "Image 5 of x"),
    ],
)
def test_bad_values_are_found_at_once(value_range, bad, message):
    values = Values("x", value_range)
    values.check(floats(1, 0, 1))
    with pytest.raises(InputError, match=message):
        values.check(floats(1, 0, bad))


def test_bytes_are_never_judged_and_never_touched():
    values = Values("x", "-1,1", "round")
    images = np.zeros((2, 1, 1, 3), np.uint8)
    values.check(images)
    values.finish()
    assert values.scale(images) is images
    assert values.facts() == {"pixels": "8-bit"}


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_ranges_are_mapped_to_grey_levels(dtype):
    grid = np.array([-1, -0.5, 0, 1], dtype).reshape(4, 1, 1, 1)
    expected = [0, 63.75, 127.5, 255]
    scaled = Values("x", "-1,1").scale(grid)
    assert scaled.dtype == np.float32
    rtol = rounding.gamma(2, "float32")  # A sum and a product.
    np.testing.assert_allclose(scaled.ravel(), expected, rtol=rtol)
    cut = Values("x", "-1,1", "truncate").scale(grid)
    assert cut.ravel().tolist() == [0, 63, 127, 255]
    near = Values("x", "-1,1", "round").scale(grid)
    assert near.ravel().tolist() == [0, 64, 128, 255]


def test_unknown_ranges_and_rules_are_refused():
    with pytest.raises(InputError, match="quantize is 'floor'; choose from none"):
        Values("x", None, "floor")
    with pytest.raises(InputError, match="value_range is '0,2'; choose from '0,255"):
        Values("x", "0,2")


def test_the_digest_is_that_of_shapes_and_bytes_in_order():
    seen = Seen()
    assert seen.facts() == {}
    seen.add(np.arange(6, dtype=np.uint8).reshape(1, 2, 3))
    seen.add(np.full((2, 1, 1), 7, np.uint8)[::-1])
    text = b"(1, 2, 3) uint8\n" + bytes(range(6)) + b"(2, 1, 1) uint8\n" + b"\x07\x07"
    assert seen.facts() == {
        "source_count": 2,
        "source_resolution": "mixed",
        "source_sha256": hashlib.sha256(text).hexdigest(),
    }


def test_half_precision_tensors_become_float32():
    tensorflow = pytest.importorskip("tensorflow")
    array = as_array(tensorflow.constant([0.5, 1.0], "bfloat16"), "x")
    assert array.dtype == np.float32
    assert array.tolist() == [0.5, 1.0]
    with pytest.raises(InputError, match="x does not form one array"):
        as_array([[1], [1, 2]], "x")
