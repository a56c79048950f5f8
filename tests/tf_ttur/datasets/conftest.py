import dataset_images
import pytest


@pytest.fixture
def kinds(tmp_path):
    """Images of every kind, in a folder with folders; returns the root."""
    files = dataset_images.every_kind()
    places = {
        f"{'b/deep/' * (i % 2)}{name}": x for i, (name, x) in enumerate(files.items())
    }
    dataset_images.write_folder(tmp_path / "kinds", places)
    (tmp_path / "kinds/notes.txt").write_text("not an image, and not taken for one")
    return tmp_path / "kinds"
