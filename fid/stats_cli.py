"""Programs for statistics files, and the one that measures published numbers again."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from fid import files, hosted, inspection, measure
from fid.files import InputError, printable, user_path
from fid.program import Flags, check_arguments, check_output, run, subcommand
from fid.sources.images import VALUE_RANGES
from fid.statistics import Statistics, merge_statistics, protocol_differences

__all__ = ["stats", "verify_published"]

_USAGE = """Works on statistics files (.npz with mu and sigma).

  stats.py show FILE...                    what each holds
  stats.py diff A B                        how they were measured, and their distance
  stats.py list                            the files that the paper's authors host, and
                                           those in $TTUR_STATS (or the cache folder)
  stats.py verify FILE...                  whether each can be what it says
  stats.py verify FILE --source=FOLDER     the same, and computed again from the images
  stats.py merge SHARD... --output=FILE    one file for parts of a set measured apart

TensorFlow is only used for --source."""

# These are the subcommands that a flag belongs to.
_FLAGS = {
    "json": ("show", "diff", "list", "verify"),
    "output": ("merge",),
    "source": ("verify",),
    "inception": ("verify",),
    "batch_size": ("verify",),
    "value_range": ("verify",),
    "recursive": ("verify",),
    "skip_bad": ("verify",),
}


_HEADINGS = ("published", "measured", "difference", "tolerance")


def stats(argv: Sequence[str] | None = None) -> int:
    """Runs `stats.py show|diff|list|verify|merge ...`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        name, rest = subcommand(args, values, _COMMANDS, _FLAGS)
        _COMMANDS[name](rest, values)

    return run(main, _define, _USAGE, argv)


def verify_published(argv: Sequence[str] | None = None) -> int:
    """Runs `verify_published.py`; see its `--help`.

    Args:
        argv: Program name and arguments; None means those of the process.

    Returns:
        The exit status: 0 only if every number agrees.
    """

    def main(args: list[str], values: flags.FlagValues) -> None:
        check_arguments(args)
        from fid.extractors.download import find_graph
        from fid.studies import cifar10, cifar10_numbers

        names = {target.name: target for target in cifar10_numbers.TARGETS}
        if unknown := [name for name in values.only or () if name not in names]:
            raise flags.Error(
                f"--only: there is no {', '.join(unknown)}; choose from "
                f"{', '.join(names)}"
            )
        targets = [names[name] for name in values.only or names]
        # All that may be missing is looked for before anything slow begins.
        folder = cifar10.find(values.data_dir, values.download)
        graph = find_graph(values.inception)
        images = cifar10.read(folder)
        from fid.extractors.inception import Inception

        network = Inception(graph, values.batch_size)
        results = []
        row = "{:18} {:>12} {:>12} {:>12} {:>9}  {}"
        if not values.json:
            print(row.format("", *_HEADINGS, ""))
        for result in cifar10_numbers.measure_again(
            images, network, targets, values.batch_size, progress=True
        ):
            results.append(result)
            if not values.json:
                numbers = [result.published, result.measured, result.difference]
                cells = [f"{number:.6f}" for number in numbers]
                ok = "ok" if result.ok else "DIFFERS"
                print(row.format(result.name, *cells, f"{result.tolerance:g}", ok))
        if values.json:
            _print_json([result.as_json() for result in results])
        if failed := [result.name for result in results if not result.ok]:
            raise InputError(
                f"{len(failed)} of {len(results)} numbers differ from the published "
                f"ones: {', '.join(failed)}. Where only numbers of chosen images "
                "differ, it is the order of the images; where all do, the graph."
            )

    def define(flag: Flags) -> None:
        flag.text(
            "data_dir",
            None,
            "TFDS's data folder. Without it: $TFDS_DATA_DIR, then "
            "~/tensorflow_datasets.",
        )
        flag.switch(
            "download",
            "Let TFDS download CIFAR-10 (170 MB) where it is not prepared.",
        )
        flag.inception()
        flag.texts(
            "only", None, "Names of the numbers to measure, with commas between them."
        )
        flag.batch_size()
        flag.switch("json", "Print JSON.")

    usage = """Measures published numbers of CIFAR-10 again and prints both.

  verify_published.py [--only=is_100,fid_256,is_256] [flags]

Needs the 2015 graph and CIFAR-10 as TFDS prepares it. All numbers take 60,000 images
through the network; those of the example above take 512."""
    return run(main, define, usage, argv)


def _show(paths: list[str], values: flags.FlagValues) -> None:
    _need(paths, "show")
    found = [inspection.describe(path) for path in paths]
    if values.json:
        _print_json([each.as_json() for each in found])
        return
    for each in found:
        rank = "full rank" if each.full_rank else "not of full rank"
        lines = {
            "written by": each.written_by,
            "sha256": each.sha256,
            "d": each.dimension,
            "n": "not said" if each.n is None else f"{each.n:,}",
            "trace": f"{each.trace:.6g}",
            "rank": f"{each.rank}, {rank}",
            **{
                key: value
                for key, value in (each.provenance or {}).items()
                if key not in ("n", "versions", "created")
            },
        }
        _print_block(each.file, lines)


