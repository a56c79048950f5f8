"""What a statistics file holds, and whether it passes, for files of known content."""

import hashlib

import numpy as np
import pytest
import rounding
from PIL import Image
from toy_extractors import Colours

import fid
from fid.inspection import describe, verify


class Pixels(Colours):
    name, fingerprint = "toy", "ab" * 32


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


def failed(checks):
    return [each.name for each in checks if not each.ok]


class TestDescription:
    def test_of_the_authors_files_says_what_can_be_known(self, tmp_path):
        path = tmp_path / "authors.npz"
        np.savez(path, mu=np.arange(4.0), sigma=np.diag([5.0, 1.0, 0.0, 0.0]))
        found = describe(path)
        assert found.as_json() == {
            "file": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "dimension": 4,
            "n": None,
            "written_by": "no provenance: as the authors' files have",
            "trace": 6.0,
            "rank": 2,
            "provenance": None,
            "full_rank": False,
        }

    def test_of_ours_has_the_provenance(self, images, tmp_path):
        statistics = fid.compute_statistics(images, Pixels())
        statistics.save(tmp_path / "a.npz")
        found = describe(tmp_path / "a.npz")
        assert (found.n, found.dimension, found.rank) == (20, 3, 3)
        assert found.full_rank
        assert found.provenance == statistics.provenance
        assert found.written_by.startswith("tf-ttur, 20")
        colours = images.mean((1, 2), dtype=np.float64)
        # Means of bytes are rounded once in float32, by up to u 255, and a variance
        # moves by twice that times the spread, times n / (n - 1).
        variances = colours.var(0, ddof=1)
        few = 255 * rounding.unit("float32")
        moved = 2 * few * np.sqrt(variances).sum() * 20 / 19
        assert found.trace == pytest.approx(variances.sum(), rel=0, abs=moved)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize("n", [2, 17, 30, 400])
    def test_rank_is_that_of_the_centred_features(self, n, dtype, tmp_path):
        path = tmp_path / "a.npz"
        features = np.random.default_rng(n).normal(3, 1, (n, 30))
        sigma = np.cov(features, rowvar=False).astype(dtype)
        np.savez(path, mu=features.mean(0).astype(dtype), sigma=sigma)
        assert describe(path).rank == min(n - 1, 30)


class TestVerification:
    def test_of_what_is_no_file_of_statistics_is_an_error(self, tmp_path):
        for path in (tmp_path, tmp_path / "none.npz"):
            with pytest.raises(fid.InputError, match="There is no file"):
                verify(path)

    def test_of_a_damaged_file_says_what_is_wrong_with_its_structure(self, tmp_path):
        np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(4))
        (check,) = verify(tmp_path / "a.npz")
        assert (check.name, check.ok) == ("structure", False)
        assert "mu has shape (3,)" in check.found

    def test_of_more_rank_than_images_fails(self, tmp_path):
        known = {"n": 3, "extractor": "toy", "extractor_sha256": "ab" * 32}
        statistics = fid.Statistics(np.zeros(6), np.eye(6), 3, known)
        statistics.save(tmp_path / "a.npz")
        checks = verify(tmp_path / "a.npz")
        assert failed(checks) == ["rank"]
        assert checks[-1].found == "6, where 3 images of 6 features give at most 2"


class TestSource:
    """Computed again from the images."""

    def check(self, path, images, **reading):
        checks = verify(path, source=images, extractor=Pixels(), **reading)
        assert [each.name for each in checks[-1:]] == ["source"]
        assert failed(checks[:-1]) == []
        return checks[-1]

    def test_equal_images_pass(self, images, tmp_path):
        fid.compute_statistics(images, Pixels()).save(tmp_path / "a.npz")
        assert self.check(tmp_path / "a.npz", images).ok

    def test_other_images_fail_and_the_difference_is_told(self, images, tmp_path):
        fid.compute_statistics(images, Pixels()).save(tmp_path / "a.npz")
        found = self.check(tmp_path / "a.npz", images[:-1])
        assert not found.ok
        assert "n is 20 in the file and 19 for the source" in found.found
        # Turned round they have the same mean colours.
        found = self.check(tmp_path / "a.npz", images[:, :, ::-1])
        assert not found.ok
        assert "source_sha256" in found.found

    def test_without_provenance_the_numbers_decide(self, images, tmp_path):
        path = tmp_path / "a.npz"
        found = fid.compute_statistics(images, Pixels())
        np.savez(path, mu=found.mu, sigma=found.sigma)
        assert self.check(path, images).ok
        spread = np.sqrt(np.trace(found.sigma) / 3)
        np.savez(path, mu=found.mu + 2e-3 * spread, sigma=found.sigma)
        assert not self.check(path, images).ok
        np.savez(path, mu=found.mu, sigma=found.sigma * 1.01)
        assert not self.check(path, images).ok

    def test_as_the_images_were_read(self, images, tmp_path):
        folder = tmp_path / "images"
        (folder / "deeper").mkdir(parents=True)
        for index, image in enumerate(images):
            place = "deeper" if index % 2 else "."
            Image.fromarray(image).save(folder / place / f"{index}.png")
        (folder / "bad.png").write_text("no image")
        path = tmp_path / "a.npz"
        reading = {"recursive": True, "skip_bad": True}
        fid.compute_statistics(folder, Pixels(), **reading).save(path)
        with pytest.raises(fid.InputError, match=r"bad\.png"):
            self.check(path, folder)
        assert self.check(path, folder, **reading).ok
        assert not self.check(path, folder, skip_bad=True).ok

    def test_floats_are_rounded_as_the_file_says(self, images, tmp_path):
        floats = np.clip(images + 0.4, 0, 255).astype("float32")
        path = tmp_path / "a.npz"
        fid.compute_statistics(floats, Pixels(), quantize="truncate").save(path)
        assert self.check(path, floats).ok
        fid.compute_statistics(floats, Pixels()).save(path)
        assert self.check(path, floats).ok
