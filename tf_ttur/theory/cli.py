"""The command-line programs of the theory's experiments."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from fid.files import InputError, check_writable, write_json
from fid.mistaken import local_path
from fid.program import Flags, check_arguments, run
from tf_ttur import presets
from tf_ttur.runs import RunFolder

__all__ = ["heavy_ball", "nash", "saddle", "two_time_scales"]


def saddle(argv: Sequence[str] | None = None) -> int:
    """Runs `saddle.py`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        from tf_ttur.theory import figures
        from tf_ttur.theory.saddle import ROWS, THRESHOLD, summarise

        output = _output(args, values)
        # The floor is the mean over the last 1,000 steps, or all but the start's.
        window = min(1000, values.steps)
        rows = [
            summarise(row, values.steps, values.runs, values.seed, window)
            for row in ROWS
        ]
        figures.saddle_panel(output / "saddle_panel.png", values.steps, values.seed)
        figures.saddle_surface(output / "saddle_surface.png")
        write_json(
            output / "saddle.json",
            [
                {k: _finite(v) for k, v in dataclasses.asdict(row).items()}
                for row in rows
            ],
        )
        print(
            f"{values.runs} runs of {values.steps} steps each; median steps to "
            f"< {THRESHOLD}, then the mean over the last {window} steps"
        )
        line = "{:14} {:>8} {:>8}  {:>9} {:>9}  {:>9} {:>9}"
        print(line.format("", "lr x", "lr y", "|(x,y)|", "|grad|", "|(x,y)|", "|grad|"))
        for row in rows:
            print(
                line.format(
                    row.row.name,
                    f"{row.row.lr_x:g}",
                    f"{row.row.lr_y:g}",
                    _steps(row.distance_steps),
                    _steps(row.gradient_steps),
                    f"{row.distance_floor:.3g}",
                    f"{row.gradient_floor:.3g}",
                )
            )
        print(f"Figures and saddle.json: {output}")

    def define(flag: Flags) -> None:
        _shared(flag, "saddle", runs=400, steps=5000)

    usage = """Runs the paper's toy saddle f(x, y) = (1 + x^2)(100 - y^2) at its four
pairs of learning rates: how fast many runs come near the saddle, and how near.

  saddle.py [--runs=N] [--steps=N] [--seed=N] [--output=DIR]"""
    return run(main, define, usage, argv)


def two_time_scales(argv: Sequence[str] | None = None) -> int:
    """Runs `two_time_scales.py`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        from tf_ttur.theory import experiments

        output = _output(args, values)
        found = experiments.two_time_scales(
            output / "two_time_scales.png", values.runs, values.steps, values.seed
        )
        write_json(output / "two_time_scales.json", found)
        print("Constant step sizes, no noise: factor of the distance per update")
        line = "{:18} {:>7} {:>7}  {:>10} {:>10}  {}"
        print(line.format("", "slow", "fast", "predicted", "measured", ""))
        for row in found["constant"]:
            print(
                line.format(
                    row["game"],
                    f"{row['slow']:g}",
                    f"{row['fast']:g}",
                    f"{row['predicted']:.5f}",
                    f"{row['measured']:.5f}",
                    row["outcome"],
                )
            )
        print("Constant step sizes, noise: stationary variances of theta and w")
        for row in found["stationary"]:
            print(
                f"  {row['player']:6} predicted {row['predicted']:.6f} "
                f"measured {row['measured']:.6f}"
            )
        print("Falling step sizes, noise: exponents of the mean squares")
        for row in found["falling"]:
            print(
                f"  alpha {row['alpha']}, beta {row['beta']}: theta "
                f"{row['theta_exponent']:+.2f} (exact "
                f"{row['theta_exponent_exact']:+.2f}), w - lambda(theta) "
                f"{row['w_exponent']:+.2f} (exact {row['w_exponent_exact']:+.2f}), "
                f"last mean square of theta "
                f"{row['last_mean_square']:.3g}"
                + (f"  ({'; '.join(row['broken'])})" if row["broken"] else "")
            )
        print(f"Figure and two_time_scales.json: {output}")

    def define(flag: Flags) -> None:
        # An exponent is the slope of a line through two points or more.
        _shared(flag, "two_time_scales", runs=400, steps=100_000, least_steps=2)

    usage = """Runs stochastic approximation with one and with two time scales on games
whose Jacobian is known: a linear-quadratic one and Dirac-GAN.

  two_time_scales.py [--runs=N] [--steps=N] [--seed=N] [--output=DIR]"""
    return run(main, define, usage, argv)


def heavy_ball(argv: Sequence[str] | None = None) -> int:
    """Runs `heavy_ball.py`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        from tf_ttur.theory import experiments

        output = _output(args, values)
        followed = experiments.heavy_ball(output / "heavy_ball.png", values.seed)
        wells = experiments.flat_minima(
            output / "flat_minima.png", values.runs, values.steps, values.seed
        )
        write_json(output / "heavy_ball.json", followed | {"flat_minima": wells})
        print("beta_1, beta_2 at rate 1e-4: friction r, alpha, paper's a, and the")
        print("curvature beyond which the ball swings")
        for row in followed["friction"]:
            print(
                f"  {row['beta_1']:<5} {row['beta_2']:<6} r {row['memory']:8.0f}  "
                f"alpha {row['alpha']:.3f}  a {row['damping']:6.1f}  curvature "
                f"{row['critical_curvature']:.0f}"
            )
        print("Largest distance from the equation as the step size shrinks")
        for row in followed["distance"]:
            rates, errors = row["rates"], row["errors"]
            print(
                f"  {row['path']:38} {errors[0]:.4f} at a = {rates[0]:g}, "
                f"{errors[-1]:.5f} at {rates[-1]:g}: order {row['order']:.2f}"
            )
        print("Energy: share of steps on which it rises, and the largest rise")
        for row in followed["energy"]:
            print(
                f"  {row['path']:22} {row['rising_share']:.3f}  "
                f"{row['largest_rise']:.2e} of {row['start']:.3g}"
            )
        print(
            f"Two wells, {wells['runs']} runs at rate {wells['rate']}, noise "
            f"{wells['noise']}: share in the flat one [95%]; in equilibrium "
            f"{wells['equilibrium']:.3f}"
        )
        for row in wells["shares"]:
            print(
                f"  {row['steps']:6} steps, beta_1 {row['beta_1']:<6} friction "
                f"{row['friction']:7.3f}: {row['share']:.3f} "
                f"[{row['low']:.3f}, {row['high']:.3f}]"
            )
        print(f"Figures and heavy_ball.json: {output}")

    def define(flag: Flags) -> None:
        _shared(flag, "heavy_ball", runs=2000, steps=20_000)

    usage = """Compares Adam with the heavy ball with friction that it follows, and
counts which of two wells its runs end in.

  heavy_ball.py [--runs=N] [--steps=N] [--seed=N] [--output=DIR]"""
    return run(main, define, usage, argv)


