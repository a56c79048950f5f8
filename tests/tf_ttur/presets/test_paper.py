"""The presets against the paper's table, and what is said of them."""

import json
import re

import numpy as np
import pytest
from repository import ROOT

from fid.files import InputError
from tf_ttur import callbacks, cli, experiment, presets
from tf_ttur.studies import reproduce

RESULTS = ROOT / "docs" / "results.md"

# Table 1 and the released code: discriminator's and generator's rate of TTUR, the
# original's, batch, latent, Adam's decays.
PAPER = {
    "celeba_dcgan": (1e-5, 5e-4, 5e-4, 64, 100, (0.5, 0.999)),
    "cifar10_dcgan": (1e-4, 5e-4, 1e-4, 64, 100, (0.5, 0.999)),
    "svhn_dcgan": (1e-5, 1e-4, 5e-5, 64, 100, (0.5, 0.999)),
    "lsun_dcgan": (1e-5, 1e-4, 5e-5, 64, 100, (0.5, 0.999)),
    "cifar10_wgan_gp": (3e-4, 1e-4, 1e-4, 64, 128, (0.0, 0.9)),
    "lsun_wgan_gp": (3e-4, 1e-4, 5e-4, 64, 128, (0.0, 0.9)),
    "celeba_began": (6e-5, 4e-5, 5e-5, 16, 64, (0.9, 0.999)),
    "lsun_began": (3e-5, 1e-5, 2e-5, 16, 64, (0.9, 0.999)),
}
# Trainable parameters of the original's networks, generator and discriminator.
PARAMETERS = {
    "celeba_dcgan": (5_135_363, 4_316_545),
    "svhn_dcgan": (4_514_819, 4_310_401),
    "cifar10_wgan_gp": (2_005_155, 1_877_121 - 3_072),
    "lsun_wgan_gp": (8_540_483, 7_491_841),
    "celeba_began": (1_716_611, 13_405_379),
}


@pytest.mark.parametrize("name", PAPER)
def test_settings_are_the_papers(name):
    b, a, both, batch, latent, betas = PAPER[name]
    ttur, orig = (presets.get(f"{name}_{setting}") for setting in reproduce.SETTINGS)
    assert (ttur.discriminator_lr, ttur.generator_lr) == (b, a)
    assert (orig.discriminator_lr, orig.generator_lr) == (both, both)
    wgan = "wgan" in name
    assert (ttur.discriminator_steps, orig.discriminator_steps) == (1, 5 if wgan else 1)
    for preset in (ttur, orig):
        assert (preset.batch_size, preset.latent_dimension) == (batch, latent)
        assert (preset.beta_1, preset.beta_2) == betas
        assert preset.num_samples == 50_000
        assert preset.ema_decay == 0
        assert preset.reuse_latents is not wgan
        assert preset.gradient_penalty == (10 if wgan else 0)
        assert preset.latent == ("normal" if wgan else "uniform")
        assert preset.halve_every == (100_000 if "began" in name else 0)
        assert preset.split == ("all" if "celeba" in name else None)
        published = presets.PUBLISHED[preset.name]
        # The run reaches the step whose result is published.
        assert preset.steps >= (published.step or 0)
        if published.best:
            assert published.best < published.mean_minimum
    assert ttur.loss == orig.loss == ("non_saturating" if "dcgan" in name else
                                      "wasserstein")  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_the_size_of_the_original(name):
    preset = presets.get(f"{name}_ttur")
    gan = experiment.build(preset, (preset.image_size, preset.image_size, 3))
    counts = [
        sum(int(np.prod(v.shape)) for v in network.trainable_variables)
        for network in (gan.generator, gan.discriminator)
    ]
    assert tuple(counts) == PARAMETERS[name]


def test_quirks_are_off_unless_asked_for():
    for preset in presets.PRESETS.values():
        assert not preset.generator_options
        assert not preset.discriminator_options
        assert preset.quantize != "truncate"
    preset = presets.get("cifar10_wgan_gp_orig").override(width=2)
    packed = experiment.build(preset.with_original_quirks(), (32, 32, 3))
    images = np.zeros((8, 32, 32, 3), "float32")
    assert packed.discriminator(images).shape == (2, 1)
    assert experiment.build(preset, (32, 32, 3)).discriminator(images).shape == (8, 1)
    assert "pack" not in presets.get("lsun_wgan_gp_orig").quirks.get(
        "discriminator_options", {}
    )
    dcgan = presets.get("cifar10_dcgan_ttur").override(width=2).with_original_quirks()
    norm = experiment.build(dcgan, (32, 32, 3)).generator.get_layer("norm_0")
    assert norm.momentum == pytest.approx(0.9**4)
    with pytest.raises(InputError, match="no quirks"):
        presets.get("lsun_began_ttur").with_original_quirks()
    with pytest.raises(InputError, match="multiple of 4"):
        preset.override(batch_size=30).with_original_quirks()


