"""Checks what `make dist` builds: the wheel and the sdist have all that they should, and nothing else.

The sdist has every file of the repository but those that only its host reads. The wheel that is built from the sdist
has the same files as the other. The text that PyPI shows has no link to a file. It needs nothing but Python and git.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_IN_THE_SDIST = (".ci/", ".github/")
ADDED_TO_THE_SDIST = {"PKG-INFO"}


def tracked() -> set[str]:
    """Return the files of the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return {name for name in listed.stdout.split("\n") if name and (ROOT / name).exists()}


def sdist_faults(path: Path) -> list[str]:
    """Return what is wrong with the sdist."""
    with tarfile.open(path) as archive:
        has = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    expected = {name for name in tracked() if not name.startswith(NOT_IN_THE_SDIST)} | ADDED_TO_THE_SDIST
    return [f"the sdist lacks {name}" for name in sorted(expected - has)] + [
        f"the sdist has {name}, which is not in the repository" for name in sorted(has - expected)
    ]


def wheel_faults(path: Path, version: str) -> list[str]:
    """Return what is wrong with the wheel."""
    info = f"roomkey-{version}.dist-info/"
    with zipfile.ZipFile(path) as archive:
        has = {name for name in archive.namelist() if not name.startswith(info)}
        metadata = Parser().parsestr(archive.read(f"{info}METADATA").decode())
    expected = {name.removeprefix("src/") for name in tracked() if name.startswith("src/")}
    faults = [f"the wheel lacks {name}" for name in sorted(expected - has)]
    faults += [f"the wheel has {name}, which is not in src" for name in sorted(has - expected)]
    text = str(metadata.get_payload())
    faults += [f"PyPI would show a dead link: {link}" for link in re.findall(r"\]\((?!https?://)[^)]*\)", text)]
    if "# Roomkey" not in text:
        faults.append("PyPI would not show the README")
    return faults


def main() -> None:
    """Check the two files in the folder that is given."""
    folder = Path(sys.argv[1])
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    sdist, wheel = folder / f"roomkey-{version}.tar.gz", folder / f"roomkey-{version}-py3-none-any.whl"
    faults = sdist_faults(sdist) + wheel_faults(wheel, version)
    if f"\n## {version}" not in (ROOT / "CHANGELOG.md").read_text():
        faults.append(f"CHANGELOG.md has no heading for {version}")
    if faults:
        sys.exit("\n".join(faults))
    print(f"{sdist.name} and {wheel.name} are complete")


if __name__ == "__main__":
    main()
