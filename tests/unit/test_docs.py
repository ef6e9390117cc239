"""The docs hold what the program has: commands that can be typed, topologies that can be read."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from labctl import topology
from labctl.cli.main import cli
from labctl.cli.verbs import VERBS
from labctl.errors import UsageError
from labctl.version import __version__

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MADE = {"catalogue.md"}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)

sys.path.insert(0, str(ROOT / "package"))


def blocks(page: Path, kinds: set[str]) -> Iterator[str]:
    for found in _FENCE.finditer(page.read_text()):
        if found[1] in kinds:
            yield found[2]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each labctl command of a shell block that stands for itself."""
    for line in text.replace("\\\n", " ").splitlines():
        plain = line.removeprefix("$ ").strip()
        if not re.match("labctl [a-z-]", plain) or "…" in plain:
            continue
        try:
            words = shlex.split(plain, comments=True)
        except ValueError:  # it goes on in the next line
            continue
        cut = [at for at, word in enumerate(words) if re.match(r"[|;&<>]|\d>", word)]
        yield words[1 : cut[0] if cut else None]


def lines() -> list[object]:
    found = {
        " ".join(words): pytest.param(words, id=f"{page.name}: {' '.join(words)}"[:100])
        for page in PAGES
        for text in blocks(page, {"sh", "bash", "console", "", "text"})
        for words in commands(text)
    }
    return list(found.values())


@pytest.mark.parametrize("words", lines())
def test_a_command_of_the_docs_is_one(words: list[str]) -> None:
    command: click.Command = cli
    context = click.Context(cli, info_name="labctl")
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None and command is not cli:
            break
        assert found is not None, f"there is no verb {rest[0]}"
        command, context = found, click.Context(found, info_name=rest.pop(0), parent=context)
    try:
        command.make_context(command.name, rest, parent=context.parent)
    except click.exceptions.Exit:
        pass  # --help
    except click.BadParameter as wrong:
        assert "does not exist" in wrong.message, wrong.message  # noqa: PT017 - a file of the reader's
    except click.ClickException as wrong:
        pytest.fail(wrong.format_message())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_whole_topology_of_the_docs_is_valid(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, {"yaml"})):
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError:
            continue  # a part
        if "…" in text or not isinstance(found, dict) or not {"networks", "nodes"} <= set(found):
            continue
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        try:
            topology.load(file)
        except UsageError as wrong:
            if "there is no file" not in str(wrong):
                pytest.fail(str(wrong))


def test_the_page_of_verbs_names_each() -> None:
    text = (ROOT / "docs" / "usage.md").read_text()
    table = text.partition("## Verbs")[2].partition("## Environment")[0]
    quiet = {"ssh-proxy"}  # for ssh(1) to call
    missing = [verb for verb in VERBS if verb not in quiet and not re.search(rf"`{verb}\b", table)]
    assert not missing


def test_news_tell_of_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "NEWS.md").read_text()


def test_the_schema_for_editors_is_the_programs_own() -> None:
    import json

    assert json.loads((ROOT / "topologies/schema.json").read_text()) == topology.json_schema()


def test_each_page_is_linked_from_the_readme_and_stands_in_the_site() -> None:
    readme = (ROOT / "README.md").read_text()
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    told = str(site["nav"])
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in readme
        assert page.name in told


def test_each_verb_has_a_man_page_in_which_no_text_is_an_order() -> None:
    import manual

    every = {one.name: one for one in manual.entries()}
    assert {f"labctl {verb}" for verb in VERBS} <= set(every)
    for entry in every.values():
        page = manual.man_page(entry, every)
        orders = {line[:3] for line in page.splitlines() if line[:1] in (".", "'")}
        assert orders <= {".TH", ".SH", ".TP", ".PP"}
    assert manual.roff(".so /etc/passwd\n'x \\n-") == "\\&.so /etc/passwd\n\\&'x \\en\\-"
    page = manual.man_page(every["labctl image build"], every)
    assert "LABCTL_IMAGE_BUILD_FORCE" in page
    assert "EXIT STATUS" in page


def test_the_manual_of_a_site_has_every_option() -> None:
    import manual

    text = manual.markdown()
    for entry in manual.entries():
        assert f"## {entry.name}\n" in text
        for written, _, _ in entry.options:
            assert written.replace("|", "\\|") in text
