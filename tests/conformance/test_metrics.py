"""Every metric of the table, on small sets whose numbers can be worked out by hand.

A new metric needs an entry in `ENTRIES`; the checks are the same for all.
"""

import dataclasses
import json
import re
import statistics
from typing import Any

import numpy as np
import pytest
import rounding
import toy_extractors
from repository import ROOT

import fid
from fid import cli
from fid.comparison import Comparison
from fid.metrics import METRICS, all_options, choose, needs_of, title_of
from fid.metrics.coverage import Coverage, Density
from fid.metrics.diagonal import Diagonal
from fid.metrics.frechet import Frechet
from fid.metrics.inception_score import Score
from fid.metrics.infinity import Infinity
from fid.metrics.kernel import Kernel
from fid.metrics.mean_only import MeanOnly
from fid.metrics.memorisation import Authenticity, Copying
from fid.metrics.metric import Measured, Metric
from fid.metrics.monge import Mind
from fid.metrics.precision_recall import Precision, Recall
from fid.metrics.realism import Realism
from fid.metrics.vendi import Vendi

pytestmark = pytest.mark.portable

KEYS = list(METRICS)

# Numbers from a few small integers: by sums of six terms of at most 65, a product of
# two matrices of three, their eigenvalues and roots, or exponentials and logarithms of
# logits up to 200. That is less than a hundred roundings in a row.
FEW = {"rel": rounding.gamma(100), "abs": 200 * rounding.gamma(100)}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A metric and two sets of which its numbers are known.

    The features of an image, and its logits, are its colours.
    """

    metric: type[Metric]
    first: Any
    second: Any
    #: The numbers by what follows the metric's name.
    expected: dict[str, float]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    #: The sets that the metric takes beside the two, by their names.
    further: dict[str, Any] = dataclasses.field(default_factory=dict)


# Real images on a line. With one neighbour the radii are 10, 10, 20 and 50; those below
# their median, 15, are the first two. Generated ones have radii of 20, 20 and 150, and
# lie in 0 to 20 and beyond 100.
LINE = [[0, 0, 0], [10, 0, 0], [30, 0, 0], [80, 0, 0]]
NEW = [[5, 0, 0], [25, 0, 0], [175, 0, 0]]
ONE = {"neighbours": 1}


def mean_of(*values):
    """A mean and its standard error, by Python's own statistics."""
    error = statistics.stdev(values) / len(values) ** 0.5
    return {"_mean": statistics.mean(values), "_standard_error": error}


