"""Built-in experiments are folders, and other packages bring theirs as entry points."""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from labctl.cli.main import cli
from labctl.errors import UsageError
from labctl.experiments import installed, load, runner
from labctl.experiments.builtin import BUILTIN, SHIPPED

ROOT = Path(__file__).parents[2]
MINE = """
from labctl.experiments import experiment

@experiment("mine", topology="bridged.yaml", hypothesis="it works")
def mine(trial):
    '''A stranger's.'''
"""


def install(folder: Path, package: str, name: str, text: str) -> None:
    """Install a package as pip would, with one module that declares one experiment."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[labctl.experiments]\n{name} = {package}_own:mine\n")
    (folder / f"{package}_own.py").write_text(text)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    installed.entries.cache_clear()
    yield folder
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]
    installed.entries.cache_clear()


def test_the_shipped_ones_are_declared_as_entry_points_too() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][installed.GROUP] == SHIPPED


def test_the_shipped_ones_are_found_without_a_look_at_what_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed.entries.cache_clear()
    monkeypatch.delattr(importlib.metadata, "entry_points")
    assert load.find(list(SHIPPED)) == list(BUILTIN.values())


def test_a_package_brings_one_that_is_found_by_its_name(packages: Path) -> None:
    install(packages, "strange", "mine", MINE)
    (found,) = load.find(["mine"])
    assert (found.name, found.package) == ("mine", "strange 1.0")
    assert runner._command(found, "auto") == "labctl experiment mine"
    assert load.find(["mine", "mine"]) == [found, found]
    assert "A stranger's." in CliRunner().invoke(cli, ["experiments"]).output


def test_a_word_that_is_none_is_told_with_the_nearest_of_all(packages: Path) -> None:
    install(packages, "strange", "mine", MINE)
    with pytest.raises(UsageError) as told:
        load.find(["mien"])
    assert "did you mean mine?" in told.value.hint


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("mine", "1 / 0", "cannot be imported: ZeroDivisionError"),
        ("mine", "mine = 3", "is none"),
        ("yours", MINE, "calls itself 'mine'"),
    ],
)
def test_one_that_is_of_no_use_is_refused_by_name(
    packages: Path, name: str, text: str, why: str
) -> None:
    install(packages, "strange", name, text)
    with pytest.raises(UsageError, match=f"the experiment '{name}' of strange 1.0 {why}"):
        load.find([name])
    listed = CliRunner().invoke(cli, ["experiments"])
    assert listed.exit_code == 0
    assert why in listed.output
    assert "bridged" in listed.output


def test_a_name_of_labctls_own_stays_its_own(packages: Path) -> None:
    install(packages, "thief", "bridged", MINE)
    assert load.find(["bridged"]) == [BUILTIN["bridged"]]
    (entry,) = installed.entries()
    assert "declared twice: by labctl and by thief 1.0" in entry.problem


def test_two_packages_of_one_name_are_told(packages: Path) -> None:
    install(packages, "first", "mine", MINE)
    install(packages, "second", "mine", MINE)
    with pytest.raises(UsageError, match=r"declared twice: by first 1\.0 and by second 1\.0"):
        load.find(["mine"])
