"""Pairs and who judges them: what is compared, held out, read and refused."""

import collections
import itertools
import sys

import numpy as np
import pytest
from PIL import Image

from fid.files import InputError
from tf_ttur.distillation import pairs as module
from tf_ttur.distillation.pairs import (
    Pairs,
    ScoreOracle,
    held_out,
    oracle_of,
    pairs_of,
    scores_of,
)

SHAPE = (2, 3, 1)


def images(count, seed=0):
    random = np.random.default_rng(seed)
    return random.uniform(-1, 1, (count, *SHAPE)).astype("float32")


def brightness(images, labels):
    return images.mean((1, 2, 3))


def rows(given, found):
    """The places of images among those that were given."""
    places = {image.tobytes(): i for i, image in enumerate(given)}
    return [places[image.tobytes()] for image in found]


def test_pairs_are_of_one_class_and_no_image_is_in_two():
    given, labels = images(61), np.arange(61, dtype=np.int32) % 3
    pairs = pairs_of(given, labels, brightness, seed=0)
    one, two = rows(given, pairs.a), rows(given, pairs.b)
    # Classes of 21, 20 and 20 images: one is left over.
    assert len(pairs) == 30
    assert len({*one, *two}) == 60
    np.testing.assert_array_equal(labels[one], labels[two])
    np.testing.assert_array_equal(pairs.labels, labels[one])
    np.testing.assert_array_equal(
        pairs.better, brightness(pairs.a, None) > brightness(pairs.b, None)
    )
    # Neither side is the better one as a rule: of 30 coins 5 deviations.
    assert 1 < pairs.better.sum() < 29
    assert pairs.ties == 0


def test_images_meet_by_the_seed_and_without_labels_any_two_may():
    given, labels = images(60), np.arange(60) // 30
    met = collections.Counter()
    for seed in range(3):
        again = [pairs_of(given, None, brightness, seed) for _ in range(2)]
        np.testing.assert_array_equal(again[0].a, again[1].a)
        one, two = rows(given, again[0].a), rows(given, again[0].b)
        met.update(frozenset(x) for x in zip(one, two, strict=True))
        assert (labels[one] != labels[two]).any()
    assert len(met) > 80


def test_the_better_one_wins():
    pairs = pairs_of(images(20), None, brightness, seed=0)
    assert (brightness(pairs.winners, None) > brightness(pairs.losers, None)).all()
    some = pairs[np.array([3, 1])]
    np.testing.assert_array_equal(some.winners, pairs.winners[[3, 1]])


def test_ties_are_dropped_and_counted():
    given = np.repeat([-1, -1, 0, 0, 1, 1], 10).astype("f").reshape(-1, 1, 1, 1)
    labels = np.repeat([0, 1, 2], 20)
    labels[-10:] = 3

    def score(images, labels):
        return np.where(labels == 0, np.arange(len(images)), images.mean((1, 2, 3)))

    pairs = pairs_of(given, labels, score, seed=1)
    # All of the classes 1, 2 and 3 look alike.
    assert pairs.ties == 20
    assert len(pairs) == 10
    assert set(pairs.labels) == {0}


def test_an_oracle_is_given_some_images_at_a_time_with_their_labels():
    sizes = []

    def score(images, labels):
        sizes.append(len(images))
        return labels

    labels = np.arange(600)
    found = scores_of(score, images(600), labels)
    np.testing.assert_array_equal(found, labels)
    assert max(sizes) == 256
    assert sum(sizes) == 600
    assert scores_of(lambda x, y: [] if y is None else y, images(0), None).shape == (0,)


def raising(images, labels):
    raise ZeroDivisionError("by\nzero")


def one_infinite(images, labels):
    return np.where(np.arange(len(images)) == 2, np.inf, 0.0)


