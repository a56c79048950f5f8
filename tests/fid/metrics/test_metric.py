"""What every metric has from `Metric`, on one that leaves all to it."""

import dataclasses

import numpy as np
import pytest

import fid
from fid import InputError
from fid.metrics import METRICS, all_options, choose, needs_of, needs_of_further
from fid.metrics.kernel import Kernel
from fid.metrics.metric import (
    Error,
    Measured,
    Metric,
    Option,
    checked_features,
    extractor_name,
    option,
)


@dataclasses.dataclass(frozen=True)
class Spread(Metric):
    """Largest features, one after the other."""

    key, name = "spread", "Spread of features"
    other_key, other_name = "spread", "spread of features"
    needs = ("features",)

    parts: int = option(2, "Parts of the set.", least=1, most=9)
    way: str = option("max", "What is taken.", choices=("max", "min"))
    seed: int = option(0, "Seed of the parts.", least=0, most=2**32 - 1)

    def __call__(self, first, second):
        return self.parts * float(first.features.max() - second.features.max())


BARE = fid.Statistics(np.zeros(2), np.eye(2), label="bare.npz")
ROWS = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
WITH_ROWS = fid.Statistics(ROWS.mean(0), np.cov(ROWS.T), 2, rows=ROWS, label="rows.npz")


def test_options_are_arguments_with_defaults_bounds_and_help():
    assert Spread.options() == (
        Option("parts", 2, "Parts of the set.", 1, 9),
        Option("way", "max", "What is taken.", choices=("max", "min")),
        Option("seed", 0, "Seed of the parts.", 0, 2**32 - 1),
    )
    assert Spread() == Spread(parts=2, way="max", seed=0)
    with pytest.raises(TypeError, match="positional"):
        Spread(3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"parts": 0}, "^parts is 0; it must be from 1 to 9.$"),
        ({"parts": 10}, "^parts is 10; it must be from 1 to 9.$"),
        ({"parts": 2.5}, "^parts is 2.5; it must be a whole number.$"),
        ({"parts": True}, "^parts is True; it must be a whole number.$"),
        ({"seed": "0"}, "^seed is '0'; it must be a whole number.$"),
        ({"way": "mean"}, "^The way is 'mean'; choose from max, min.$"),
    ],
)
def test_options_out_of_bounds_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        Spread(**given).check([WITH_ROWS, WITH_ROWS])
    with pytest.raises(InputError, match="^n is 0; it must be at least 1.$"):
        Option("n", 1, "Number.", least=1).check(0)


def test_sets_that_lack_what_is_needed_are_refused():
    Spread().check([WITH_ROWS, WITH_ROWS])
    for sets in ([BARE, WITH_ROWS], [WITH_ROWS, BARE]):
        with pytest.raises(InputError) as error:
            Spread().check(sets)
        assert str(error.value) == (
            "Spread of features needs the features of both sets, and bare.npz holds "
            "statistics without them: give the images, or leave out the metric "
            "`spread`."
        )

    class OfFirst(Spread):
        of_first = True

    OfFirst().check([WITH_ROWS, BARE])
    with pytest.raises(InputError, match="needs the features of the first set, and b"):
        OfFirst().check([BARE, WITH_ROWS])


def test_a_set_beside_the_two_must_be_there_and_have_what_is_needed():
    class Beside(Spread):
        key = "beside"
        further = ("train", "test")

    pair = [WITH_ROWS, WITH_ROWS]
    Beside().check(pair, train=WITH_ROWS, test=WITH_ROWS)
    with pytest.raises(InputError) as error:
        Beside().check(pair, train=WITH_ROWS)
    assert str(error.value) == (
        "Spread of features needs the images of the test set: give --test=SOURCE, or "
        "leave out the metric `beside`."
    )
    with pytest.raises(
        InputError, match="the features of all sets, and bare.npz holds"
    ):
        Beside().check(pair, train=WITH_ROWS, test=BARE)
    assert needs_of_further([Beside(), *choose("fid", {})], ["test", "other"]) == [
        {"features"}, set()
    ]  # fmt: skip

    class WithErrors(Beside):
        error_needs = ("logits",)

    assert needs_of_further([WithErrors()], ["test"]) == [{"features"}]
    assert needs_of_further([WithErrors()], ["test"], errors=True) == [
        {"features", "logits"}
    ]


def test_statistics_of_few_images_have_their_features():
    one = Measured.of(WITH_ROWS)
    assert Spread(parts=3)(one, Measured(BARE, features=ROWS[:1])) == 3 * (4 - 2)
    assert Measured.of(BARE).features is None


def test_a_number_has_the_metrics_name_and_a_dataclass_a_name_for_each():
    @dataclasses.dataclass
    class Pair:
        precision: float | None
        recall: float

    assert Spread.values(1.5, "spread_x") == {"spread_x": 1.5}
    assert Spread.lines(1.5, "Spread") == ["Spread: 1.500000"]
    pair = Pair(0.5, 0.25)
    assert Spread.values(pair, "pr") == {"pr_precision": 0.5, "pr_recall": 0.25}
    assert Spread.lines(pair, "PR") == ["PR_precision: 0.500000", "PR_recall: 0.250000"]
    assert Spread.values(Pair(None, 0.25), "pr") == {"pr_recall": 0.25}