def nash(argv: Sequence[str] | None = None) -> int:
    """Runs `nash.py`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        check_arguments(args, 1, "one run folder")
        folder = RunFolder(local_path(args[0]))
        preset, data_dir = folder.preset()
        if not isinstance(preset, presets.ImagePreset):
            raise InputError(
                f"{folder} is a run on {preset.kind}; choose one on images."
            )
        from tf_ttur import tasks

        given = values.checkpoint
        which = "last" if given is None else local_path(given)
        checkpoint = tasks.find_checkpoint(folder, which)

        import numpy as np

        from tf_ttur.theory.nash import examine

        task = tasks.of(preset, data_dir=data_dir)
        data = task.load()
        # A minibatch each, however many the discriminator takes in a step.
        batches = data.training(preset.batch_size, preset.seed)
        count = max(values.num_images // preset.batch_size, 1)
        images = np.concatenate([np.asarray(x) for x in batches.take(count)])
        gan = task.build(data.shape)
        stages = {}
        for stage in ("before training", checkpoint.name):
            if stage == checkpoint.name:
                tasks.load_weights(gan, checkpoint)
            players = examine(
                gan,
                images,
                batch_size=preset.batch_size,
                seed=values.seed,
                iterations=values.iterations,
                jit_compile=values.jit_compile,
            )
            stages[stage] = {k: dataclasses.asdict(v) for k, v in players.items()}
        report = {
            "preset": preset.name,
            "images": len(images),
            "batch_size": preset.batch_size,
            "batch_norm": "the minibatch's own statistics, as in training",
            "stages": stages,
        }
        print(json.dumps(report, indent=2) if values.json else _nash_text(report))

    def define(flag: Flags) -> None:
        flag.text(
            "checkpoint", None, "A .keras file of the run; by default its newest one."
        )
        flag.number(
            "num_images", 1024, "Real images, and as many generated ones.", least=1
        )
        flag.number("iterations", 80, "Products with each Hessian at most.", least=1)
        flag.seed("Seed of the latents.")
        flag.switch(
            "jit_compile", "Compile by XLA; by default as the run does.", default=None
        )
        flag.switch("json", "Print JSON.")

    usage = """Measures how far a trained GAN is from a stationary local Nash
equilibrium, before and after training: the gradient norm of each player's own loss and
the extreme eigenvalues of its own Hessian.

  nash.py WORKDIR [--checkpoint=FILE] [--num_images=N] [--json]"""
    return run(main, define, usage, argv)


def _nash_text(report: dict[str, Any]) -> str:
    lines = [
        f"{report['preset']}: {report['images']} images in minibatches of "
        f"{report['batch_size']}; batch norm on {report['batch_norm']}"
    ]
    line = "{:14} {:>9} {:>9} {:>10} {:>10} {:>22} {:>22} {:>9}"
    titles = ("", "params", "loss", "|gradient|", "its noise")
    titles += ("smallest eigenvalue", "largest eigenvalue", "products")
    for stage, players in report["stages"].items():
        lines += [stage, line.format(*titles)]
        for name, player in players.items():
            hessian = player["hessian"]
            noise = player["gradient_noise"]
            lines.append(
                line.format(
                    name,
                    player["parameters"],
                    f"{player['loss']:.4g}",
                    f"{player['gradient_norm']:.4g}",
                    "-" if noise is None else f"{noise:.4g}",
                    f"{hessian['smallest']:.4g} ± {hessian['smallest_error']:.2g}",
                    f"{hessian['largest']:.4g} ± {hessian['largest_error']:.2g}",
                    hessian["products"],
                )
            )
    return "\n".join(lines)


def _output(args: list[str], values: flags.FlagValues) -> pathlib.Path:
    check_arguments(args)
    if not values.output:
        raise flags.Error("--output is empty; name a folder")
    output = local_path(values.output, writing=True)
    check_writable(output / "values.json")  # before long work
    return output


def _shared(
    flag: Flags, name: str, *, runs: int, steps: int, least_steps: int = 1
) -> None:
    flag.number("runs", runs, "Runs with noise of their own.", least=1)
    flag.number("steps", steps, "Steps in each run.", least_steps)
    flag.seed("Seed of all noise.")
    flag.text("output", f"runs/{name}", "Folder of figures and values.")


def _steps(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "never"


def _finite(value: Any) -> Any:
    return None if value == math.inf else value
