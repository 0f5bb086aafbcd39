"""Test what would be uploaded, as one who installs it: run by `make test-dist`.

The archives in ``dist`` must hold what they should, and nothing else. The wheel is
installed into an empty environment, first with what it requires alone, then with what
the tests need. The tests are those of the source archive, unpacked outside the checkout
without the package, so that they can only find the installed one. Arguments go to
pytest.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-dist"
PYTHON = ENVIRONMENT / "bin" / "python"
PACKAGE = "sklearn_bert/"
NOT_SHIPPED = {".gitattributes"}

# No parquet, no picture, no model from the hub: what the core does with its own needs.
SMOKE = """
import importlib.util, tempfile
from sklearn_bert import BertVectorizer
from sklearn_bert.datasets import make_tiny_encoder
with tempfile.TemporaryDirectory() as place:
    assert BertVectorizer(make_tiny_encoder(place)).fit_transform(["It works."]).any()
extras = ["matplotlib", "pandas", "pyarrow", "pytest", "sentence_transformers"]
there = [name for name in extras if importlib.util.find_spec(name)]
print("works without", *sorted(set(extras) - set(there)))
"""


def read_archives() -> tuple[Path, Path]:
    """Return the wheel and the source archive; end if their contents are wrong."""
    (wheel,), (sdist,) = ((ROOT / "dist").glob(end) for end in ("*.whl", "*.tar.gz"))
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(sdist) as archive:
        names = [member.name for member in archive if member.isfile()]
    in_sdist = {name.partition("/")[2] for name in names}

    tracked, new = (
        {name for name in listing.split("\0") if (ROOT / name).is_file()}
        for listing in (git("--cached"), git("--others", "--exclude-standard"))
    )
    refuse("missing in the source archive", tracked - NOT_SHIPPED - in_sdist)
    refuse("not of the project", in_sdist - tracked - new - {"PKG-INFO"})
    package = {name for name in in_sdist if name.startswith(PACKAGE)}
    refuse("missing in the wheel", (package | {f"{PACKAGE}py.typed"}) - in_wheel)
    others = {name for name in in_wheel - package if ".dist-info/" not in name}
    refuse("not of the package", others)
    print(f"{len(in_wheel)} files in the wheel, {len(in_sdist)} in the source archive")
    return wheel, sdist


def git(*options: str) -> str:
    """Return a list of files, each ended by a NUL."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def refuse(what: str, names: set[str]) -> None:
    """End with the names, if there are any."""
    if names:
        sys.exit(f"{what}: {', '.join(sorted(names))}")


def run(*command: str | Path, cwd: Path) -> str:
    """Run Python of the new environment; return what it printed."""
    done = subprocess.run(
        [PYTHON, *command], cwd=cwd, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


def install(*what: str | Path, cwd: Path) -> None:
    """Install with pip, which then checks what is there."""
    quiet = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*quiet, "install", "--constraint", ROOT / "constraints.txt", *what, cwd=cwd)
    run(*quiet, "check", cwd=cwd)


def main() -> int:
    """Return the exit status of pytest."""
    wheel, sdist = read_archives()
    os.environ.pop("PYTHONPATH", None)
    print(f"Installing {wheel.name} into an empty {ENVIRONMENT.name}", flush=True)
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    with tempfile.TemporaryDirectory(prefix="sklearn-bert-") as name:
        place = Path(name).resolve()
        install("--upgrade", "pip>=25.1", cwd=place)  # the first to know --group
        install(wheel, cwd=place)
        print(run("-c", SMOKE, cwd=place), flush=True)

        with tarfile.open(sdist) as archive:
            archive.extractall(place, filter="data")
        (unpacked,) = place.glob("sklearn_bert-*")
        (unpacked / PACKAGE).rename(place / "not_imported")
        install(f"{wheel}[offline,plot]", "--group", "tests", cwd=unpacked)
        which = "import sklearn_bert as found; print(found.__file__)"
        package = Path(run("-c", which, cwd=unpacked)).parent
        if not package.is_relative_to(ENVIRONMENT):
            sys.exit(f"the tests would import {package}, not what was installed")

        tests = ["-m", "pytest", "-o", f"testpaths=tests {package}", *sys.argv[1:]]
        return subprocess.run([PYTHON, *tests], cwd=unpacked).returncode


if __name__ == "__main__":
    sys.exit(main())