def test_a_metric_warns_of_nothing_unless_it_says_so():
    assert Spread().warnings(Measured.of(WITH_ROWS), Measured.of(BARE)) == []


def test_the_extractor_of_a_file_that_says_nothing_is_known_by_its_dimension():
    old = fid.Statistics(np.zeros(2048), np.eye(2048))
    assert extractor_name(old) == "inception_2015"
    assert extractor_name(BARE) is None
    named = dataclasses.replace(BARE, provenance={"extractor": "clip"})
    assert extractor_name(named) == "clip"
    unnamed = dataclasses.replace(old, provenance={"source": "x"})
    assert extractor_name(unnamed) is None


def test_metrics_are_chosen_in_the_order_of_the_table_with_their_options():
    chosen = choose(("is", "fid", "fid"), {"is_splits": 5, "kid_subsets": 7})
    assert [type(metric) for metric in chosen] == [METRICS["fid"], METRICS["is"]]
    assert chosen[1].is_splits == 5
    assert choose("kid", {"kid_subsets": 7})[0].kid_subsets == 7
    for metrics, message in (
        ("ppl", f"^metrics is ppl; choose from {', '.join(METRICS)}.$"),
        (("fid", "ppl"), "^metrics is fid, ppl; choose"),
        ((), "^metrics is empty; choose"),
    ):
        with pytest.raises(InputError, match=message):
            choose(metrics, {})
    with pytest.raises(TypeError, match="option 'splits'; choose from method, kid_s"):
        choose("fid", {"splits": 5})


def test_the_second_set_needs_nothing_for_a_metric_of_the_first():
    assert needs_of(choose("is", {})) == ({"logits"}, set())
    assert needs_of(choose(("fid", "kid", "is"), {})) == (
        {"statistics", "features", "logits"}, {"statistics", "features"}
    )  # fmt: skip


def test_features_are_needed_for_errors_where_these_are_asked_for():
    assert needs_of(choose(("fid", "is"), {}), errors=True) == (
        {"statistics", "features", "logits"}, {"statistics", "features"}
    )  # fmt: skip
    assert needs_of(choose("is", {}), errors=True) == ({"logits"}, set())
    assert needs_of(choose("fid_infinity", {})) == ({"features"}, {"statistics"})
    assert needs_of(choose("fid_infinity", {}), errors=True)[1] == {
        "statistics", "features"
    }  # fmt: skip


def test_a_metric_has_no_errors_unless_it_says_so():
    one = Measured.of(WITH_ROWS)
    assert Spread().with_errors(one, one) == (Spread()(one, one), ())

    class Beside(Spread):
        def __call__(self, first, second, *, train):
            return super().__call__(first, train)

    other = Measured(BARE, features=ROWS[:1])
    assert Beside().with_errors(one, one, train=other) == (2 * (4.0 - 2.0), ())


def test_errors_are_printed_below_the_lines_of_a_result():
    errors = (Error(0.5, "known"), Error(None, "unknown", kind="bias"))
    assert Spread.lines_with_errors(1.5, errors, "Spread") == [
        "Spread: 1.500000",
        "Spread standard error: 0.500000 (known)",
        "Spread bias: none (unknown)",
    ]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Error(12.5, "jackknife"), "FID standard error: 12.500000 (jackknife)"),
        (Error(0.0012345678, "x", "mean"), "FID mean standard error: 0.00123457 (x)"),
        (Error(1.2344e-7, "x", kind="bias"), "FID bias: 1.234e-07 (x)"),
        (Error(0.0, "x"), "FID standard error: 0.000000 (x)"),
        (Error(None, "one image"), "FID standard error: none (one image)"),
    ],
)
def test_an_error_is_printed_with_how_it_came_about(error, line):
    assert error.line("FID") == line


def test_features_that_are_of_no_use_are_refused():
    for features, message in (
        (
            np.zeros(3),
            r"first set are float64 of shape \(3,\); expected floats \(n, d\)",
        ),
        (np.zeros((1, 3)), "at least 2 images"),
        (np.zeros((2, 3), int), "first set are int64"),
        (np.array([[0.0], [np.nan]]), "image 1 .counted from 0. of the first set"),
    ):
        with pytest.raises(InputError, match=message):
            checked_features(features)
    assert checked_features(ROWS) is ROWS


def test_an_option_of_two_metrics_says_what_it_is_for_each(monkeypatch):
    assert list(all_options()) == [
        "method", "kid_subsets", "kid_subset_size", "seed", "is_splits",
        "mind_directions", "neighbours", "variant", "distances",
    ]  # fmt: skip
    # From the end, so that they come back in their order.
    for name in reversed(list(METRICS)):
        monkeypatch.delitem(METRICS, name)
    monkeypatch.setitem(METRICS, "kid", Kernel)
    monkeypatch.setitem(METRICS, "spread", Spread)
    # One that says the same as another adds nothing.
    monkeypatch.setitem(METRICS, "again", Spread)
    found = all_options()["seed"]
    assert found.help == "Seed of KID's subsets. Seed of the parts."
    assert (found.default, found.least, found.most) == (0, 0, 2**32 - 1)