ENTRIES = {
    entry.metric.key: entry
    for entry in (
        # The second set is the first one times 2: means 3 and 6, variances 2 and 8, and
        # the root of their product is 4.
        Entry(
            Frechet,
            first=[[2, 0, 0], [4, 0, 0]],
            second=[[4, 0, 0], [8, 0, 0]],
            expected={"": 9 + 2 + 8 - 2 * 4},
        ),
        # k is 1 between zeros and with them, and (3 * 3 / 3 + 1)^3 = 64 in the second.
        Entry(
            Kernel,
            first=[[0, 0, 0]] * 3,
            second=[[3, 0, 0]] * 3,
            expected={"_mean": 63, "_std": 0, "_full": 1 + 64 - 2},
            options={"kid_subsets": 4, "kid_subset_size": 2},
        ),
        # Each image is surely of one class: of three in the first half, of one later.
        Entry(
            Score,
            first=[*(200 * np.eye(3)), *[[200, 0, 0]] * 3],
            second=[[0, 0, 0]] * 2,
            expected={"_mean": (3 + 1) / 2, "_std": (3 - 1) / 2},
            options={"is_splits": 2},
        ),
        # Subsets of equal images are all at the same distance: means 3 and 6, and the
        # variance 8 of the second set.
        Entry(
            Infinity,
            first=[[3, 0, 0]] * 4,
            second=[[4, 0, 0], [8, 0, 0]],
            expected={"": 9 + 8},
        ),
        # The same images in another order.
        Entry(
            Mind,
            first=[[1, 2, 3], [4, 5, 7], [9, 0, 2]],
            second=[[9, 0, 2], [1, 2, 3], [4, 5, 7]],
            expected={"": 0},
            options={"mind_directions": 20},
        ),
        # Three directions, each of two images.
        Entry(
            Vendi,
            first=[[2, 0, 0], [0, 3, 0], [0, 0, 4]] * 2,
            second=[[0, 0, 0]] * 2,
            expected={"": 3},
        ),
        # Means 3 and 6.
        Entry(
            MeanOnly,
            first=[[2, 0, 0], [4, 0, 0]],
            second=[[4, 0, 0], [8, 0, 0]],
            expected={"": 9},
        ),
        # The same, and deviations of the roots of 2 and 8, which are 1.414 apart.
        Entry(
            Diagonal,
            first=[[2, 0, 0], [4, 0, 0]],
            second=[[4, 0, 0], [8, 0, 0]],
            expected={"": 9 + 2},
        ),
        # 5 is 5 from 0 and from 10; 25 is 5 from 30; 175 is in no ball.
        Entry(Precision, NEW, LINE, mean_of(1, 1, 0), ONE),
        # 0, 10 and 30 are within 20 of 5 or 25, and 80 is within 150 of 175.
        Entry(Recall, NEW, LINE, mean_of(1, 1, 1, 1), ONE),
        # 5 is in the balls of 0 and 10; 25 in that of 30, and 80's reaches beyond 30.
        Entry(Density, NEW, LINE, mean_of(2, 1, 0), ONE),
        Entry(Coverage, NEW, LINE, mean_of(1, 1, 1, 0), ONE),
        # 5 is 5 from radii of 10; 25 is 15, and 175 is 165 from 10.
        Entry(Realism, NEW, LINE, mean_of(10 / 5, 10 / 15, 10 / 165), ONE),
        # 5 is 5 from 0 or 10, which are 10 apart: a copy. 25 is 5 from 30, which has 10
        # at 20: a copy. 175 is 95 from 80, which has 30 at 50: none.
        Entry(
            Authenticity,
            NEW,
            [[0, 0, 0]] * 2,
            mean_of(0, 0, 100),
            further={"train": LINE},
        ),
        # Three cells around 0, 100 and 200. All 21 generated images of the first are
        # nearer than the 2 test images there, U = 0; all 21 of the second farther than
        # the one there, U = 21; the third has 20, which are too few.
        Entry(
            Copying,
            first=[*[[1, 0, 0]] * 21, *[[104, 0, 0]] * 21, *[[201, 0, 0]] * 20],
            second=[[0, 0, 0]] * 2,
            expected={
                "": (
                    2 * (0 - 20.5) / (42 * 24 / 12) ** 0.5 + 11 / (21 * 23 / 12) ** 0.5
                )
                / 3
            },
            further={
                "train": [[0, 0, 0], [100, 0, 0], [200, 0, 0]],
                "test": [[3, 0, 0], [4, 0, 0], [103, 0, 0], [202, 0, 0]],
            },
        ),
    )
}


class Colours(toy_extractors.Colours):
    """Colours, which may also be logits."""

    name = "colours"

    def features_and_logits(self, images):
        return self(images), self(images)


class Inception(Colours):
    """The same under the name of the 2015 graph."""

    name = "inception_2015"


class NoLogits(Colours):
    features_and_logits = property()  # hasattr says no.


def pixels(rows):
    return np.asarray(rows, np.uint8).reshape(-1, 1, 1, 3)


def compare(key, extractor=None, **options):
    entry = ENTRIES[key]
    return fid.compare(
        pixels(entry.first),
        pixels(entry.second),
        extractor or Colours(),
        metrics=key,
        **{name: pixels(rows) for name, rows in entry.further.items()},
        **(entry.options | options),
    )


def test_every_metric_has_an_entry():
    assert {key: entry.metric for key, entry in ENTRIES.items()} == METRICS