def test_rates_are_halved_where_the_preset_says_so():
    preset = presets.get("celeba_began_ttur").override(width=2)
    gan = experiment.build(preset, (16, 16, 3))
    optimizer = gan.discriminator_optimizer
    for step, rate in ((0, 6e-5), (99_999, 6e-5), (100_000, 3e-5), (250_000, 1.5e-5)):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate)
    with pytest.raises(InputError, match="a loss of its own"):
        preset.override(loss="minimax")


@pytest.mark.parametrize(
    "setting",
    [
        {"num_samples": 1}, {"sample_batch": 0}, {"discriminator_steps": 0},
        {"halve_every": -1}, {"beta_1": float("nan")}, {"beta_2": 1.0},
        {"ema_decay": 5.0}, {"gradient_penalty": -1.0},
        {"gradient_penalty": float("inf")}, {"network": "vgg"}, {"latent": "cauchy"},
        {"quantize": "floor"}, {"extractor": "vgg"}, {"seed": -1}, {"steps": 0},
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_refused(setting):
    with pytest.raises(InputError, match=f"^{next(iter(setting))} is .*; (it|choose)"):
        presets.get("digits_dcgan_ttur").override(**setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"generator_options": {"depth": 3}}, "unexpected keyword argument 'depth'"),
        ({"generator_options": {"seed": 3}}, "multiple values"),
        ({"network": "resnet", "discriminator_options": {"pack": 0}}, "pack 0"),
        ({"network": "resnet", "discriminator_options": {"pack": "x"}}, "'str'"),
        ({"network": "began", "loss": "wasserstein", "gradient_penalty": 1.0},
         "no gradient penalty"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(setting, message):
    preset = presets.get("digits_dcgan_ttur").override(width=2, **setting)
    with pytest.raises(InputError, match=f"digits_dcgan_ttur cannot.*{message}"):
        experiment.build(preset, (32, 32, 1))


@pytest.mark.parametrize("network", ["dcgan", "resnet", "began"])
def test_networks_that_do_not_fit_the_images_are_refused(network):
    preset = presets.get("digits_dcgan_ttur").override(
        network=network, loss="wasserstein"
    )
    with pytest.raises(InputError, match="image_size is 33"):
        experiment.build(preset, (33, 33, 1))


def test_quirks_are_added_to_the_options_that_are_set():
    preset = presets.get("cifar10_wgan_gp_ttur")
    preset = preset.override(generator_options={"name": "mine"})
    assert preset.with_original_quirks().generator_options == {
        "name": "mine",
        "batch_statistics": True,
    }


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


def test_settings_of_text_are_the_papers():
    ttur, orig = (presets.get(f"lm1b_wgan_gp_{x}") for x in reproduce.SETTINGS)
    rates = [(x.discriminator_lr, x.generator_lr) for x in (ttur, orig)]
    assert rates == [(3e-4, 1e-4), (1e-4, 1e-4)]
    assert (ttur.discriminator_steps, orig.discriminator_steps) == (1, 10)
    for preset in (ttur, orig):
        assert (preset.beta_1, preset.beta_2) == (0.5, 0.9)
        assert (preset.latent, preset.latent_dimension) == ("normal", 128)
        assert (preset.batch_size, preset.width) == (64, 512)
        assert (preset.steps, preset.every, preset.num_samples) == (200_000, 100, 640)
        assert (preset.loss, preset.gradient_penalty) == ("wasserstein", 10)
        published = presets.PUBLISHED[preset.name]
        for each in (published, published.further):
            assert each.step <= preset.steps
            assert each.best < each.mean_minimum
        with pytest.raises(InputError, match="no quirks to turn on"):
            preset.with_original_quirks()


def test_settings_of_images_and_of_text_do_not_mix():
    with pytest.raises(InputError, match="unit is 'bytes', a setting of text"):
        presets.get("digits_dcgan_ttur").override(unit="bytes")
    with pytest.raises(InputError, match="image_size is 32, a setting of images"):
        presets.get("text_wgan_gp_ttur").override(image_size=32)


def test_quirks_enter_the_configuration(capsys):
    argv = ["train.py", "--dry_run", "--preset=cifar10_wgan_gp_ttur"]
    assert cli.train(argv) == 0
    plain = json.loads(capsys.readouterr().out)
    assert cli.train([*argv, "--original_quirks"]) == 0
    quirky = json.loads(capsys.readouterr().out)
    assert {key for key in plain if plain[key] != quirky[key]} == {
        "quantize", "sample_batch", "generator_options", "discriminator_options",
    }  # fmt: skip
    assert cli.train(["train.py", "--preset=lsun_began_orig", "--loss=minimax"]) == 1
    assert "a loss of its own" in capsys.readouterr().err


def test_the_page_of_results_has_every_row():
    lines = RESULTS.read_text(encoding="utf-8").splitlines()
    for name in presets.PUBLISHED:
        for row in reproduce.row(name).splitlines():
            ours = row.removesuffix("not run | not run |")
            assert sum(line.startswith(ours) for line in lines) == 1, row


def test_curves_become_figures():
    def curve(*values):
        return [{"step": 10 * i, "fid": v, "d_loss": 0} for i, v in enumerate(values)]

    # The third run stopped early; the second failed to measure once.
    runs = [curve(9, 4, 5, 1), curve(9, 8, None, 7), curve(9, 6, 4)]
    assert reproduce.summarize(runs) == {
        "metric": "fid",
        "runs": 3,
        "best": {"step": 30, "value": 1},
        "mean_minimum": {"step": 10, "value": 6.0},
    }
    row = reproduce.row("celeba_dcgan_orig", reproduce.summarize(runs))
    assert row.endswith("| 21.4 at 70,000 | 30.6 | 1 at 30 | 6.0 at 10 |")


def test_curves_of_text_become_two_rows():
    def curve(*values):
        return [
            {"step": 100 * i, "jsd_1": 0.1, "jsd_4": v, "jsd_4_floor": 0.2, "jsd_6": w}
            for i, (v, w) in enumerate(values)
        ]

    runs = [curve((0.9, 1.0), (0.5, 0.8), (0.41236, 0.9)),
            curve((0.9, 1.0), (0.5, 0.9), (0.7, 0.9))]  # fmt: skip
    assert reproduce.row("lm1b_wgan_gp_ttur", reproduce.summarize(runs)).split(
        "\n"
    ) == [
        "| `lm1b_wgan_gp_ttur`, JSD-4 | 0.0003, 0.0001 | 0.35 at 98,000 | 0.376 | "
        "0.4124 at 200 | 0.5 at 100 |",
        "| `lm1b_wgan_gp_ttur`, JSD-6 | 0.0003, 0.0001 | 0.74 at 100,000 | 0.76 | "
        "0.8 at 100 | 0.85 at 100 |",
    ]


@pytest.mark.slow
def test_a_row_from_start_to_table_on_the_digits(tmp_path, classifier, capsys):
    argv = ["x", "--preset=digits_dcgan", "--seeds=2", "--steps=2",
            f"--workdir={tmp_path}"]  # fmt: skip
    assert cli.reproduce(argv) == 0
    first = capsys.readouterr().out
    assert [line.split("`")[1] for line in first.splitlines()] == [
        "digits_dcgan_ttur",
        "digits_dcgan_orig",
    ]
    results = json.loads((tmp_path / "results.json").read_text())
    values = [
        json.loads(line)["frechet_digits"]
        for path in tmp_path.glob("digits_dcgan_orig/seed_*/metrics.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(values) == 4  # two seeds, steps 0 and 2
    assert results["orig"]["best"]["value"] == min(values)
    assert results["orig"]["runs"] == 2
    assert cli.reproduce(argv) == 0  # finds all of it done
    assert capsys.readouterr().out == first
    assert results["orig"]["diverged"] == {}


def test_a_row_tells_of_runs_that_diverged(tmp_path, monkeypatch, capsys):
    def run(preset, folder, *_):
        folder.mkdir(parents=True)
        steps = 1 if preset.name.endswith("orig") and preset.seed == 1 else 3
        rows = [{"step": i, "minutes": 0, "fid": 9.0 - i} for i in range(steps)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(text)
        if steps == 1:
            raise callbacks.Diverged("d_loss became nan", 1)

    monkeypatch.setattr(experiment, "run", run)
    argv = ["x", "--preset=celeba_dcgan", "--seeds=2", f"--workdir={tmp_path}"]
    assert cli.reproduce(argv) == 0
    out, err = capsys.readouterr()
    assert "| 7.0 at 2 | 7.0 at 2 |" in out.splitlines()[0]
    assert "| 7.0 at 2 | 9.0 at 0 |" in out.splitlines()[1]
    assert "celeba_dcgan_orig: 1 of 2 runs diverged; the mean curve ends" in err
    results = json.loads((tmp_path / "results.json").read_text())
    assert [results[x]["diverged"] for x in reproduce.SETTINGS] == [{}, {"1": 1}]
    with pytest.raises(InputError, match="1 of 2 runs have no distance"):
        reproduce.summarize([[{"step": 0, "fid": 1.0}], []])


@pytest.mark.parametrize("name", ["mnist_dcgan", "digits_dcgan_ttur"])
def test_an_experiment_is_named_without_its_setting(name, capsys):
    assert cli.reproduce(["x", f"--preset={name}"]) == 1
    error = capsys.readouterr().err
    assert f"no experiment '{name}'; choose from digits_dcgan, " in error
