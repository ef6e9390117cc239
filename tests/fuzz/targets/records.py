"""Records of runs from anywhere: listed, shown, compared, and made into a page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from pydantic import TypeAdapter

from labctl.cli import report, results
from labctl.cli.options import print_error
from labctl.errors import LabctlError
from labctl.packet.checksum import Checksum
from labctl.results.model import Run, Verdict
from labctl.results.recorder import RESULT, TOPOLOGY
from labctl.topology.model import Topology
from report_records import record

from ..mutate import Make, as_json, changed, derived
from ..scratch import folder
from ..target import Target, WrongError, chosen, printed

BETWEEN = b"\n%%\n"
"""What parts result, topology, capture and console; what is missing is not in the record."""
_WORDS = """
    id experiment hypothesis verdict arms environment started timings story notes partial command
    name description checks offloads seconds expected observed evidence hop schema_version
    images guest_kernels topology host_kernel vm1 vm2 vm1/eth0 vm1:eth0 r1 lan guest tap device
    tx-checksumming pass fail error skip works hangs ssh raw/ipv4 raw/ipv6 raw kernel virtio
    10.0.1.1/24 fd00::1/64 10.0.1.0/24 10.0.1.9 eth0 52:54:00:00:00:01 /x .. ../../x
    2026-01-02T03:04:05Z TcpInCsumErrors
"""
WORDS = [*_WORDS.split(), "drop reason TCP_CSUM", "", *(str(state) for state in Checksum)]
TOKENS = [json.dumps(word).encode() for word in WORDS] + [
    b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"1e999", b"NaN", b"-1", b'"\\u001b[31m"',
    b'"\\ud800"', b'"\\u0000"', b'"<script>"', BETWEEN, b"9" * 30, b"[" * 40,
    b'"' + b"x" * 300 + b'"',
]  # fmt: skip
_HTML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""What no HTML can hold (HTML, section 13.1)."""


@cache
def _root() -> tuple[Path, Path]:
    """Return the folders of the record that is fuzzed and of a sound one beside it."""
    root = folder() / "results"
    sound = record(root, versions=(4,))
    mine = root / f"{sound.name[:-4]}{int(sound.name[-4:], 16) ^ 1:04x}"
    (mine / "captures").mkdir(parents=True)
    (mine / "console").mkdir()
    return mine, sound


def _sound_result() -> dict[str, Any]:
    mine, sound = _root()
    data: dict[str, Any] = json.loads((sound / RESULT).read_bytes())
    return {**data, "id": mine.name, "arms": data["arms"][:2]}


def check(data: bytes) -> None:
    """Use a record by every verb that reads one."""
    mine, sound = _root()
    # An input does not know the name of the folder it will lie in.
    data = data.replace(b'"ID"', json.dumps(mine.name).encode())
    parts = data.split(BETWEEN, 3)
    captures = mine / "captures"
    shutil.rmtree(captures)
    captures.mkdir()
    for path, part in zip(
        (mine / RESULT, mine / TOPOLOGY, captures / _capture(), mine / "console" / "vm1.log"),
        (*parts, *[None] * 4),
        strict=False,
    ):
        path.unlink(missing_ok=True)
        if part is not None:
            path.write_bytes(part)
    verbs = [["--json"], ["show", mine.name, "--json"], ["diff", mine.name, sound.name, "--json"]]
    if chosen(data, 4):
        verbs += [[], ["show", mine.name], ["diff", mine.name, sound.name]]
    try:
        for words in verbs:
            _run(["--results", str(mine.parent), *words])
        if not chosen(data, 4):
            return
        page = mine / "page.html"
        words = [mine.name, "--results", str(mine.parent), "--output", str(page)]
        printed(lambda: report.report.main(words, standalone_mode=False))
    except LabctlError as error:
        told = error
        printed(lambda: print_error(told))
        raise
    if odd := _HTML.search(page.read_text(encoding="utf-8")):
        raise WrongError(f"the page holds a control character: {odd.group()!r}")


def _run(words: Sequence[str]) -> None:
    printed(lambda: results.results.main(list(words), standalone_mode=False))


def _capture() -> str:
    return sorted(_root()[1].glob("captures/*"))[0].name


@cache
def seeds() -> Sequence[bytes]:
    """A sound record with its topology and capture; the record alone; one that failed."""
    _, sound = _root()
    whole = {**_sound_result(), "id": "ID"}
    topology = (sound / TOPOLOGY).read_bytes()
    capture = (sound / "captures" / _capture()).read_bytes()
    console = b"\x1b[1mLinux\x07 version\r\nKernel panic\n"
    failed = json.loads(json.dumps(whole))
    failed["arms"][0]["checks"][0]["verdict"] = failed["arms"][0]["verdict"] = "fail"
    failed["verdict"] = "fail"
    return [
        BETWEEN.join([as_json(whole), topology, capture, console]),
        BETWEEN.join([as_json(failed), topology, capture, console]),
        as_json(whole),
        as_json(failed),
    ]


def _earned(run: Any) -> Any:
    """Let verdicts follow from what is inside, as a record's must; leave alone what has none."""
    if isinstance(run, dict):
        for arm in run["arms"] if isinstance(run.get("arms"), list) else ():
            if isinstance(arm, dict) and arm.get("verdict") in (*Verdict,):
                arm["verdict"] = "fail"
        run = {**run, "id": "ID", "schema_version": 1}
        if run.get("verdict") in (*Verdict,):
            run["verdict"] = "fail"
    return run


@cache
def _derived() -> tuple[Make, Make]:
    run, topology = (TypeAdapter(kind).json_schema() for kind in (Run, Topology))
    return derived(run, WORDS), derived(topology, WORDS)


def make(rng: Random) -> bytes:
    """Make one of the models' schemas, or of a sound record with parts replaced."""
    if rng.random() < 0.4:
        return changed(rng, rng.choice(seeds()), TOKENS)
    run, topology = _derived()
    parts = seeds()[0].split(BETWEEN, 3)
    if rng.random() < 0.7:
        parts[0] = as_json(_earned(run(rng)))
    if rng.random() < 0.7:
        parts[1] = as_json(topology(rng))
    return BETWEEN.join(parts[: rng.randint(1, 4)])


TARGET = Target(
    "records",
    "records of runs",
    10**5,
    ("labctl.results", "labctl.report", "labctl.topology.serialize", "labctl.cli"),
    seeds,
    make,
    check,
    words=[word for word in WORDS if word],
    longest=16384,
)