@pytest.mark.parametrize("key", KEYS)
class TestEveryMetric:
    def test_has_the_values_that_were_worked_out(self, key):
        name = f"{METRICS[key].other_key}_colours"
        expected = {f"{name}{k}": v for k, v in ENTRIES[key].expected.items()}
        found = compare(key).values()
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, **FEW)

    @pytest.mark.parametrize("size", [1, 2, 50])
    def test_does_not_depend_on_batches(self, key, size):
        found = compare(key, batch_size=size).values()
        assert found == pytest.approx(compare(key).values(), **FEW)

    def test_is_called_by_its_key_on_the_2015_graph_alone(self, key):
        metric = METRICS[key]
        # Else features that nobody knows would give the number of the 2015 graph.
        assert metric.other_key != key
        assert {
            extractors: metric.metric_name(*extractors)
            for extractors in (
                ("inception_2015",), ("inception_2015", "inception_2015"),
                ("clip",), ("clip", "clip"), ("clip", "inception_2015"), (None,),
                (None, "inception_2015"),
            )
        } == {
            ("inception_2015",): key,
            ("inception_2015", "inception_2015"): key,
            ("clip",): f"{metric.other_key}_clip",
            ("clip", "clip"): f"{metric.other_key}_clip",
            ("clip", "inception_2015"): metric.other_key,
            (None,): metric.other_key,
            (None, "inception_2015"): metric.other_key,
        }  # fmt: skip
        found = compare(key, Inception()).values()
        assert all(re.fullmatch(rf"{key}(_[a-z_]+)?", name) for name in found)

    def test_has_titles_that_name_any_other_extractor(self, key):
        metric = METRICS[key]
        short = metric.abbreviation or metric.name
        assert metric.title("inception_2015") == short
        assert "clip" in metric.title("clip")
        if "Inception" in metric.name:
            assert "Inception" not in metric.title("clip")
            assert short not in metric.title("clip")

    def test_is_known_by_its_names(self, key):
        metric = METRICS[key]
        for extractor in ("inception_2015", "clip", None):
            name = metric.metric_name(extractor)
            assert [k for k, m in METRICS.items() if m.is_name(name)] == [key]
            assert title_of(name) == metric.title(extractor)
        assert title_of("jsd_4") == "jsd_4"

    def test_prints_its_numbers_under_its_name(self, key):
        for extractor in (Colours(), Inception()):
            found = compare(key, extractor)
            title = found.title(key)
            assert found.lines()
            shown = []
            for line in found.lines():
                assert line.startswith(title)
                shown += map(float, re.findall(r"-?\d+\.\d+", line))
            values = found.values().values()
            # Six decimals are the fewest that are printed.
            few = rounding.printed(6) * (1 + 1e-6)
            assert sorted(shown) == pytest.approx(sorted(values), rel=0, abs=few)

    def test_has_numbers_that_json_takes(self, key):
        found = json.loads(json.dumps(compare(key).as_json(), allow_nan=False))
        values = {k: v for k, v in found.items() if k not in ("sets", "warnings")}
        assert values == compare(key).values()
        assert all(type(value) is float for value in compare(key).values().values())

    def test_says_how_far_its_numbers_may_be_off_and_how_that_is_known(self, key):
        plain, found = compare(key), compare(key, standard_errors=True)
        assert found.values() == pytest.approx(plain.values(), **FEW)
        (errors,) = found.errors.values()
        names = [error.name(found.name(key)) for error in errors]
        assert any(name.endswith("_standard_error") for name in names)
        described = json.loads(json.dumps(found.as_json(), allow_nan=False))
        # An error that is a number of the metric itself is that very number.
        numbers = {name: described[name] for name in plain.values()}
        assert numbers == pytest.approx(plain.values(), **FEW)
        known = {name for name in names if name in described}
        added = set(described) - set(plain.as_json()) - {"errors"}
        assert added == known - set(numbers)
        assert list(described["errors"]) == names
        lines = [line for line in found.lines() if line not in plain.lines()]
        assert len(lines) == len(errors)
        for error, name, line in zip(errors, names, lines, strict=True):
            assert error.origin
            assert line.startswith(found.title(key))
            assert line.endswith(f"({error.origin})")
            assert (error.value is None) == (name not in described)
            assert error.value is None or error.value >= 0 or error.kind == "bias"
        assert "errors" not in plain.as_json()

    def test_has_errors_of_statistics_or_says_why_not(self, key):
        if METRICS[key].needs != ("statistics",):
            return
        bare = [
            fid.Statistics(np.full(3, mean), np.eye(3), n=5000, label="bare")
            for mean in (0.0, 1.0)
        ]
        found = fid.compare(*bare, metrics=key, standard_errors=True)
        for error in found.errors[key]:
            assert error.value is not None or "feat" in error.origin

    def test_leaves_what_it_is_given_alone(self, key):
        entry = ENTRIES[key]
        (metric,) = choose(key, entry.options)
        sets = []
        for rows in (entry.first, entry.second, *entry.further.values()):
            features = np.asarray(rows, np.float32)
            moments = fid.Moments(3)
            moments.update(features)
            sets.append(Measured(moments.statistics(), features, features.copy()))
        before = [(s.features.copy(), s.logits.copy()) for s in sets]
        further = dict(zip(entry.further, sets[2:], strict=True))
        assert metric(*sets[:2], **further) == metric(*sets[:2], **further)
        for (features, logits), now in zip(before, sets, strict=True):
            np.testing.assert_array_equal(now.features, features)
            np.testing.assert_array_equal(now.logits, logits)

    def test_needs_what_one_pass_can_give(self, key):
        assert METRICS[key].needs
        fields = {field.name for field in dataclasses.fields(Measured)}
        fields -= {"warnings", "shared"}
        assert set(METRICS[key].needs) <= fields

    def test_refuses_statistics_that_lack_what_it_needs_before_the_work(self, key):
        class Slow(Colours):
            def __call__(self, images):
                raise AssertionError("too late")

            features_and_logits = __call__

        bare = fid.Statistics(np.zeros(3), np.eye(3), n=5000, label="bare.npz")
        entry = ENTRIES[key]
        images = pixels(entry.first)
        further = {name: pixels(rows) for name, rows in entry.further.items()}
        for name in further:
            with pytest.raises(fid.InputError, match=r"bare\.npz holds statistics"):
                fid.compare(
                    images, images, Slow(), metrics=key, **further | {name: bare}
                )
        of_first, of_second = needs_of(choose(key, {}))
        for sets, needs in (((bare, images), of_first), ((images, bare), of_second)):
            if needs == {"statistics"} or not needs:
                continue
            with pytest.raises(fid.InputError, match=r"bare\.npz holds statistics"):
                fid.compare(*sets, Slow(), metrics=key, **further, **entry.options)
        if of_first | of_second == {"statistics"}:
            assert fid.compare(bare, bare, metrics=key).values()

    def test_refuses_an_extractor_that_lacks_what_it_needs(self, key):
        if "logits" not in METRICS[key].needs:
            assert compare(key, NoLogits()).values() == compare(key).values()
            return
        with pytest.raises(
            fid.InputError, match=f"colours has no logits.*leave out the metric `{key}`"
        ):
            compare(key, NoLogits())

    def test_is_measured_beside_another_in_training(self, key):
        """The callback's numbers are those of `fid.compare` on the same images."""
        import tf_ttur

        entry = ENTRIES[key]
        if entry.further:
            with pytest.raises(fid.InputError, match="needs the images of the train s"):
                tf_ttur.FrechetDistance(
                    pixels(entry.second),
                    every=1,
                    extractor=Colours(),
                    metrics=("fid", key),
                )
            return

        class Generator:
            steps = 0

            def generate_batches(self, count, seed, batch_size):
                yield pixels(entry.first).astype("float32") / 127.5 - 1

        callback = tf_ttur.FrechetDistance(
            pixels(entry.second),
            every=1,
            num_samples=len(entry.first),
            extractor=Colours(),
            quantize="round",
            metrics=("fid", key),
            options=entry.options,
        )
        value = callback.measure(Generator())
        assert callback.key == "frechet_colours"
        expected = fid.compare(
            pixels(entry.first), pixels(entry.second), Colours(),
            metrics=("fid", key), **entry.options,
        ).values()  # fmt: skip
        assert value == pytest.approx(expected.pop("frechet_colours"), **FEW)
        assert callback.further == pytest.approx(expected, **FEW)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": "is"}, "begins with is, of which larger values are better"),
        ({"metrics": "ct"}, "begins with ct, of which neither larger nor smaller val"),
        (
            {"metrics": ("is", "fid")},
            "begins with is, of which larger values are bette",
        ),
        ({"metrics": "ppl"}, "metrics is ppl; choose from fid, kid, is"),
        (
            {"metrics": ("fid", "kid"), "num_samples": 1000},
            "KID needs the features of both sets, and bare holds statistics",
        ),
        (
            {"metrics": "kid", "reference": pixels([[0] * 3] * 9), "num_samples": 4},
            "KID's subsets have 1000 images, and generator has 4",
        ),
        (
            {"metrics": ("fid", "is"), "options": {"is_splits": 99}},
            "over 99 parts of the images, and generator has 50",
        ),
        ({"metrics": ("fid", "is"), "extractor": NoLogits()}, "colours has no logits"),
        ({"options": {"method": "fast"}}, "The method is 'fast'; choose from eigen"),
    ],
)
def test_what_cannot_be_measured_in_training_is_refused_at_once(arguments, message):
    import tf_ttur

    bare = fid.Statistics(np.zeros(3), np.eye(3), n=5000, label="bare")
    usual = {
        "reference": bare, "every": 1, "num_samples": 50, "extractor": Colours()
    }  # fmt: skip
    with pytest.raises(fid.InputError, match=message):
        tf_ttur.FrechetDistance(**usual | arguments)


