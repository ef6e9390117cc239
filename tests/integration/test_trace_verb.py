"""`labctl trace`: what it follows, of which packets it tells, and what it names besides."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from live import Done, Place, descendants, pids, place, until, words_of
from test_namespace_nodes import HOP

from labctl.tracing.schema import LINE

pytestmark = pytest.mark.integration
SEND = "import socket; socket.socket(2, 2).sendto(b'word', ('10.0.2.2', 4007))"
UDP = ("ns1", "ns2", "--udp", "4007", "-4")


@pytest.fixture(scope="module")
def there() -> Iterator[Place]:
    with place("off") as where:
        where.ok("up", str(where.write("hop.yaml", HOP.replace("KIND", "raw"))))
        yield where


def lines(done: Done | str) -> list[dict[str, Any]]:
    """Return the events, each of which is as the schema says."""
    text = done if isinstance(done, str) else done.stdout
    found = [line for line in text.splitlines() if line.startswith("{")]
    for line in found:
        LINE.validate_json(line)
    return [json.loads(line) for line in found]


def packets(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in events if one["event"] == "packet"]


def test_a_command_is_followed_as_long_as_it_runs(there: Place) -> None:
    command = f'for i in 1 2 3; do python3 -c "{SEND}"; done; echo done; exit 7'
    events = lines(there.run("trace", *UDP, "--cmd", command, "--json-lines"))
    assert [one["event"] for one in events] == ["ready", "packet", "packet", "packet", "end"]
    assert events[-1]["said"] == ["done", "exit status 7"]
    assert {one["fate"] for one in packets(events)} == {"arrived unusable"}


def test_enough_packets_end_a_command(there: Place) -> None:
    command = f'while :; do python3 -c "{SEND}"; done'
    events = lines(there.run("trace", *UDP, "--cmd", command, "--stop-after", "2", "--json-lines"))
    assert len(packets(events)) >= 2
    assert "the command was ended: enough packets had come" in events[-1]["notes"]
    assert not [pid for pid in pids() if "while :" in words_of(pid) and "sendto" in words_of(pid)]


def test_waiting_says_when_it_is_ready_and_misses_nothing_then(there: Place) -> None:
    words = ("trace", *UDP, "--wait", "--stop-after", "2", "--timeout", "300")
    with there.start(*words) as running:
        running.reach("being ready", lambda: running.said("ready, waiting for UDP to 10.0.2.2"))
        there.ok("exec", "ns1", "--", "python3", "-c", SEND)
        there.ok("exec", "ns1", "--", "python3", "-c", SEND)
        assert running.wait() == 1
    with there.start(*words, "--json-lines", output=True) as running:
        running.reach("being ready", lambda: running.said('"event": "ready"'))
        there.ok("exec", "ns1", "--", "python3", "-c", f"{SEND}; {SEND}")
        assert running.wait() == 1
        assert len(packets(lines(running.log.read_text()))) == 2


def test_only_packets_that_are_asked_for_are_told_of(there: Place) -> None:
    both = "; ".join((SEND, SEND.replace("word", "longer words")))
    words = ("trace", *UDP, "--cmd", f'python3 -c "{both}"', "--json-lines")
    (one,) = packets(events := lines(there.run(*words, "--filter", "greater 50")))
    assert one["steps"][0]["length"] == 54
    assert events[-1]["left_out"] == 1
    done = there.run(*words, "--where", "happened == 'metadata lost' and hop == 'ns2:eth0'")
    assert done.status == 0  # nothing is wrong with what was asked for
    assert (packets(lines(done)), lines(done)[-1]["left_out"]) == ([], 2)
    for wrong in (("--filter", "udp prot 1"), ("--where", "state==parital")):
        done = there.run("trace", *UDP, *wrong)
        assert (done.status, "column" in done.stderr) == (2, True)


def test_a_mapping_of_nat_is_named_and_its_undoing() -> None:
    with place("off") as where:
        up = where.run("up", str(where.write("nat.yaml", HOP.replace("KIND", "nat"))))
        if up.status:
            pytest.skip(f"this host cannot translate addresses: {up.stderr.splitlines()[-2:]}")
        done = where.run("trace", "ns1", "ns2", "--icmp", "-4", "--json")
        (found,) = done.json()["translations"]
    assert (found["what"], found["before"], found["after"]) == ("source", "10.0.1.1", "10.0.2.254")
    assert found["where"].startswith("router r1")
    assert found["there"] == found["back"] == 1


def test_a_link_that_is_down_is_named(there: Place) -> None:
    there.ok("exec", "--", "ip", "link", "set", "ns2-eth0", "down")
    try:
        done = there.run("trace", *UDP)
    finally:
        there.ok("exec", "--", "ip", "link", "set", "ns2-eth0", "up")
    assert done.status != 0
    assert "the link ns2-eth0 is down" in done.stdout


def observers() -> set[int]:
    """The processes of this host that observe r1:eth1 in some lab."""
    return {pid for pid in pids() if "observe.py --hop r1:eth1" in words_of(pid)}


def test_an_observer_that_died_is_named(there: Place) -> None:
    words = ("trace", *UDP, "--wait", "--timeout", "120", "--json-lines")
    with there.start(*words, output=True) as running:
        running.reach("being ready", lambda: running.said('"event": "ready"'))
        ours = observers() & descendants(running.child.pid)
        assert ours
        for pid in ours:
            os.kill(pid, signal.SIGKILL)
        until("its end", lambda: not ours & observers())
        there.ok("exec", "ns1", "--", "python3", "-c", SEND)
        assert running.wait() in (1, 3)
        end = lines(running.log.read_text())[-1]
    assert any("the capture is cut at r1:eth1" in note for note in end["notes"])
    point = next(one for one in end["points"] if one["hop"] == "r1:eth1")
    assert (point["complete"], point["missed"]) == (False, None)
