"""The rows of a run's metrics.jsonl, read without the project."""

import json

# A run that is repeated differs from the first one in these alone.
CLOCK = {"minutes", "measure_minutes"}


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def rows_without_clock(workdir):
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows(workdir)]
