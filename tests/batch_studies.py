"""Rows of studies of batch sizes, made of a curve that is known."""

import dataclasses

from tf_ttur.studies.batch_rows import Row, outcome

P, Q = 1e-3, 8e-3
"""1 / N = P - Q / b, of which b* is 16."""

ROW = Row(
    task="toy", variant="adam", batch=8, seed=0, optimizer="adam",
    discriminator_lr=3e-4, generator_lr=1e-4, beta_1=0.5, beta_2=0.999,
    metric="frechet_toy", threshold=1.0, passes=1, every=10, max_steps=100_000,
    status="reached", steps=30, previous=20,
    trace=((0, 9.0), (10, 5.0), (20, 2.0), (30, 1.0)), gradients=((10, 0.5, 0.25),),
    images={"real": 240, "generated": 480}, minutes=0.5, config="0" * 16,
)  # fmt: skip


def row(trace, **changes):
    """A row whose status, steps and interval are what its trace says."""
    new = dataclasses.replace(ROW, trace=tuple(trace), **changes)
    diverged = changes.get("status") == "diverged"
    status, steps, previous = outcome(new.trace, new.threshold, new.passes, diverged)
    return dataclasses.replace(new, status=status, steps=steps, previous=previous)


def rows(batches=(10, 12, 16, 24, 48, 96), seeds=3, variant="adam", scale=1.0):
    """Runs of which N is the curve's, at other thresholds twice and half of it."""
    found = []
    for batch in batches:
        for seed in range(seeds):
            steps = scale * (1 + 0.002 * (seed - 1)) / (P - Q / batch)
            half, whole = round(steps / 2), round(steps)
            trace = [
                (0, 9.0),
                (half - 1, 3.0),
                (half, 2.0),
                (whole - 1, 1.5),
                (whole, 1.0),
            ]
            found.append(row(trace, batch=batch, seed=seed, variant=variant))
    return found