OPTIONS = [
    (key, option) for key, metric in METRICS.items() for option in metric.options()
]


@pytest.mark.parametrize(
    ("key", "option"), OPTIONS, ids=[f"{key}-{option.name}" for key, option in OPTIONS]
)
class TestEveryOption:
    def test_is_a_flag_with_its_default(self, key, option, capsys):
        assert cli.compute_fid(["x", "--help"]) == 0
        text = capsys.readouterr().out
        kind = "|".join(option.choices) or "int"
        _, after = text.split(f"\n  --{option.name}={kind}\n")
        found = re.match(r"(      .*\n)+", after)[0]
        found = " ".join(found.split())
        assert option.help in found
        if option.default != 0:  # A default of 0 is not shown.
            assert found.endswith(f"[default: {option.default}]")

    def test_may_be_left_out(self, key, option):
        option.check(option.default)
        json.dumps(option.default)
        (metric,) = choose(key, {})
        assert getattr(metric, option.name) == option.default
        assert option.help.endswith(".")

    def test_is_refused_out_of_bounds_before_the_work(self, key, option):
        bad = [n for n, b in ((-1, option.least), (1, option.most)) if b is not None]
        outside = [(option.least if n < 0 else option.most) + n for n in bad]
        outside += ["no such choice"] * bool(option.choices)
        assert outside
        for value in outside:
            with pytest.raises(fid.InputError):
                compare(key, **{option.name: value})
            argv = ["x", "a.npz", "b.npz", f"--metrics={key}"]
            assert cli.compute_fid([*argv, f"--{option.name}={value}"]) == 2

    def test_means_the_same_to_all_metrics_that_have_it(self, key, option):
        shared = all_options()[option.name]
        assert option.help in shared.help
        assert dataclasses.replace(shared, help=option.help) == option


