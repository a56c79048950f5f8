"""Damages the files of a run folder at random, and sees what the programs make of it.

    PYTHONPATH=. python tests/run_fuzzing.py [--mutations=600] [--seed=0]

Each damage is done to a copy of a folder and given to a program that reads the file:
`resume` (training goes on), `sample` (sample.py), `settings` (what nash.py reads first)
or `table` (the report of a sweep). What comes of it is

    refused      one line that names a file; nothing in the folder was changed
    no harm      the result is that of the folder as it was
    wrong        another result, without a word
    changed      refused, but a file was changed before
    traceback    anything else

The last three are faults; the exit status is 1 where there is one.
"""

import argparse
import collections
import contextlib
import io
import json
import pathlib
import random
import shutil
import sys
import tempfile

from small_runs import Small

from fid.files import InputError
from fid.program import one_line
from tf_ttur import experiment, presets, runs, sample_cli, tasks
from tf_ttur.runs import RunFolder, checkpoint_name
from tf_ttur.studies import kill_drill, sweep, sweep_results

PRESET = presets.get("digits_dcgan_ttur").override(
    width=2, steps=6, every=2, batch_size=8, num_samples=70, sample_batch=35,
    latent_dimension=3, jit_compile=False, extractor="pixels",
)  # fmt: skip
FAULTS = ("wrong", "changed", "traceback")
# What a run may write before it has looked at everything.
_ALWAYS_WRITTEN = {"log.txt", ".lock"}


class Cut(Exception):
    pass


class Fast(Small):
    """The data are read once for all."""

    loaded = None

    def load(self):
        Fast.loaded = Fast.loaded or super().load()
        return Fast.loaded


class CutShort(Fast):
    """A run that stops at step 6 before its row is written, as a power cut would."""

    def samples(self, data, folder):
        samples = super().samples(data, folder)
        write = samples.write

        def cut(path):
            if samples.model.steps == 6:
                raise Cut
            write(path)

        samples.write = cut
        return samples


# Programs: each returns what can be compared -----------------------------------------


def resume(folder, whole):
    with contextlib.redirect_stderr(io.StringIO()):
        experiment.train(Fast(PRESET), RunFolder(folder))
    return kill_drill.differences(folder, whole)


def sample(folder, whole):
    output, said = folder.parent / "samples.zip", io.StringIO()
    output.unlink(missing_ok=True)
    flags = ["sample.py", str(folder), "--num_samples=3", f"--output={output}"]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        status = sample_cli.sample(flags)
    if status:
        raise InputError(said.getvalue().removeprefix("sample.py: error: ").rstrip())
    return output.read_bytes()


def settings(folder, whole):
    run = RunFolder(folder)
    preset, data_dir = run.preset()
    run.check_checkpoint(run.checkpoint("last"), "Choose another.")
    tasks.of(preset, data_dir=data_dir).check()
    return preset, data_dir


def table(folder, whole):
    said = sweep_results.report(folder)
    for name in ("table.md", "table.json", "curves.png", "heatmap.png"):
        (folder / name).unlink(missing_ok=True)
    return said


# Folders ------------------------------------------------------------------------------


def make_folders(root):
    """Makes a run that is whole, the same cut after step 4, another, and a sweep."""
    folders = {name: root / name for name in ("whole", "cut", "other", "sweep")}
    with contextlib.redirect_stderr(io.StringIO()):
        experiment.train(Fast(PRESET), RunFolder(folders["whole"]))
        other = PRESET.override(seed=1)
        experiment.train(Fast(other), RunFolder(folders["other"]))
        with contextlib.suppress(Cut):
            experiment.train(CutShort(PRESET), RunFolder(folders["cut"]))
    cells = [sweep.Cell(1e-4, 1e-4), sweep.Cell(3e-4, 1e-4)]
    sweep.claim(sweep.Sweep(PRESET, dict.fromkeys(cells, 1)), folders["sweep"])
    for cell, run in zip(cells, ("whole", "other"), strict=True):
        shutil.copytree(folders[run], sweep.run_folder(folders["sweep"], cell, 0).path)
    return folders


# Damages: each takes a path and a generator, and says what it did

