"""Damages the files of a run folder at random, and sees what the programs make of it.

    PYTHONPATH=. python tests/run_fuzzing.py [--mutations=600] [--seed=0]

Each damage is done to a copy of a folder and given to a program that reads the file:
`resume` (training goes on), `sample` (sample.py), both for images and for text,
`settings` (what nash.py reads first), `table` (the report of a sweep) or `classify`
(the digits classifier of the cache). What comes of it is

    refused      one line that names a file; nothing in the folder was changed
    no harm      the result is that of the folder as it was; or, where the file that
                 says that a run is over is gone, that of a sweep without this run
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
import os
import pathlib
import random
import shutil
import sys
import tempfile

import numpy as np
from sklearn.datasets import load_digits
from small_runs import Small, SmallText

from fid.files import InputError
from fid.program import one_line
from tf_ttur import callbacks, datasets, experiment, presets, runs, sample_cli, tasks
from tf_ttur.networks.classifier import digits_classifier
from tf_ttur.runs import RunFolder, checkpoint_name
from tf_ttur.studies import kill_drill, sweep, sweep_results

PRESET = presets.get("digits_dcgan_ttur").override(
    width=2, steps=6, every=2, batch_size=8, num_samples=70, sample_batch=35,
    latent_dimension=3, jit_compile=False, extractor="pixels",
)  # fmt: skip
TEXT = presets.get("text_wgan_gp_ttur").override(
    width=2, steps=6, every=2, batch_size=8, num_samples=30, sample_batch=30,
    latent_dimension=3, jit_compile=False, discriminator_steps=1,
)  # fmt: skip
FAULTS = ("wrong", "changed", "traceback")
# What a run may write before it has looked at everything.
_ALWAYS_WRITTEN = ("log.txt", ".lock")


class Cut(Exception):
    pass


class Fast:
    """The data are read once for all."""

    loaded = None

    def load(self):
        type(self).loaded = type(self).loaded or super().load()
        return type(self).loaded


class CutShort:
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


class OfImages(Fast, Small):
    pass


class OfText(Fast, SmallText):
    pass


class OfImagesCut(CutShort, OfImages):
    pass


class OfTextCut(CutShort, OfText):
    pass


# Programs: each returns what can be compared -----------------------------------------


def resume(folder, folders):
    return _resumed(OfImages(PRESET), folder, folders["whole"])


def resume_text(folder, folders):
    return _resumed(OfText(TEXT), folder, folders["whole_text"])


def _resumed(task, folder, whole):
    with contextlib.redirect_stderr(io.StringIO()):
        experiment.train(task, RunFolder(folder))
    return kill_drill.differences(folder, whole)


def sample(folder, folders):
    return _sampled(folder, "samples.zip")


def sample_text(folder, folders):
    return _sampled(folder, "samples.txt")


def _sampled(folder, name):
    output, said = folder.parent / name, io.StringIO()
    output.unlink(missing_ok=True)
    flags = ["sample.py", str(folder), "--num_samples=3", f"--output={output}"]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        status = sample_cli.sample(flags)
    if status:
        raise InputError(said.getvalue().removeprefix("sample.py: error: ").rstrip())
    return output.read_bytes()


def settings(folder, folders):
    run = RunFolder(folder)
    preset, data_dir = run.preset()
    run.check_checkpoint(run.checkpoint("last"), "Choose another.")
    tasks.of(preset, data_dir=data_dir).check()
    return preset, data_dir


def table(folder, folders):
    said = sweep_results.report(folder)
    for name in ("table.md", "table.json", "curves.png", "heatmap.png"):
        (folder / name).unlink(missing_ok=True)
    return said


def classify(folder, folders):
    before = os.environ.get("TTUR_CACHE")
    os.environ["TTUR_CACHE"] = str(folder)
    try:
        found = _classifier()
    finally:
        del os.environ["TTUR_CACHE"]
        os.environ |= {} if before is None else {"TTUR_CACHE": before}
    features = found.extractor(_digits()[:8])
    return found.accuracy, found.extractor.fingerprint, features.tobytes()


def _classifier():
    return digits_classifier(_digits(), load_digits().target)


def _digits():
    return np.concatenate(list(datasets.load("digits").images()))


# Folders: runs of images and of text, whole and cut after step 4; another run, and one
# that diverges; a sweep of them; and a cache -----------------------------------------


def make_folders(root):
    names = ("whole", "cut", "whole_text", "cut_text", "other", "diverged")
    folders = {name: root / name for name in (*names, "sweep", "cache")}
    runs_of = (
        OfImages(PRESET),
        OfImagesCut(PRESET),
        OfText(TEXT),
        OfTextCut(TEXT),
        OfImages(PRESET.override(seed=1)),
        OfImages(PRESET.override(discriminator_lr=1e30)),
    )
    for name, task in zip(names, runs_of, strict=True):
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.suppress(Cut, callbacks.Diverged),
        ):
            experiment.train(task, RunFolder(folders[name]))
    cells = [sweep.Cell(x, 1e-4) for x in (1e-4, 3e-4, 1e30)]
    sweep.claim(sweep.Sweep(PRESET, dict.fromkeys(cells, 1)), folders["sweep"])
    for cell, run in zip(cells, ("whole", "other", "diverged"), strict=True):
        shutil.copytree(folders[run], sweep.run_folder(folders["sweep"], cell, 0).path)
    folders["cache"].mkdir()
    kept = _classifier().path
    for path in (kept, kept.with_suffix(".json")):
        shutil.copy(path, folders["cache"])
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


# What reads which file, and how often it is tried.
READERS = {
    "config.json": ((resume, sample, settings, resume_text, sample_text), 6),
    "best/best.json": ((resume, sample, resume_text, sample_text), 4),
    "metrics.jsonl": ((resume, resume, table, resume_text), 6),
    "checkpoints": ((resume, resume_text), 3),
    "best": ((sample, sample_text), 2),
    "reference.npz": ((resume,), 1),
    "vocabulary.json": ((resume_text, sample_text), 4),
    "summary.json": ((table,), 2),
    "diverged.json": ((table,), 3),
    "sweep.json": ((table,), 3),
    "exchange": ((resume, resume, sample), 3),
    "digits_classifier*": ((classify,), 4),
}
STARTS = {
    resume: "cut", sample: "whole", settings: "whole", table: "sweep",
    resume_text: "cut_text", sample_text: "whole_text", classify: "cache",
}  # fmt: skip


def damage(copies, folders, rng):
    """Damages a copy of a folder.

    Returns the program that is to read it, the folder, words, and the run that was
    over and does not say so any more, if any.
    """
    kind = rng.choices(list(READERS), [weight for _, weight in READERS.values()])[0]
    program = rng.choice(READERS[kind][0])
    folder = copies / STARTS[program]
    shutil.copytree(folders[STARTS[program]], folder)
    if kind == "exchange":
        path, said = exchange(folder, folders, rng)
    else:
        if kind in ("checkpoints", "best"):
            path = rng.choice(sorted((folder / kind).glob("*.keras")))
        elif program is table and kind != "sweep.json":
            path = rng.choice(sorted(folder.glob(f"d_*/seed_0/{kind}")))
        else:
            path = rng.choice(sorted(folder.glob(kind)))
        said = rng.choice(DAMAGES[path.suffix])(path, rng)
    where = path.relative_to(folder).as_posix()
    ends = ("summary.json", "diverged.json")
    undone = where if path.name in ends and not path.exists() else None
    return program, folder, f"{program.__name__}: {where} {said}", undone


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(_ALWAYS_WRITTEN)
    }


def verdict(program, folder, folders, expected):
    """Returns what came of it, and what was said or differed."""
    before = contents(folder)
    try:
        found = program(folder, folders)
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


def results(root, folders):
    """Returns what each program makes of its folder as it was made.

    Beside it stands, by the name of the file that says that a run of the sweep is over,
    the table of the sweep without that run.
    """
    copies, found = root / "undamaged", {}

    def tried(program, without=None):
        copy = copies / f"{len(found)}" / STARTS[program]
        shutil.copytree(folders[STARTS[program]], copy)
        if without is not None:
            shutil.rmtree(copy / without)
        return program(copy, folders)

    for program in STARTS:
        found[program, None] = tried(program)
    for name in ("summary.json", "diverged.json"):
        for path in folders["sweep"].glob(f"d_*/seed_0/{name}"):
            where = path.relative_to(folders["sweep"])
            found[table, where.as_posix()] = tried(table, where.parent)
    shutil.rmtree(copies)
    return found


def fuzz(mutations, seed, root, say=lambda line: None):
    """Damages and tries so many times; returns the counts and the faults."""
    folders = make_folders(root)
    expected = results(root, folders)
    assert expected[resume, None] == expected[resume_text, None] == []
    counts, faults = collections.Counter(), []
    for number in range(mutations):
        rng = random.Random(f"{seed} {number}")
        copies = root / "copies"
        program, folder, did, undone = damage(copies, folders, rng)
        outcome, said = verdict(program, folder, folders, expected[program, undone])
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
        os.environ["TTUR_CACHE"] = str(pathlib.Path(root, "made"))
        say = (lambda line: print(line, flush=True)) if values.verbose else len
        counts, faults = fuzz(values.mutations, values.seed, pathlib.Path(root), say)
    for (program, outcome), count in sorted(counts.items()):
        print(f"{program:11} {outcome:10} {count}")
    print(*faults, sep="\n")
    print(f"{values.mutations} mutations, {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
