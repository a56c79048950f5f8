"""Writes below each pin of requirements.txt the SHA-256 of its files.

  python scripts/pin_hashes.py

Change a version in requirements.txt, then run this. It asks the package index through
pip, for each release of Python and each platform below, which file it would install,
and writes the hashes of these files; nothing is installed. pip then takes no other
file, wherever it comes from. A pin that has no file for one of them is an error.

Pins, markers, comments and groups stay as they are; a comment behind a pin comes after
its last hash. It needs pip 23.1 or later and nothing else,
and takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

REQUIREMENTS = pathlib.Path(__file__).resolve().parent.parent / "requirements.txt"
PYTHONS = ("3.11", "3.12", "3.13")
# For pip an old tag is another platform than a new one, though it runs there, too.
PLATFORMS = {
    "Linux, x86-64": [
        *(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)),
        *(f"manylinux{year}_x86_64" for year in (2014, 2010, 1)),
    ],
    "Linux, aarch64": [
        *(f"manylinux_2_{minor}_aarch64" for minor in range(28, 16, -1)),
        "manylinux2014_aarch64",
    ],
    "macOS, arm64": [
        *(
            f"macosx_{major}_0_{machine}"
            for major in range(15, 10, -1)
            for machine in ("arm64", "universal2")
        ),
        *(f"macosx_10_{minor}_universal2" for minor in range(16, 5, -1)),
    ],
}
# These were never built: the archive of their source is what is installed.
SOURCE_ONLY = ("promise",)


def without_hashes(text: str) -> str:
    r"""Returns requirements without their hashes.

    Args:
        text: Of the file.

    Example:
        >>> without_hashes("# Six\nsix==1.17.0 \\\n    --hash=sha256:4721\n")
        '# Six\nsix==1.17.0\n'
    """
    return re.sub(r"( \\\n\s*--hash=\S+)+", "", text)


def pin_of(line: str) -> tuple[str, str] | None:
    """Returns the distribution and the version that a line pins.

    Args:
        line: Of the file, without hashes.

    Returns:
        The name, as `canonical` gives it, and the version; None where the line pins
        nothing.

    Example:
        >>> pin_of('Six[x]==1.17.0 ; python_version > "3"  # why')
        ('six', '1.17.0')
        >>> pin_of("# six==1.17.0 would do") is None
        True
    """
    found = re.match(r"([\w.-]+)\s*(?:\[[^]]*\])?\s*==\s*([^\s;#]+)", line)
    return found and (canonical(found[1]), found[2])


def with_hashes(text: str, hashes: dict[str, set[str]]) -> str:
    r"""Returns requirements with hashes below each pin.

    Args:
        text: Of the file, without hashes.
        hashes: SHA-256 sums by the name of the distribution, as `canonical` gives it.

    Example:
        >>> with_hashes("# Six\nsix==1.17.0\n", {"six": {"b", "a"}})
        '# Six\nsix==1.17.0 \\\n    --hash=sha256:a \\\n    --hash=sha256:b\n'
    """
    lines = []
    for line in text.splitlines():
        comment = ""
        found = []
        if pin := pin_of(line):
            # pip would take a backslash behind a comment for a part of that.
            line, comment = re.fullmatch(r"(.*?)(\s+#.*)?", line).groups("")
            found = sorted(hashes[pin[0]])
        hashed = [line, *(f"--hash=sha256:{x}" for x in found)]
        lines.append(" \\\n    ".join(hashed) + comment)
    return "\n".join(lines) + "\n"


def canonical(name: str) -> str:
    """Returns the one spelling of a distribution's name.

    Example:
        >>> canonical("ml_dtypes")
        'ml-dtypes'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def files(pins: list[str], options: list[str]) -> dict[str, str]:
    """Asks pip which files it would install.

    Args:
        pins: Of the form NAME==VERSION.
        options: Of `pip install`, such as the platform.

    Returns:
        The SHA-256 of each file by the name of its distribution.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
    command += ["--ignore-installed", "--no-deps", *options]
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.json")
        command += ["--target", folder, "--report", str(report), *pins]
        if subprocess.run(command).returncode:
            sys.exit(f"pin_hashes.py: pip failed with {' '.join(options)}; see above")
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        canonical(each["metadata"]["name"]): each["download_info"]["archive_info"][
            "hashes"
        ]["sha256"]
        for each in found
    }


def main() -> None:
    """Rewrites requirements.txt."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    text = without_hashes(REQUIREMENTS.read_text(encoding="utf-8"))
    found = [pin for line in text.splitlines() if (pin := pin_of(line))]
    pins = dict(found)
    if len(pins) < len(found):
        sys.exit("pin_hashes.py: a distribution is pinned twice; leave one of its pins")
    hashes = {name: set() for name in pins}
    built = [f"{name}=={pins[name]}" for name in pins if name not in SOURCE_ONLY]
    asked = [
        (f"the source of {name}", [f"{name}=={pins[name]}"], ["--no-binary=:all:"])
        for name in pins
        if name in SOURCE_ONLY
    ]
    for version in PYTHONS:
        for name, tags in PLATFORMS.items():
            options = ["--only-binary=:all:", f"--python-version={version}"]
            options += [f"--platform={tag}" for tag in tags]
            asked.append((f"Python {version} on {name}", built, options))
    for what, wanted, options in asked:
        print(what, file=sys.stderr, flush=True)
        for name, sha256 in files(wanted, options).items():
            hashes[name].add(sha256)
    REQUIREMENTS.write_text(with_hashes(text, hashes), encoding="utf-8")


if __name__ == "__main__":
    main()