HOSTILE = (
    None, True, False, -1, 0, 1, 2, 3.5, 1e300, 10**12, 10**400, float("nan"),
    float("inf"), "x", "", "none", "4", "\ud800", [], [1], {}, {"a": 1}, [[[]]],
)  # fmt: skip


def places(value, path=()):
    """All places in a JSON value, itself aside."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inside in items:
        yield (*path, key)
        if isinstance(inside, dict | list):
            yield from places(inside, (*path, key))


def edit(value, rng):
    """Changes one place of a JSON value; returns what was done."""
    *way, key = rng.choice(list(places(value)))
    for step in way:
        value = value[step]
    before = value[key]
    how = rng.choice(("set", "set", "nudge", "remove", "rename"))
    if how == "nudge" and isinstance(before, int | float):
        value[key] = rng.choice((before + 1, -before - 1, before * 1.001 + 1e-6))
    elif how == "remove":
        del value[key]
    elif how == "rename" and isinstance(value, dict):
        value[f"{key}_"] = value.pop(key)
    else:
        value[key] = rng.choice(HOSTILE)
    after = value[key] if how not in ("remove", "rename") else how
    return f"{'.'.join(map(str, (*way, key)))}: {before!r:.30} -> {after!r:.30}"


def edit_json(path, rng):
    value = json.loads(path.read_text())
    said = edit(value, rng)
    path.write_text(json.dumps(value, indent=2))
    return said


def replace_json(path, rng):
    value = rng.choice(HOSTILE)
    path.write_text(json.dumps(value))
    return f"is {value!r:.30}"


def repeat_key(path, rng):
    value = json.loads(path.read_text())
    key = rng.choice(list(value))
    text = json.dumps({key: rng.choice(HOSTILE)})[:-1]
    path.write_text(f"{text}, {json.dumps(value)[1:]}")
    return f"{key} stands twice"


def edit_row(path, rng):
    lines = path.read_text().splitlines()
    at = rng.randrange(len(lines))
    row = json.loads(lines[at])
    said = edit(row, rng)
    lines[at] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")
    return f"row {at}: {said}"


def move_rows(path, rng):
    lines = path.read_text().splitlines()
    at = rng.randrange(len(lines))
    how = rng.choice(("swap", "twice", "lose", "reverse", "garbage", "blank", "more"))
    if how == "swap":
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif how == "twice":
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif how == "lose":
        del lines[at]
    elif how == "reverse":
        lines.reverse()
    elif how == "more":
        lines.append(json.dumps(json.loads(lines[-1]) | {"step": 99}))
    else:
        lines.insert(at, {"garbage": "\0" * 9, "blank": ""}[how])
    path.write_text("".join(f"{line}\n" for line in lines))
    return f"rows: {how} {at}"


def flip(path, rng):
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"a bit of byte {at}"


def shorten(path, rng):
    data = path.read_bytes()
    size = rng.choice((0, rng.randrange(len(data))))
    path.write_bytes(data[:size])
    return f"cut to {size} bytes"


def vanish(path, rng):
    path.unlink()
    if rng.random() < 0.5:
        path.mkdir()
        return "is a folder"
    return "is gone"


DAMAGES = {
    ".json": (edit_json, edit_json, edit_json, edit_json, edit_json, replace_json,
              repeat_key, flip, shorten, vanish),
    ".jsonl": (edit_row, edit_row, edit_row, move_rows, move_rows, flip, shorten,
               vanish),
    ".keras": (flip, flip, shorten, vanish),
    ".npz": (flip, flip, shorten, vanish),
}  # fmt: skip


def exchange(folder, folders, rng):
    """Puts a file of another run, or of another step, in the place of one."""
    mine = sorted((folder / "checkpoints").iterdir())
    best = next((folder / "best").glob("*.keras"))
    note = folder / "best" / "best.json"
    config, metrics = folder / "config.json", folder / "metrics.jsonl"
    other = folders["other"]
    target, source = rng.choice(
        (
            (mine[-1], mine[0]),
            (mine[-1], folders["whole"] / "checkpoints" / checkpoint_name(6)),
            (mine[-1], other / "checkpoints" / checkpoint_name(4)),
            (folder / "checkpoints" / checkpoint_name(99), mine[-1]),
            (best, mine[0] if best.name != mine[0].name else mine[-1]),
            (best, other / "checkpoints" / checkpoint_name(4)),
            (config, other / "config.json"),
            (metrics, other / "metrics.jsonl"),
            (note, other / "best" / "best.json"),
            (note, None),
        )
    )
    if source is None:
        # Step and file together, to a checkpoint that the run keeps.
        step = rng.choice(sorted(runs.checkpoints(folder / "checkpoints")))
        edited = {"file": checkpoint_name(step), "step": step}
        note.write_text(json.dumps(json.loads(note.read_text()) | edited))
        return target, f"names step {step}"
    shutil.copy(source, target)
    return target, f"is that of {source.parent.parent.name}/{source.name}"


# What reads which file.
READERS = {
    "config.json": (resume, sample, settings),
    "best/best.json": (resume, sample),
    "metrics.jsonl": (resume, resume, table),
    "checkpoints": (resume,),
    "best": (sample,),
    "reference.npz": (resume,),
    "summary.json": (table,),
    "sweep.json": (table,),
    "exchange": (resume, resume, sample),
}
WEIGHTS = (6, 4, 6, 3, 2, 1, 1, 3, 3)


def damage(copies, folders, rng):
    """Damages a copy; returns the program that is to read it, its folder, and words."""
    kind = rng.choices(list(READERS), WEIGHTS)[0]
    program = rng.choice(READERS[kind])
    start = {resume: "cut", sample: "whole", settings: "whole", table: "sweep"}[program]
    folder = copies / start
    shutil.copytree(folders[start], folder)
    if kind == "exchange":
        path, said = exchange(folder, folders, rng)
    else:
        if kind in ("checkpoints", "best"):
            path = rng.choice(sorted((folder / kind).glob("*.keras")))
        elif program is table and kind != "sweep.json":
            path = rng.choice(sorted(folder.glob(f"d_*/seed_0/{kind}")))
        else:
            path = folder / kind
        said = rng.choice(DAMAGES[path.suffix])(path, rng)
    where = path.relative_to(folder).as_posix()
    return program, folder, f"{program.__name__}: {where} {said}"


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in _ALWAYS_WRITTEN
    }


def verdict(program, folder, whole, expected):
    """Returns what came of it, and what was said or differed."""
    before = contents(folder)
    try:
        found = program(folder, whole)
    except InputError as error:
        text = one_line(f"{error}")
        if len(f"{error}".splitlines()) > 1 or "Traceback" in text:
            return "traceback", text
        return ("refused" if contents(folder) == before else "changed"), text
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "traceback", one_line(f"{type(error).__name__}: {error}")
    return ("no harm" if found == expected else "wrong"), f"{found!r:.300}"


def fuzz(mutations, seed, root, say=lambda line: None):
    """Damages and tries so many times; returns the counts and the faults."""
    folders = make_folders(root)
    expected = {}
    for program, start in (
        (resume, "cut"), (sample, "whole"), (settings, "whole"), (table, "sweep"),
    ):  # fmt: skip
        copy = root / "undamaged" / program.__name__ / start
        shutil.copytree(folders[start], copy)
        expected[program] = program(copy, folders["whole"])
    assert expected[resume] == []
    counts, faults = collections.Counter(), []
    for number in range(mutations):
        rng = random.Random(f"{seed} {number}")
        copies = root / "copies"
        program, folder, did = damage(copies, folders, rng)
        outcome, said = verdict(program, folder, folders["whole"], expected[program])
        shutil.rmtree(copies)
        counts[program.__name__, outcome] += 1
        line = f"{number}: {did}: {outcome}: {said}"
        say(line)
        if outcome in FAULTS:
            faults.append(line)
    return counts, faults


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutations", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    values = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="run_fuzzing.") as root:
        say = (lambda line: print(line, flush=True)) if values.verbose else len
        counts, faults = fuzz(values.mutations, values.seed, pathlib.Path(root), say)
    for (program, outcome), count in sorted(counts.items()):
        print(f"{program:9} {outcome:10} {count}")
    print(*faults, sep="\n")
    print(f"{values.mutations} mutations, {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