def test_no_two_numbers_have_one_name():
    everything = [
        name
        for key in KEYS
        for extractor in (Colours(), Inception())
        for name in compare(key, extractor).values()
    ]
    assert len(set(everything)) == len(everything)


def test_the_readme_has_the_table_of_the_metrics():
    needs = {
        "statistics": "mean and covariance of the features",
        "features": "all features",
        "logits": "logits",
    }
    expected = []
    for key, metric in METRICS.items():
        what = " and ".join(needs[need] for need in metric.needs)
        if metric.needs_of_second is not None:
            of_second = " and ".join(needs[need] for need in metric.needs_of_second)
            what = f"{what} of A, {of_second} of B"
        else:
            what += f" of {'A' if metric.of_first else 'A and B'}"
        what = ", ".join([what, *(f"`--{name}`" for name in metric.further)])
        expected.append(f"| `{key}` | {metric.name} | {what} |")
    lines = (ROOT / "README.md").read_text().splitlines()
    start = lines.index("| metric | name | needs |")
    assert lines[start + 1] == "|---|---|---|"
    found = lines[start + 2 : lines.index("", start)]
    assert found == expected


# A metric that the project does not have ----------------------------------------------


class MeanDistance(Metric):
    """The distance between the means of two sets of features."""

    key, name = "md", "Distance of means"
    other_key, other_name = "mean", "distance of means"
    remark = "the distance of means"

    def __call__(self, first, second):
        return float(np.linalg.norm(first.statistics.mu - second.statistics.mu))


