"""Make what a package brings besides code: man pages and completions, of the command line itself.

`python package/share.py FOLDER` makes FOLDER as it is to lie below /usr/share: `make dist` and
`make deb` call it. `python package/share.py --markdown` prints the reference for the docs.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click
import manual

from labctl.cli import completion

PLACES = {
    "bash": "bash-completion/completions/labctl",
    "zsh": "zsh/vendor-completions/_labctl",
    "fish": "fish/vendor_completions.d/labctl.fish",
}


def completions(folder: Path) -> None:
    """Write what each shell takes, where it looks for it."""
    for shell, place in PLACES.items():
        file = folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(completion.source(shell))


def main() -> None:
    """Make the folder anew."""
    if sys.argv[1:] == ["--markdown"]:
        click.echo(manual.markdown())
        return
    folder = Path(sys.argv[1])
    if folder.is_dir():
        shutil.rmtree(folder)
    pages = manual.write_man_pages(folder / "man" / "man1")
    completions(folder)
    click.echo(f"made: {pages} man pages, completion for {', '.join(PLACES)}, in {folder}")


if __name__ == "__main__":
    main()
