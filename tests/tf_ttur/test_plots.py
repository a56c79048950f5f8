import numpy as np
from PIL import Image

from tf_ttur import plots


def test_a_curve_is_drawn_whatever_is_missing(tmp_path):
    rows = [
        {"step": 0, "fid": 300.0},
        {"step": 5, "d_loss": 1.0, "g_loss": 2.0, "fid": None},
        {"step": 10, "d_loss": 0.5, "g_loss": 2.5, "fid": 200.0},
    ]
    for name, some in (("all", rows), ("first", rows[:1]), ("unmeasured", rows[1:2])):
        plots.training_curve(some, "fid", tmp_path / f"{name}.png", name)
        picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert picture.shape == (720, 840)
        assert picture.min() < 50 < 200 < picture.max()