@pytest.fixture
def with_means(monkeypatch):
    monkeypatch.setitem(METRICS, MeanDistance.key, MeanDistance)


def test_a_line_in_the_table_brings_a_metric_everywhere(with_means, tmp_path, capsys):
    for name, shift in (("a", 0.0), ("b", 3.0)):
        moments = fid.Moments(4)
        moments.update(np.random.default_rng(0).normal(size=(50, 4)) + shift)
        moments.statistics({"source": name, "extractor": "x"}).save(
            tmp_path / f"{name}.npz"
        )
    argv = ["x", f"{tmp_path}/a.npz", f"{tmp_path}/b.npz", "--metrics=fid,md"]
    assert cli.compute_fid(argv) == 0
    assert capsys.readouterr().out.splitlines()[1] == "mean_x: 6.000000"
    assert cli.compute_fid([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["frechet_x", "mean_x", "sets", "warnings"]
    # Means of 50 numbers up to 6, and the length of their difference.
    assert found["mean_x"] == pytest.approx(6.0, rel=2 * rounding.gamma(50 + 10))
    assert cli.compute_fid(["x", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "and md (the distance of means), with commas." in text
    assert cli.compute_fid([*argv[:-1], "--metrics=ppl"]) == 1
    assert f"choose from {', '.join(METRICS)}." in capsys.readouterr().err


def test_it_is_called_by_its_own_names_on_the_2015_graph(with_means):
    sets = pixels([[0] * 3] * 2), pixels([[2] * 3] * 2)
    found = fid.compare(*sets, Inception(), metrics="md")
    assert found.lines() == [f"Distance of means: {np.sqrt(12):.6f}"]
    assert found.values() == {"md": pytest.approx(np.sqrt(12))}
    assert MeanDistance.title("clip") == "distance of means (mean_clip)"


def test_it_can_be_the_value_that_is_measured_in_training(with_means):
    import tf_ttur

    class Generator:
        steps = 0

        def generate_batches(self, count, seed, batch_size):
            yield np.full((count, 1, 1, 3), -1.0, np.float32)

    callback = tf_ttur.FrechetDistance(
        pixels([[1] * 3, [3] * 3]), every=1, num_samples=2, extractor=Colours(),
        metrics=("md", "fid"),
    )  # fmt: skip
    assert callback.measure(Generator()) == pytest.approx(np.sqrt(12))
    assert (callback.key, callback.title) == (
        "mean_colours", "distance of means (mean_colours)"
    )  # fmt: skip
    assert callback.further == {"frechet_colours": pytest.approx(12 + 2 * 3)}


def test_a_comparison_may_hold_results_of_any_metric(with_means):
    one = fid.Statistics(np.zeros(2), np.eye(2))
    found = Comparison({"md": 1.5}, one, one, ())
    assert found.value is None
    assert found.values() == {"mean": 1.5}