@pytest.mark.parametrize(
    ("oracle", "message"),
    [
        (raising, "raised ZeroDivisionError: by zero. It is given float32 images"),
        (lambda x, y: np.full(len(x), np.nan), "8 of 8 images as NaN or infinite"),
        (one_infinite, r"1 of 8 images .* first as inf \(number 2, pixels of"),
        (lambda x, y: x, r"float32 of shape \(8, 2, 3, 1\) for 8 images"),
        (lambda x, y: 1.0, r"float64 of shape \(\) for 8 images"),
        (lambda x, y: ["a"] * len(x), "str.* a number for each"),
        (lambda x, y: np.ones(len(x)), "all 4 pairs alike, such as 1,"),
    ],
)
def test_an_oracle_that_cannot_be_used_is_refused(oracle, message):
    with pytest.raises(InputError, match=message) as caught:
        pairs_of(images(8), None, oracle, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_images_of_which_no_two_can_be_compared_are_refused(count):
    with pytest.raises(InputError, match=f"There are {count} images, and no two of"):
        pairs_of(images(count), np.arange(count), brightness, seed=0)


def test_arrays_that_are_no_pairs_are_refused():
    one, two = images(4), images(4, 1)
    true = np.ones(4, bool)
    for arguments in (
        (one, two[:3], None, true),
        (one, two, None, true[:3]),
        (one, two, np.zeros(3, int), true),
        (one[0], two[0], None, true[:2]),
    ):
        with pytest.raises(ValueError, match="Received: the shapes"):
            Pairs(*arguments)
    with pytest.raises(ValueError, match="NaN or infinite"):
        Pairs(one, two * np.nan, None, true)


def linked(count, links):
    """Pairs of images by their numbers."""
    given = images(count)
    one, two = np.array(links).T
    return Pairs(given[one], given[two], None, np.ones(len(links), bool))


@pytest.mark.parametrize("seed", range(4))
def test_no_image_is_on_both_sides(seed):
    """Of pairs that share images: chains of three, and the same pair twice."""
    chains = [[(3 * i, 3 * i + 1), (3 * i + 1, 3 * i + 2)] for i in range(10)]
    twice = [[(30 + 2 * i, 31 + 2 * i), (31 + 2 * i, 30 + 2 * i)] for i in range(10)]
    pairs = linked(50, [*itertools.chain(*chains, *twice)])
    chosen = held_out(pairs, seed)
    assert chosen.sum() == 8  # one of five

    def seen(some):
        return {x.tobytes() for x in np.concatenate([some.a, some.b])}

    assert not seen(pairs[chosen]) & seen(pairs[~chosen])
    np.testing.assert_array_equal(chosen, held_out(pairs, seed))
    assert (chosen != held_out(pairs, seed + 1)).any()


def test_pairs_of_which_none_can_be_held_out_are_refused():
    with pytest.raises(InputError, match="Of 4 pairs none can be held out"):
        held_out(linked(8, [(0, 1), (2, 3), (4, 5), (6, 7)]), 0)
    ring = [(i, (i + 1) % 20) for i in range(20)]
    with pytest.raises(InputError, match="of 1 groups that share none"):
        held_out(linked(20, ring), 0)


# ---- oracles by name


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Writes modules of a user's, which are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("of_a_user"):
            del sys.modules[name]


FUNCTION = "def score(images, labels):\n    return images.mean((1, 2, 3)) * {}\n"


def test_a_python_function_is_an_oracle_known_by_its_modules_text(user_module):
    one, two, three = (
        oracle_of(f"{user_module(f'of_a_user_{i}', FUNCTION.format(f))}:score", SHAPE)
        for i, f in enumerate((2, 2, 3))
    )
    given = images(8)
    np.testing.assert_array_equal(one(given), 2 * brightness(given, None))
    digests = [x.identity.partition(" ")[2] for x in (one, two, three)]
    assert digests[0] == digests[1] != digests[2]
    pairs = one.pairs(lambda: (given, None), seed=5)
    np.testing.assert_array_equal(pairs.a, pairs_of(given, None, brightness, seed=5).a)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digit", "There is no oracle 'digit'; give digits, MODULE:FUNCTION"),
        (":score", "There is no oracle ':score'"),
        ("module:", "There is no oracle 'module:'"),
        ("of_a_user_nowhere:score", "ModuleNotFoundError: .*PYTHONPATH"),
        ("of_a_user_bad:score", "imported: SyntaxError: "),
        ("of_a_user_exits:score", "imported: RuntimeError: no GPU"),
        ("of_a_user_good:other", "of_a_user_good has no function 'other'"),
        ("of_a_user_good:score.x", "has no function 'score.x'"),
        ("of_a_user_good:NUMBER", "has a int as 'NUMBER'"),
    ],
)
def test_an_oracle_that_is_not_there_is_refused(text, message, user_module):
    user_module("of_a_user_bad", "def score(:\n")
    user_module("of_a_user_exits", "raise RuntimeError('no GPU')\n")
    user_module("of_a_user_good", FUNCTION.format(1) + "NUMBER = 1\n")
    with pytest.raises(InputError, match=message) as caught:
        oracle_of(text, SHAPE)
    assert "\n" not in str(caught.value)


# ---- what people chose


def write_images(folder, shape=SHAPE, count=4):
    found = np.random.default_rng(7).integers(0, 256, (count, *shape), np.uint8)
    for index, image in enumerate(found):
        Image.fromarray(image.squeeze()).save(folder / f"{index}.png")
    return found


def choices(folder, text, shape=SHAPE):
    path = folder / "choices.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return oracle_of(f"choices:{path}", shape)


def never(*_):
    raise AssertionError("It has images of its own.")


