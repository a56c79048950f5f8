"""What a comparison is called, printed and written, from results made by hand."""

import json

import numpy as np
import pytest

import fid
from fid.comparison import Comparison, Influences
from fid.metrics.inception_score import InceptionScore
from fid.metrics.kernel import KernelDistance
from fid.metrics.metric import Error


def test_only_the_2015_graph_gives_fid():
    def metric(d, one, two):
        sets = [
            fid.Statistics(np.zeros(d), np.eye(d), provenance=facts)
            for facts in (one, two)
        ]
        return fid.compare(*sets).metric

    graph, clip = {"extractor": "inception_2015"}, {"extractor": "clip"}
    assert metric(2048, graph, None) == "fid"
    assert metric(2048, clip, None) == "frechet"
    assert metric(64, clip, clip) == "frechet_clip"
    assert metric(64, None, None) == "frechet"


def comparison(extractor, **results):
    """Of two sets of 3 images each, whose results are what is given."""
    one, two = (
        fid.Statistics(
            np.zeros(2), np.eye(2), 3, {"extractor": extractor, "n": 3}, label=label
        )
        for label in ("a", "b")
    )
    return Comparison(results, one, two, ("they are few",))


EVERYTHING = {
    "fid": 12.3456789,
    "kid": KernelDistance(0.001, 0.0002, 0.0015),
    "is": InceptionScore(9.5, 0.25),
}


def test_results_are_printed_for_people():
    assert comparison("inception_2015", **EVERYTHING).lines() == [
        "FID: 12.345679",
        "KID: 0.00100000 ± 0.00020000",
        "KID of all images: 0.00150000",
        "IS: 9.500000 ± 0.250000",
    ]
    assert comparison("clip", **EVERYTHING).lines() == [
        "frechet_clip: 12.345679",
        "kernel_clip: 0.00100000 ± 0.00020000",
        "kernel_clip of all images: 0.00150000",
        "score_clip: 9.500000 ± 0.250000",
    ]


def test_json_has_every_number_and_what_it_rests_on():
    found = comparison("inception_2015", **EVERYTHING).as_json()
    sets = [
        {"label": label, "n": 3, "provenance": {"extractor": "inception_2015", "n": 3}}
        for label in ("a", "b")
    ]
    assert list(found.items()) == [
        ("fid", 12.3456789),
        ("kid_mean", 0.001),
        ("kid_std", 0.0002),
        ("kid_full", 0.0015),
        ("is_mean", 9.5),
        ("is_std", 0.25),
        ("sets", sets),
        ("warnings", ["they are few"]),
    ]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_only_what_was_asked_for_is_there():
    found = comparison("clip", kid=KernelDistance(None, None, 0.5))
    assert found.value is None
    assert found.score is None
    assert found.kernel.full == 0.5
    assert found.values() == {"kernel_clip_full": 0.5}
    assert found.lines() == ["kernel_clip of all images: 0.50000000"]
    found = comparison("clip", **EVERYTHING)
    assert (found.value, found.score.mean) == (12.3456789, 9.5)


@pytest.mark.parametrize(
    ("extractor", "names", "titles"),
    [
        ("inception_2015", ["fid", "kid", "is"], ["FID", "KID", "IS"]),
        ("clip", ["frechet_clip", "kernel_clip", "score_clip"], None),
        (None, ["frechet", "kernel", "score"], None),
    ],
)
def test_names_and_titles_say_what_features_were_compared(extractor, names, titles):
    found = comparison(extractor)
    assert found.metric == names[0]
    assert [found.name(key) for key in ("fid", "kid", "is")] == names
    assert [found.title(key) for key in ("fid", "kid", "is")] == (titles or names)


def test_errors_stand_below_their_numbers_and_say_how_they_came_about():
    plain = comparison("inception_2015", **EVERYTHING)
    errors = {
        "fid": (Error(0.25, "known"), Error(1.5, "formula", kind="bias")),
        "kid": (Error(None, "one subset", "mean"), Error(0.0001, "known", "full")),
        "is": (),
    }
    found = Comparison(plain.results, plain.first, plain.second, (), errors)
    assert found.values() == plain.values()
    assert found.lines() == [
        "FID: 12.345679",
        "FID standard error: 0.250000 (known)",
        "FID bias: 1.500000 (formula)",
        "KID: 0.00100000 ± 0.00020000",
        "KID of all images: 0.00150000",
        "KID mean standard error: none (one subset)",
        "KID full standard error: 0.00010000 (known)",
        "IS: 9.500000 ± 0.250000",
    ]
    described = found.as_json()
    assert described == {
        **plain.as_json(),
        "fid_standard_error": 0.25,
        "fid_bias": 1.5,
        "kid_full_standard_error": 0.0001,
        "errors": {
            "fid_standard_error": "known",
            "fid_bias": "formula",
            "kid_mean_standard_error": "one subset",
            "kid_full_standard_error": "known",
        },
        "warnings": [],
    }


def test_images_are_ranked_by_their_influence():
    phi = np.array([1.0, -8.0, 4.0, 0.0, 4.0, -1.0, 0.5, -0.5])
    found = Influences.of(phi, None, 2)
    assert found.highest == ((2, 0.5), (4, 0.5))
    assert found.lowest == ((1, -1.0), (5, -0.125))
    named = Influences.of(phi, list("abcdefgh"), 9)
    assert [name for name, _ in named.highest] == ["c", "e", "a", "g"]
    assert [name for name, _ in named.lowest] == ["b", "f", "h"]
    assert found.lines() == [
        "influence +0.5: 2", "influence +0.5: 4", "influence -1: 1",
        "influence -0.125: 5",
    ]  # fmt: skip
    plain = comparison("clip", fid=1.0)
    whole = Comparison({"fid": 1.0}, plain.first, plain.second, (), {}, found)
    assert whole.lines() == ["frechet_clip: 1.000000", *found.lines()]
    assert whole.as_json()["influences"]["lowest"] == [
        {"image": 1, "influence": -1.0}, {"image": 5, "influence": -0.125}
    ]  # fmt: skip
    assert "influences" not in plain.as_json()
