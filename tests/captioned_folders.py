"""Small folders of captioned images, for tests."""

import numpy as np
from PIL import Image

TEXTS = ("a red square", "two cats", "a dog 7", "trees at night", "the sea", "one more")


def write_captioned(folder, texts=TEXTS, side=32):
    """Writes a bright rectangle for each text, and the text beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for index, text in enumerate(texts):
        pixels = random.integers(0, 40, (side, side, 3), np.uint8)
        pixels[4 + index : 20 + index, 6:24] += random.integers(99, 200, 3, np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"{text}\n", encoding="utf-8")
    return folder
