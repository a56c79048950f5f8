"""How fast many runs of the mixture game are, beside the same runs through `GAN.fit`.

  python scripts/benchmark_critical_batch.py [--batches=4,64,256] [--steps=500]
      [--rounds=3] [--width=32]

`mixture_runs.play` computes the runs of one batch size side by side, and measures their
distances on the way. `GAN.fit` plays one of the same runs, compiled by XLA with 50
steps in a call, and measures nothing; the runs after it would take as long. Each lives
in a process of its own and they work in turn (A B A B), after a first round that
compiles, whose time is printed apart. Printed for each batch size are the medians of
both, the ratio of neighbouring rounds per run and, in brackets, the smallest and the
largest; runs of 5,000 steps in a minute; and the share of the rate of one large matrix
product, measured in the same rounds, that the steps' own products come to.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from absl import flags
from benchmarking import (
    Others,
    Run,
    Work,
    Worker,
    machine,
    prepare_environment,
    product,
    product_rates,
    ratios,
    workers,
)

from fid.files import InputError, check_writable, write_json
from fid.program import Flags, run

# Steps of the runs whose number in a minute is printed.
RUN_STEPS = 5000
PER_CALL = 50
# So many examples `fit` draws its batches from.
EXAMPLES = 2**16
OPTIMIZERS = ("adam", "amsgrad", "rmsprop")
SAMPLES = 2048


def together(steps: int, width: int) -> dict[str, Work]:
    """Runs of one batch size in one program, on all processors."""
    from tf_ttur.theory import mixture_game, mixture_runs

    game = mixture_game.MixtureGame(width=width)

    def play(batch: int) -> int:
        runs = [
            mixture_game.Run(batch, seed, OPTIMIZERS[seed % 3], 1e-3, 3e-4)
            for seed in range(machine()["cores"] * mixture_runs.places(batch))
        ]
        # No distance is so small: all runs make all steps.
        outcomes = mixture_runs.play(
            runs,
            game,
            max_steps=steps,
            every=max(steps // 10, 1),
            thresholds=[1e-30],
            num_samples=SAMPLES,
        )
        return sum(int(outcome.steps[-1]) for outcome in outcomes)

    return {"play": play, "product": product(), "operations": game.operations}


def one_by_one(steps: int, width: int) -> dict[str, Work]:
    """One run through `GAN.fit`."""
    import tensorflow as tf

    from tf_ttur.theory import mixture_game

    game = mixture_game.MixtureGame(width=width, num_examples=EXAMPLES)
    made: dict[int, Any] = {}

    def fit(batch: int) -> int:
        if batch not in made:
            adam = mixture_game.Run(batch, 0, "adam", 1e-3, 3e-4)
            gan = mixture_game.keras_gan(adam, game, steps_per_execution=PER_CALL)
            data = tf.data.Dataset.from_tensor_slices(game.examples).repeat()
            data = data.batch(batch, drop_remainder=True).prefetch(2 * PER_CALL)
            made[batch] = gan, data
        gan, data = made[batch]
        gan.fit(data, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)
        return steps

    return {"fit": fit}


def main(args: list[str], values: flags.FlagValues) -> None:
    """Plays in turn, and prints what was found."""
    if args:
        raise flags.Error(f"there is nothing to do with {args[0]!r}")
    try:
        batches = [int(batch) for batch in values.batches.split(",")]
    except ValueError:
        raise InputError(
            f"--batches={values.batches} is no list of numbers; write 4,64,256."
        ) from None
    if min(batches) < 1:
        raise InputError(f"--batches={values.batches} has a batch of less than 1.")
    if values.steps % PER_CALL:
        raise InputError(
            f"--steps={values.steps} is no multiple of {PER_CALL}, the steps that "
            "`fit` makes in one call."
        )
    if values.json:
        check_writable(values.json)
    prepare_environment()
    results: dict[str, Any] = {
        **machine("keras", "numpy", "tensorflow"),
        "steps": values.steps,
        "width": values.width,
    }
    settings = values.steps, values.width
    others, spent = Others(), 0.0
    with workers((one_by_one, *settings), (together, *settings)) as ways:
        for batch in batches:
            found = measure(*ways, batch, values.rounds)
            results[str(batch)] = found
            spent += found.pop("spent")
    print(
        f"share of the processors that other programs took: {others.share(spent):.2f}"
    )
    if values.json:
        write_json(values.json, results)


def measure(one: Worker, many: Worker, batch: int, rounds: int) -> dict[str, Any]:
    """Prints and returns the times of one batch size."""
    first = one.run("fit", batch), many.run("play", batch)
    theirs, ours, products = [], [], []
    for _ in range(rounds):
        theirs.append(per_step(one.run("fit", batch)))
        ours.append(per_step(many.run("play", batch)))
        products.append(many.run("product", repeat=4))
    text, found = ratios(theirs, ours)
    seconds = [np.median([run.seconds for run in runs]) for runs in (theirs, ours)]
    compiling = [
        run.seconds - middle * run.result
        for run, middle in zip(first, seconds, strict=True)
    ]
    a_minute = [60 / (RUN_STEPS * middle) for middle in seconds]
    operations = many.run("operations", batch).result
    cpu = np.median([run.cpu for run in ours])
    rate = operations / cpu / 1e9
    share = rate / np.median(product_rates(products, "cpu"))
    print(
        f"batch {batch}: fit {1e3 * seconds[0]:.3f} ms a step, together "
        f"{1e3 * seconds[1]:.4f} ms a step of a run; ratio {text}\n"
        f"  runs of {RUN_STEPS} steps in a minute: {a_minute[0]:.1f} and "
        f"{a_minute[1]:.1f}; compiling and starting took {compiling[0]:.1f} s and "
        f"{compiling[1]:.1f} s\n"
        f"  products of a step: {operations / 1e6:.2f} MFLOP, {rate:.1f} GFLOP/s of a "
        f"processor, {share:.2f} of one large product's",
        flush=True,
    )
    spent = sum(run.cpu * run.result for run in (*theirs, *ours))
    spent += sum(run.cpu for run in first) + sum(4 * run.cpu for run in products)
    return found | {
        "compiling": compiling,
        "gflops": rate,
        "share_of_product": share,
        "spent": spent,
    }


def per_step(done: Run) -> Run:
    """The times of one step of one run, of a round of so many."""
    return Run(done.seconds / done.result, done.cpu / done.result, done.result)


def define(flag: Flags) -> None:
    """Defines the flags."""
    flag.text("batches", "4,64,256", "Batch sizes, separated by commas.")
    flag.number("steps", 500, "Steps of each run in a round.", least=PER_CALL)
    flag.number("rounds", 3, "Rounds.", least=1)
    flag.number("width", 32, "Units of each hidden layer.", least=1)
    flag.text("json", None, "Also write all that was measured here.")


if __name__ == "__main__":
    sys.exit(run(main, define, __doc__))
