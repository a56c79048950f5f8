"""What a comparison is called, printed and written, from results made by hand."""

import json

import numpy as np
import pytest

import fid
from fid.comparison import Comparison
from fid.metrics.inception_score import InceptionScore
from fid.metrics.kernel import KernelDistance


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