@pytest.mark.parametrize("shape", [(2, 3, 1), (2, 3, 3)])
def test_choices_are_read_with_their_images(tmp_path, shape):
    found = write_images(tmp_path, shape)
    # With a byte order mark, blank lines, and a column that is not read.
    text = (
        "\ufeffwho,loser, winner,label\n\nme,0.png,1.png,3\r\nyou,./2.png,1.png,0\n\n"
    )
    pairs = choices(tmp_path, text, shape).pairs(never, 0)
    scaled = found / np.float32(127.5) - 1
    np.testing.assert_array_equal(pairs.winners, scaled[[1, 1]])
    np.testing.assert_array_equal(pairs.losers, scaled[[0, 2]])
    assert pairs.winners.dtype == np.float32
    assert pairs.labels.tolist() == [3, 0]
    text = "winner,loser\n0.png,1.png\n"
    assert choices(tmp_path, text, shape).pairs(never, 0).labels is None


def test_choices_are_known_by_their_images_and_labels(tmp_path):
    write_images(tmp_path)
    text = "winner,loser,label\n0.png,1.png,0\n"
    first = choices(tmp_path, text).identity
    assert choices(tmp_path, text + "\n").identity == first
    others = {
        choices(tmp_path, text.replace(*change)).identity
        for change in ((",0\n", ",1\n"), ("0.png,1.png", "1.png,0.png"), ("1.p", "2.p"))
    }
    Image.new("L", (3, 2), 9).save(tmp_path / "1.png")
    others.add(choices(tmp_path, text).identity)
    assert len(others - {first}) == 4


HEADER = "winner,loser\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the file is empty. Write winner,loser into the first line"),
        (HEADER, 1, "there are no choices"),
        ("winner,looser\n0.png,1.png\n", 1, "the columns are winner,looser. The first"),
        ("0.png,1.png\n", 1, "the columns are 0.png,1.png"),
        ("winner,loser,winner\n", 1, "the columns are winner,loser,winner"),
        (HEADER + "0.png,1.png\n0.png\n", 3, "1 cells, and the first line names 2"),
        (HEADER + "0.png,1.png,2\n", 2, "3 cells, and the first line names 2"),
        (HEADER + "0.png,\n", 2, "no loser. Name an image"),
        (HEADER + "0.png,9.png\n", 2, "image 9.png cannot be used: .*no such file"),
        (HEADER + "0.png,large.png\n", 2, "large.png .*: 4x2 pixels, and 3x2 are want"),
        (HEADER + "0.png,red.png\n", 2, "red.png cannot be used: it has colours, and"),
        (HEADER + "0.png,text.png\n", 2, "image text.png cannot be used: "),
        (HEADER + "0.png,.\n", 2, r"image . cannot be used: no regular file"),
        (HEADER + "0.png,a\0b\n", 2, r"the image 'a\\x00b' cannot be used"),
        (HEADER + "\n0.png,0.png\n", 3, "0.png and 0.png are one image. Name two"),
        (HEADER + "0.png,same.png\n", 2, "0.png and same.png are one image"),
        ('"a\nb",loser\n', 2, r"the columns are 'a\\nb,loser'"),
        (HEADER + "0.png,./0.png\n", 2, "0.png and ./0.png are one image"),
        (
            "winner,loser,label\n0.png,1.png,two\n",
            2,
            "the label is 'two'. Labels",
        ),
        ("winner,loser,label\n0.png,1.png,-1\n", 2, "the label is '-1'"),
        ("winner,loser,label\n0.png,1.png,\n", 2, "the label is ''"),
        ("winner,loser,label\n0.png,1.png,1.0\n", 2, "the label is '1.0'"),
        (HEADER + '0.png,"1.png\n', 2, r"no CSV \(.*Mend the quotation marks"),
        (HEADER + '0.png,"1".png\n', 2, r"no CSV \("),
    ],
)
def test_a_damaged_file_of_choices_is_refused_by_its_line(
    tmp_path, text, line, message
):
    write_images(tmp_path)
    Image.new("L", (4, 2)).save(tmp_path / "large.png")
    Image.new("RGB", (3, 2), "red").save(tmp_path / "red.png")
    (tmp_path / "text.png").write_text("nothing")
    (tmp_path / "same.png").write_bytes((tmp_path / "0.png").read_bytes())
    expected = rf"choices\.csv, line {line}: .*{message}"
    with pytest.raises(InputError, match=f"(?i){expected}") as caught:
        choices(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_of_choices_that_is_no_text_or_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no text in UTF-8"):
        choices(tmp_path, "winner,lösér\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"none.csv cannot be read: No such file"):
        oracle_of(f"choices:{tmp_path / 'none.csv'}", SHAPE)
    with pytest.raises(InputError, match="is an address"):
        oracle_of("choices:https://somewhere/x.csv", SHAPE)


def test_a_score_oracle_is_its_function():
    oracle = ScoreOracle(brightness, "brightness", "brightness 1")
    given = images(3)
    np.testing.assert_array_equal(oracle(given), brightness(given, None))
    assert set(module.__all__) >= {"Oracle", "Choices"}
