"""n-gram counts and divergences against dictionaries of tuples and hand-made cases."""

import collections
import math

import numpy as np
import pytest
import rounding

from fid.files import InputError
from tf_ttur.ngrams import NgramCounts, NgramReference, jensen_shannon

pytestmark = pytest.mark.portable

ORDERS = range(1, 7)

# Of equal shares the logarithm is of 1, but for the roundings of each share and of the
# ratio, and the terms sum to at most 2 of those, in bits, each of a logarithm.
ZERO = 2 * rounding.gamma(8 + rounding.FUNCTION) / math.log(2)


def tuples(lines, n):
    """The n-grams of lines, counted in a dictionary."""
    return collections.Counter(
        tuple(map(int, line[i : i + n]))
        for line in lines
        for i in range(len(line) - n + 1)
    )


def divergence(one, two):
    """The definition: KL divergences from the mean over the union of both supports."""
    sums = [sum(counts.values()) for counts in (one, two)]
    terms = []
    for key in one.keys() | two.keys():
        p, q = (c[key] / total for c, total in zip((one, two), sums, strict=True))
        terms += [x * math.log(2 * x / (p + q)) / 2 for x in (p, q) if x]
    return math.fsum(terms) / math.log(2)


def english_like(count, tokens, seed, length=32):
    """Lines in which some tokens, and some pairs of them, are far more frequent."""
    rng = np.random.default_rng(seed)
    ids = np.minimum(rng.zipf(1.3, (count, length)), tokens) - 1
    ids[:, 1::2] = (ids[:, ::2] * 7 + rng.integers(0, 3, ids[:, ::2].shape)) % tokens
    return ids


@pytest.mark.parametrize("tokens", [3, 90, 2048])
@pytest.mark.parametrize("n", ORDERS)
def test_is_that_of_dictionaries_of_tuples(n, tokens):
    one, two = english_like(640, tokens, 0), english_like(300, tokens, 1)
    counted = [NgramCounts.of(lines, n) for lines in (one, two)]
    expected = [tuples(lines, n) for lines in (one, two)]
    for got, want in zip(counted, expected, strict=True):
        assert (len(got), got.total) == (len(want), sum(want.values()))
    value = divergence(*expected)
    assert 1e-5 < value < 1
    few = rounding.divergence(sum(map(len, expected)))
    assert jensen_shannon(*counted) == pytest.approx(value, rel=0, abs=few)
    assert jensen_shannon(*counted[::-1]) == pytest.approx(value, rel=0, abs=few)


def test_six_grams_that_differ_in_one_bit_only_are_counted_apart():
    # 66 bits: keys of 64 would take some of these for each other.
    base = [1365, 682, 1365, 682, 1365, 682]
    lines = [base]
    for position in range(6):
        for bit in range(11):
            lines.append(base.copy())
            lines[-1][position] ^= 1 << bit
    lines = np.array(lines, np.uint16)
    all_of_them = NgramCounts.of(lines, 6)
    assert len(all_of_them) == len(lines) == 67
    first = NgramCounts.of(lines[:1], 6)
    for line in lines[1:]:
        assert jensen_shannon(first, NgramCounts.of(line[np.newaxis], 6)) == 1


@pytest.mark.parametrize("n", ORDERS)
def test_equal_is_0_and_disjoint_is_1(n):
    lines = english_like(100, 500, 2)
    some = NgramCounts.of(lines, n)
    assert jensen_shannon(some, some) == 0
    twice = NgramCounts.of(np.concatenate([lines, lines]), n)
    assert jensen_shannon(some, twice) == pytest.approx(0, abs=ZERO)
    assert jensen_shannon(some, NgramCounts.of(lines + 600, n)) == 1


def test_by_hand():
    # p = (1/2, 1/2, 0), q = (1/4, 0, 3/4) for the tokens 5, 6 and 7.
    p = NgramCounts.of(np.array([[5, 6]]), 1)
    q = NgramCounts.of(np.array([[5, 7, 7, 7]]), 1)
    kl_p = 0.5 * math.log2((1 / 2) / (3 / 8)) + 0.5
    kl_q = 0.25 * math.log2((1 / 4) / (3 / 8)) + 0.75
    value = (kl_p + kl_q) / 2
    assert jensen_shannon(p, q) == pytest.approx(
        value, rel=0, abs=rounding.divergence(4)
    )


