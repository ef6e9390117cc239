"""The manual of the command line, from the text that `--help` prints: man pages and Markdown.

click-man was tried: it names no verb of a group that loads them late, has no section for variables
or exit codes, and writes text into roff as it stands, where a line that begins with a dot is an
order.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path

import click

from labctl.cli.main import cli
from labctl.errors import ExitCode
from labctl.version import __version__

EXIT_CODES = {
    ExitCode.OK: "Done; every experiment that ran passed.",
    ExitCode.FAIL: "An experiment failed; trace or diagnose found something wrong, results diff "
    "other verdicts, inspect --fail-on such packets.",
    ExitCode.USAGE: "Usage error or invalid input; nothing was started.",
    ExitCode.ERROR: "Could not tell, or could not do: the host, a guest or labctl failed.",
    ExitCode.SKIP: "Nothing was judged: every experiment was skipped.",
    ExitCode.INTERRUPTED: "Interrupted; what was up is down again.",
    ExitCode.READER_GONE: "The reader of the output closed it before its end, as head(1) does.",
}
PASSED_ON = {
    "labctl ssh": "That of the command, 255 where SSH itself failed. Where it was not reached:",
    "labctl exec": "That of the command, 255 where SSH itself failed; in several nodes 0 when all "
    "exited with 0, 1 when some did not, 3 when it could not be run in some. Otherwise:",
}
SUMMARY = "virtual network labs, and what happens to checksums in them"


@dataclass(frozen=True)
class Entry:
    """A verb, or `labctl` itself."""

    name: str
    """The words that call it."""
    usage: str
    summary: str
    paragraphs: tuple[str, ...]
    options: tuple[tuple[str, str, tuple[str, ...]], ...]
    """How each is written, what it is for, and its environment variables."""
    below: tuple[str, ...]
    """The words that call those below it."""

    @property
    def page(self) -> str:
        """The name of its man page."""
        return self.name.replace(" ", "-")


def entries() -> list[Entry]:
    """Return labctl itself and every verb, sorted."""
    return list(_walk(cli, _context(cli, "labctl")))


def _context(
    command: click.Command, name: str, parent: click.Context | None = None
) -> click.Context:
    settings = command.context_settings
    return click.Context(command, info_name=name, parent=parent, **settings)


def _walk(command: click.Command, context: click.Context) -> Iterator[Entry]:
    below = []
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            below.append((found, _context(found, name, context)))
    text = re.sub(r"\n*\f.*", "", cleandoc(command.help or ""), flags=re.DOTALL)
    name = context.command_path
    yield Entry(
        name=name,
        usage=" ".join(command.collect_usage_pieces(context)),
        summary=SUMMARY if name == "labctl" else command.get_short_help_str(200).rstrip("."),
        paragraphs=tuple(" ".join(one.split()) for one in re.split(r"\n\s*\n", text)),
        options=tuple(
            _option(one, context)
            for one in command.get_params(context)
            if isinstance(one, click.Option) and not one.hidden
        ),
        below=tuple(one.command_path for _, one in below),
    )
    for found, inner in below:
        yield from _walk(found, inner)


def _option(option: click.Option, context: click.Context) -> tuple[str, str, tuple[str, ...]]:
    record = option.get_help_record(context)
    assert record is not None
    text = re.sub(
        r"\s*\[env var: [^;\]]*(;\s*|\])", lambda m: "  [" if m[1] != "]" else "", record[1]
    )
    names = option.envvar if isinstance(option.envvar, list) else []
    return record[0], " ".join(text.split()), tuple(names)


def roff(text: str) -> str:
    """Return text as roff prints it: nothing in it is an order."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^([.'])", r"\\&\1", safe)


def man_page(entry: Entry, every: dict[str, Entry]) -> str:
    """Return the man page of a verb."""
    date = time.strftime(
        "%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    )
    lines = [
        f'.TH "{entry.page.upper()}" "1" "{date}" "labctl {__version__}" "labctl"',
        ".SH NAME", f"{roff(entry.page)} \\- {roff(entry.summary)}",
        ".SH SYNOPSIS", f"\\fB{roff(entry.name)}\\fP {roff(entry.usage)}",
        ".SH DESCRIPTION",
    ]  # fmt: skip
    for at, paragraph in enumerate(entry.paragraphs):
        lines += [*([".PP"] if at else []), roff(paragraph)]
    if entry.options:
        lines.append(".SH OPTIONS")
        for written, text, _ in entry.options:
            lines += [".TP", f"\\fB{roff(written)}\\fP", roff(text)]
    if entry.below:
        lines.append(".SH COMMANDS")
        for name in entry.below:
            lines += [
                ".TP",
                f"\\fB{roff(name)}\\fP(1)".replace(" ", "\\-"),
                roff(every[name].summary),
            ]
    if names := [(written, names) for written, _, names in entry.options if names]:
        lines.append(".SH ENVIRONMENT")
        lines.append(roff("An option on the command line wins over its variable."))
        for written, found in names:
            also = f", or for every verb {', '.join(found[1:])}" if found[1:] else ""
            lines += [".TP", f"\\fB{found[0]}\\fP", roff(f"As {written}{also}.")]
    if entry.name == "labctl" or not entry.below:
        lines.append(".SH EXIT STATUS")
        if entry.name in PASSED_ON:
            lines += [roff(PASSED_ON[entry.name]), ".PP"]
        for code, text in EXIT_CODES.items():
            lines += [".TP", f"\\fB{int(code)}\\fP", roff(text)]
    others = ["labctl"] if entry.name != "labctl" else ["labctl-up", "labctl-experiment"]
    lines += [".SH SEE ALSO", ", ".join(f"\\fB{roff(one)}\\fP(1)" for one in others)]
    return "\n".join(lines) + "\n"


def write_man_pages(folder: Path) -> int:
    """Write a page for each verb into a folder; return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    every = {one.name: one for one in entries()}
    for entry in every.values():
        (folder / f"{entry.page}.1").write_text(man_page(entry, every))
    return len(every)


def markdown() -> str:
    """Return the reference of the command line as one page of Markdown."""
    out = [
        "# Command line\n",
        "Made from the text that `--help` prints. What an option's variable is called follows from "
        "one rule, and what exit codes mean is the same for every verb: [usage.md](usage.md).\n",
    ]
    for entry in entries():
        out.append(f"## {entry.name}\n" if entry.name != "labctl" else "## labctl\n")
        out.append(f"```text\n{entry.name} {entry.usage}\n```\n")
        out += [f"{_escaped(one)}\n" for one in entry.paragraphs]
        if entry.options:
            out.append("| option | what it does | environment |\n|---|---|---|")
            for written, text, names in entry.options:
                cells = [f"`{written}`", _escaped(text), ", ".join(f"`{one}`" for one in names)]
                out.append("| " + " | ".join(one.replace("|", "\\|") for one in cells) + " |")
            out.append("")
    return "\n".join(out)


def _escaped(text: str) -> str:
    """Let what Markdown would take for HTML or emphasis stand, but not inside of backticks."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return re.sub(r"([<*_`])", r"\\\1", text)
    return "`".join(
        re.sub(r"([<*_])", r"\\\1", one) if at % 2 == 0 else one for at, one in enumerate(parts)
    )
