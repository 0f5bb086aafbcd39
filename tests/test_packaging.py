"""The files that say what is installed, and how to cite it, agree with each other."""

import importlib.resources
import itertools
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]

if not (ROOT / "pyproject.toml").is_file():
    pytest.skip("pyproject.toml is not beside these tests", allow_module_level=True)

MANIFEST = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = MANIFEST["project"]


def pins(file):
    """Return the version that a file of constraints names for each distribution."""
    lines = (ROOT / file).read_text(encoding="utf-8").split("\n")
    lines = [line for line in lines if line and not line.startswith("#")]
    return {name: Version(pin) for name, pin in (line.split("==") for line in lines)}


def floors(*lists):
    """Return the lowest version that lists of requirements allow of each."""
    found = {}
    for requirement in map(Requirement, itertools.chain(*lists)):
        for part in requirement.specifier:
            if part.operator == ">=":
                found.setdefault(requirement.name, set()).add(Version(part.version))
    assert all(len(versions) == 1 for versions in found.values()), found
    return {name: versions.pop() for name, versions in found.items()}


def test_the_oldest_versions_that_are_tested_are_the_oldest_that_are_allowed():
    tests = MANIFEST["dependency-groups"]["tests"]
    tested = pins("constraints-oldest.txt")
    allowed = floors(PROJECT["dependencies"], tests)
    assert {name: tested.get(name) for name in allowed} == allowed


def test_extras_allow_nothing_older_than_what_is_tested():
    extras = PROJECT["optional-dependencies"]
    tests = MANIFEST["dependency-groups"]["tests"]
    floors(tests, *(extras[name] for name in extras.keys() - {"all"}))


def test_what_the_environment_pins_is_allowed():
    groups = MANIFEST["dependency-groups"]
    needed = [*PROJECT["dependencies"], *groups["lint"], *groups["docs"]]
    allowed = {r.name: r.specifier for r in map(Requirement, needed)}
    assert all(pin in allowed[name] for name, pin in pins("constraints.txt").items())


def test_the_install_page_and_the_readme_name_the_oldest_versions():
    oldest = {name.lower(): v for name, v in floors(PROJECT["dependencies"]).items()}
    oldest["python"] = floors([f"python{PROJECT['requires-python']}"])["python"]
    for page in ("README.md", "docs/install.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        (said,) = [p for p in text.split("\n\n") if "Python 3" in p and "torch" in p]
        found = re.findall(r"([\w-]+) (\d+(?:\.\d+)*)", said)
        assert len(found) >= 4
        for name, version in found:
            assert Version(version) == oldest[name.lower()], (page, name)


def test_the_package_says_that_it_is_typed():
    assert importlib.resources.files("sklearn_bert").joinpath("py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_the_citation_names_the_software_as_the_package_does():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited["license"] == PROJECT["license"]
    assert cited["authors"] == PROJECT["authors"]
    assert cited["title"].startswith(PROJECT["name"])
    assert cited["message"]
