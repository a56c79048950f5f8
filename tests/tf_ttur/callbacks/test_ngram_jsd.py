"""The divergence of n-grams in a plain `fit`, against SciPy's of the same lines."""

import collections

import numpy as np
import pytest
import rounding
from scipy.spatial.distance import jensenshannon

import tf_ttur
from fid.files import InputError
from tf_ttur import callbacks
from tf_ttur.networks import text
from tf_ttur.ngrams import NgramReference


def lines(count, seed):
    return np.random.default_rng(seed).integers(0, 4, (count, 32), dtype="int32")


TRAIN, HELD_OUT = lines(300, 0), lines(60, 1)


def divergence(ours, theirs, n):
    counts = [
        collections.Counter(tuple(x[i : i + n]) for x in some for i in range(33 - n))
        for some in (ours.tolist(), theirs.tolist())
    ]
    keys = sorted(counts[0].keys() | counts[1].keys())
    return jensenshannon(*([c[key] for key in keys] for c in counts), base=2) ** 2


def text_gan():
    gan = text.TextGAN(
        text.generator(4, width=2),
        text.discriminator(4, width=2),
        latent=tf_ttur.NormalLatent(128),
    )
    gan.compile(
        **tf_ttur.ttur(discriminator=1e-2, generator=1e-2),
        loss="wasserstein",
        jit_compile=False,
    )
    return gan


def test_values_and_floors_are_those_of_the_lines():
    gan = text_gan()
    measured = callbacks.NgramJSD(
        NgramReference(TRAIN, HELD_OUT), every=3, num_samples=20, seed=9, batch_size=8
    )
    history = gan.fit(
        TRAIN[:32], batch_size=8, verbose=0, callbacks=[measured], shuffle=False
    ).history
    # The step of the measurement was 3 of 4, so the model is measured again.
    assert [step for step, _ in measured.values] == [3]
    assert history["jsd_4"] == [measured.values[0][1]]
    value = measured.measure(gan)
    tokens = gan.generate(20, seed=9).argmax(axis=-1)
    few = {"rel": 0, "abs": rounding.divergence(tokens.size + TRAIN.size)}
    assert value == pytest.approx(divergence(tokens, TRAIN, 4), **few)
    for n in range(1, 7):
        floor = divergence(HELD_OUT[:20], TRAIN, n)
        assert measured.further[f"jsd_{n}_floor"] == pytest.approx(floor, **few)
        if n != 4:
            found = measured.further[f"jsd_{n}"]
            assert found == pytest.approx(divergence(tokens, TRAIN, n), **few)
    assert set(history) >= {f"jsd_{n}" for n in range(1, 7)} | set(measured.floors)
    assert measured.facts == {"num_samples": 20, **measured.floors}


def test_measuring_does_not_change_training():
    def trained(*more):
        gan = text_gan()
        gan.fit(TRAIN[:24], batch_size=8, verbose=0, shuffle=False, callbacks=[*more])
        return gan.get_weights()

    measured = callbacks.NgramJSD(
        NgramReference(TRAIN, HELD_OUT), every=1, num_samples=20
    )
    for one, two in zip(trained(), trained(measured), strict=True):
        np.testing.assert_array_equal(one, two)
    assert len(measured.values) == 3


def test_more_lines_than_are_held_out_are_refused():
    reference = NgramReference(TRAIN, HELD_OUT)
    with pytest.raises(InputError, match="61 lines needs as many held-out lines"):
        callbacks.NgramJSD(reference, every=1, num_samples=61)
