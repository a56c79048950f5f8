"""What is said of the presets in words."""

import re

from tf_ttur import cli, presets


def test_a_preset_is_told_in_words(capsys):
    for name in presets.PRESETS:
        assert cli.train(["train.py", "--describe", f"--preset={name}"]) == 0
        first, *rest = capsys.readouterr().out.splitlines()
        assert first.startswith(f"python scripts/train.py --preset={name}")
        if name in presets.PUBLISHED:
            text = "\n".join(rest)
            metric = "JSD-4" if "lm1b" in name else "FID"
            assert f"{metric} {presets.PUBLISHED[name].mean_minimum}" in text
            assert re.search(r"about [1-9]\d* h on one current GPU. An estimate", text)
    assert cli.train(["train.py", "--list_presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(presets.PRESETS)
    row = next(line for line in lines if line.startswith("svhn_dcgan_orig"))
    assert row.split() == [
        "svhn_dcgan_orig", "svhn_cropped", "dcgan", "5e-05", "5e-05", "1", "64",
        "200,000", "21.4", "at", "185,000", "55.1",
    ]  # fmt: skip


def test_what_is_published_of_text_is_told(capsys):
    argv = ["train.py", "--describe", "--preset=lm1b_wgan_gp_orig"]
    assert cli.train(argv) == 0
    text = capsys.readouterr().out
    assert "JSD-4 0.38 at step 33,000 after 1,040 minutes (Table 1" in text
    assert "JSD-6 0.77 at step 32,000 after 1,070 minutes (Table 1" in text
    assert "JSD-6 0.787, the lowest point of the mean curve of 10 runs" in text
    assert "lines of 32 characters; measured every 100 steps on 640 samples" in text
    assert cli.train(["train.py", "--list_presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("lm1b_wgan_gp_ttur"))
    assert row.split()[-8:] == [
        "0.35", "at", "98,000,", "0.74", "at", "100,000", "0.376,", "0.76",
    ]  # fmt: skip