def test_a_line_of_32_has_33_minus_n_with_its_padding():
    line = np.zeros((1, 32), "int32")
    line[0, :3] = 1, 2, 3
    for n in ORDERS:
        assert NgramCounts.of(line, n).total == 33 - n
    assert len(NgramCounts.of(line, 4)) == 4


@pytest.mark.parametrize("n", [1, 4, 6])
def test_shards_merge_into_the_whole(n):
    lines = english_like(1000, 2048, 3)
    whole = NgramCounts.of(lines, n)
    shards = [NgramCounts.of(x, n) for x in (lines[:10], lines[10:700], lines[700:])]
    for merged in (
        shards[0].merge(shards[1]).merge(shards[2]),
        shards[2].merge(shards[0].merge(shards[1])),
    ):
        assert (merged.total, len(merged)) == (whole.total, len(whole))
        # One n-gram that is counted once too often would come to 1e-12 at least.
        assert jensen_shannon(merged, whole) == pytest.approx(0, abs=ZERO)


def test_many_lines_are_counted_in_pieces():
    # More than a million n-grams are counted one piece after the other.
    lines = english_like(1000, 60, 3)
    n, copies = 6, 120
    many = NgramCounts.of(np.concatenate([lines] * copies), n)
    once = tuples(lines, n)
    assert many.total == copies * sum(once.values()) == 3_240_000
    assert len(many) == len(once)
    assert jensen_shannon(many, NgramCounts.of(lines, n)) == pytest.approx(0, abs=ZERO)


def test_merging_leaves_both_as_they_were():
    one, two = (NgramCounts.of(english_like(50, 20, seed), 2) for seed in (4, 5))
    before = jensen_shannon(one, two)
    assert one.merge(two).total == one.total + two.total
    assert jensen_shannon(one, two) == before


def test_reference_gives_values_with_their_floors():
    lines = english_like(5000, 60, 6)
    train, held_out = lines[:4000], lines[4000:]
    generated = english_like(640, 40, 7)
    reference = NgramReference(train, held_out)
    values, floors = reference.divergences(generated), reference.floors(640)
    assert list(values) == [f"jsd_{n}" for n in ORDERS]
    assert list(floors) == [f"jsd_{n}_floor" for n in ORDERS]
    for n in ORDERS:
        counts = [tuples(x, n) for x in (train, generated, held_out[:640])]
        few = {"rel": 0, "abs": rounding.divergence(sum(map(len, counts)))}
        assert values[f"jsd_{n}"] == pytest.approx(divergence(*counts[:2]), **few)
        assert floors[f"jsd_{n}_floor"] == pytest.approx(
            divergence(counts[0], counts[2]), **few
        )
        assert values[f"jsd_{n}"] > floors[f"jsd_{n}_floor"]
    assert floors["jsd_6_floor"] > 0.1  # 640 real lines are far from the language, too
    assert list(NgramReference(train, held_out, [4]).divergences(generated)) == [
        "jsd_4"
    ]


def test_a_floor_needs_as_many_lines():
    lines = english_like(100, 60, 8)
    reference = NgramReference(lines, lines[:50], [1])
    with pytest.raises(InputError, match="51 lines.*there are 50"):
        reference.floors(51)


@pytest.mark.parametrize(
    ("tokens", "n", "message"),
    [
        (np.zeros((2, 32), int), 0, "n is 0"),
        (np.zeros((2, 32), int), 7, "n is 7"),
        (np.zeros((2, 3), int), 4, "length >= 4"),
        (np.zeros((2, 32)), 4, "expected integers"),
        (np.zeros(32, int), 4, "expected integers"),
        (np.full((2, 32), 2048), 4, "0..2047"),
        (np.full((2, 32), -1), 4, "0..2047"),
    ],
)
def test_tokens_are_checked(tokens, n, message):
    with pytest.raises(ValueError, match=message):
        NgramCounts.of(tokens, n)


def test_what_cannot_be_compared_is_refused():
    some = NgramCounts.of(np.zeros((1, 32), int), 4)
    with pytest.raises(ValueError, match="4-grams and 5-grams"):
        jensen_shannon(some, NgramCounts.of(np.zeros((1, 32), int), 5))
    with pytest.raises(ValueError, match="4-grams and 3-grams"):
        some.merge(NgramCounts.of(np.zeros((1, 32), int), 3))
    with pytest.raises(ValueError, match="no lines"):
        jensen_shannon(some, NgramCounts.of(np.zeros((0, 32), int), 4))