def _diff(paths: list[str], values: flags.FlagValues) -> None:
    if len(paths) != 2:
        raise flags.Error(f"diff takes two files; got {len(paths)}")
    one, two = map(Statistics.load, paths)
    protocol = protocol_differences(one, two)
    comparison = measure.compare(one, two)
    # Other facts, such as the source itself, may differ between comparable sets.
    first, second = one.provenance or {}, two.provenance or {}
    other = {
        key: [first.get(key), second.get(key)]
        for key in [*first, *(key for key in second if key not in first)]
        if first.get(key) != second.get(key)
        and not any(text.startswith(f"{key} is ") for text in protocol)
    }
    if values.json:
        found = {
            **comparison.values(),
            "files": paths,
            "protocol_differences": protocol,
            "other_differences": other,
        }
        _print_json(found)
        return
    for text in protocol:
        print(f"not measured alike: {text}")
    if not protocol:
        print("measured alike")
    for key, (left, right) in other.items():
        print(f"{_text(key)}: {_text(left)} | {_text(right)}")
    print(*comparison.lines(), sep="\n")


def _list(args: list[str], values: flags.FlagValues) -> None:
    if args:
        raise flags.Error(f"list takes no arguments; got {' '.join(args)}")
    here = hosted.local_files()
    if values.json:
        listed = [
            {**dataclasses.asdict(each), "url": each.url} for each in hosted.HOSTED
        ]
        found = {
            "hosted": listed,
            "hosted_note": hosted.UNKNOWN,
            "folder": os.fspath(hosted.local_folder()),
            "files": [os.fspath(path) for path in here],
        }
        _print_json(found)
        return
    print("Hosted by the paper's authors (nothing is downloaded here):\n")
    for each in hosted.HOSTED:
        count = "" if each.count is None else f" ({each.count:,})"
        lines = {
            "url": each.url,
            "images": f"{each.images}{count}, {each.resolution}",
            "preprocessing": each.preprocessing,
            "unknown": each.unknown,
        }
        _print_block(each.file, lines)
    print(f"{hosted.UNKNOWN}\n")
    names = "\n".join(f"  {printable(path.name)}" for path in here) or "  none"
    print(f"In {printable(hosted.local_folder())}:\n\n{names}")


def _verify(paths: list[str], values: flags.FlagValues) -> None:
    _need(paths, "verify")
    if values.source is not None and len(paths) != 1:
        raise flags.Error(f"--source goes with one file; got {len(paths)}")
    results = {}
    for path in paths:
        results[path] = inspection.verify(
            path,
            source=values.source,
            inception=values.inception,
            batch_size=values.batch_size,
            value_range=values.value_range,
            recursive=values.recursive,
            skip_bad=values.skip_bad,
            progress=True,
        )
        if not values.json:
            lines = {
                each.name: f"{'ok' if each.ok else 'FAILED'}: {each.found}"
                for each in results[path]
            }
            _print_block(path, lines)
    if values.json:
        found = [
            {
                "file": path,
                "ok": all(each.ok for each in checks),
                "checks": [vars(each) for each in checks],
            }
            for path, checks in results.items()
        ]
        _print_json(found)
    failed = [
        f"{printable(path)}: {each.name} ({each.found})"
        for path, checks in results.items()
        for each in checks
        if not each.ok
    ]
    if failed:
        raise InputError(f"{len(failed)} checks failed: {'; '.join(failed)}")


def _merge(paths: list[str], values: flags.FlagValues) -> None:
    _need(paths, "merge")
    output = check_output(values.output, [str(user_path(path)) for path in paths])
    files.check_writable(output)
    merged = merge_statistics([Statistics.load(path) for path in paths])
    merged.save(output)
    print(f"{printable(values.output)}: {merged.n} images, {merged.dimension} features")


_COMMANDS: dict[str, Callable[[list[str], flags.FlagValues], None]] = {
    "show": _show,
    "diff": _diff,
    "list": _list,
    "verify": _verify,
    "merge": _merge,
}


def _define(flag: Flags) -> None:
    flag.switch("json", "Print JSON.")
    flag.text("output", None, "merge: where the .npz file goes.")
    flag.text(
        "source", None, "verify: the images, to compute the file again and compare."
    )
    flag.inception(
        "verify: the 2015 graph, whose SHA-256 the file should name. With --source it "
        "may be left out: $TTUR_INCEPTION, then the cache folder, then a download."
    )
    flag.batch_size("verify --source: images at a time.")
    flag.choice(
        "value_range",
        None,
        VALUE_RANGES,
        "verify --source: what the values of float images span.",
    )
    flag.switch("recursive", "verify --source: enter the folders of a folder.")
    flag.switch("skip_bad", "verify --source: leave out images that cannot be read.")


def _need(paths: list[str], command: str) -> None:
    if not paths:
        raise flags.Error(f"{command} needs at least one file")


def _print_json(value: Any) -> None:
    # JSON escapes all but ASCII here: a terminal's encoding may lack what a name holds.
    print(json.dumps(value, allow_nan=False))


def _print_block(title: str, lines: dict[str, Any]) -> None:
    lines = {_text(key): _text(value) for key, value in lines.items()}
    width = max(map(len, lines))
    print(_text(title))
    for key, value in lines.items():
        print(f"  {key:{width}}  {value}")
    print()


def _text(value: Any) -> str:
    # A line break or a terminal's control code in a file's own words is shown, not
    # obeyed.
    return printable(value) if isinstance(value, str) else json.dumps(value)
