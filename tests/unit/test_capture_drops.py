"""The kernel's own account of drops: counters, and the trace of kfree_skb."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tracefs import FORMAT, Tracefs

from labctl.capture.counters import COUNTERS_COMMAND, CountersError, grown, parse_counters
from labctl.kinds.base import Context, Look
from labctl.kinds.observers.drops import (
    Arrival,
    Drop,
    Drops,
    DropsError,
    parse_drops,
    read_command,
    unwatch_command,
    watch_command,
    watching,
)

SNMP = """\
Ip: Forwarding DefaultTTL InReceives
Ip: 1 64 27
Tcp: RtoAlgorithm MaxConn InSegs InErrs InCsumErrors
Tcp: 1 -1 33 0 4
Udp: InDatagrams InCsumErrors
Udp: 9 0
TcpExt: SyncookiesSent TCPTimeouts
TcpExt: 0 2
Ip6InReceives                   	15
Udp6InCsumErrors                	3
"""

TRACE = """\
# tracer: nop
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
          <idle>-0       [001] ..s1.    51.704212: kfree_skb: skbaddr=00000000d2e1 protocol=2048 \
location=tcp_v4_rcv+0x1f8/0xea0 reason: TCP_CSUM
            sshd-81     [000] b.s2.    52.000001: kfree_skb: skbaddr=00000000aaaa rx_sk=0000bb \
protocol=34525 location=tcp_v6_rcv+0x2/0x9 reason: TCP_CSUM
          <idle>-0       [000] ..s.     53.500000: kfree_skb: skbaddr=0000000011 protocol=2048 \
location=000000006a5bd1a3
"""


def test_counters_of_all_files_are_read() -> None:
    counters = parse_counters(SNMP)
    assert counters["TcpInCsumErrors"] == 4
    assert counters["TcpMaxConn"] == -1
    assert counters["Udp6InCsumErrors"] == 3
    assert counters["TcpExtTCPTimeouts"] == 2


def test_only_what_grew_is_told() -> None:
    before = parse_counters(SNMP)
    after = before | {"TcpInCsumErrors": 6, "IpInReceives": 90}
    assert grown(before, after) == {"TcpInCsumErrors": 2}
    assert grown(before, after, ["IpInReceives"]) == {"IpInReceives": 63}


@pytest.mark.parametrize(
    "text",
    ["", "cat: not found", "Tcp: A B\nTcp: 1\n", "Tcp: A\nUdp: 1\n", "Udp6 x\n", "Ip: A\nIp: 1\n"],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(CountersError):
        parse_counters(text)


def test_the_counters_command_reads_this_kernel() -> None:
    text = subprocess.run(
        ["sh", "-c", COUNTERS_COMMAND], capture_output=True, text=True, check=True
    )
    assert "TcpInCsumErrors" in parse_counters(text.stdout)


def test_drops_of_three_generations_of_kernels_are_read() -> None:
    assert parse_drops(TRACE) == (
        Drop(51.704212, 2048, "tcp_v4_rcv+0x1f8/0xea0", "TCP_CSUM"),
        Drop(52.000001, 34525, "tcp_v6_rcv+0x2/0x9", "TCP_CSUM"),
        Drop(53.5, 2048, "000000006a5bd1a3", None),
    )


ARRIVALS = """\
# entries-in-buffer/entries-written: 8/8   #P:1
  <idle>-0   [000] ..s1.   1.000100: netif_receive_skb: dev=mgmt0 skbaddr=0000a1 len=108
  <idle>-0   [000] ..s1.   1.000200: kfree_skb: skbaddr=0000a1 protocol=34525 location=1 \
reason: TCP_OLD_DATA
  <idle>-0   [000] ..s1.   1.000300: netif_receive_skb: dev=eth0 skbaddr=0000a1 len=72
  <idle>-0   [000] ..s1.   1.000400: netif_receive_skb: dev=eth0 skbaddr=0000b2 len=110
  <idle>-0   [000] ..s1.   1.000450: netif_receive_skb: dev=vxlan0 skbaddr=0000b2 len=60
  <idle>-0   [000] ..s1.   1.000500: kfree_skb: skbaddr=0000b2 protocol=2048 location=1 \
reason: TCP_CSUM
      sh-1   [000] ..s1.   9.000000: kfree_skb: skbaddr=0000a1 protocol=2048 location=1 \
reason: UDP_CSUM
      sh-1   [000] ..s1.   9.000001: kfree_skb: skbaddr=0000a1 protocol=0 location=1 \
reason: NOT_SPECIFIED
"""


def test_a_drop_is_of_what_arrived_last_in_its_buffer() -> None:
    came = [drop.arrivals for drop in parse_drops(ARRIVALS)]
    assert came == [
        (Arrival(1.0001, "mgmt0", 108),),
        (Arrival(1.0004, "eth0", 110), Arrival(1.00045, "vxlan0", 60)),
        (Arrival(1.0003, "eth0", 72),),
        (),
    ]


def test_where_the_oldest_lines_are_lost_a_drop_may_be_anybodys() -> None:
    came = [drop.arrivals for drop in parse_drops(ARRIVALS.replace("8/8", "8/99"))]
    assert came[-1] is None
    assert came[0] is not None


def test_the_buffer_of_one_packet_is_not_taken_for_that_of_another_inside_it() -> None:
    again = ARRIVALS.replace("1.000450", "2.000450")
    assert parse_drops(again)[1].arrivals == (Arrival(2.00045, "vxlan0", 60),)


@pytest.mark.parametrize(("reasons", "recorded"), [((), "1"), (("TCP_CSUM",), "")])
def test_arrivals_are_recorded_where_every_drop_is(
    tmp_path: Path, reasons: tuple[str, ...], recorded: str
) -> None:
    events = run_watch(tmp_path, FORMAT, reasons)
    assert (events / "net/netif_receive_skb/enable").read_text().strip() == recorded


def run_watch(tmp_path: Path, fmt: str, reasons: tuple[str, ...]) -> Path:
    """Run the shell text against a directory that looks like tracefs; return the events there."""
    made = Tracefs(tmp_path, fmt).run(watch_command("a1", reasons))
    assert watching(made) == ("a1",)
    return tmp_path / "instances/labctl-a1/events"


@pytest.mark.parametrize(
    ("fmt", "reasons", "expected"),
    [
        (FORMAT, ("TCP_CSUM", "UDP_CSUM"), "reason == 0x5 || reason == 71"),
        (FORMAT, (), "0"),
        ("print fmt: location=%p", ("TCP_CSUM",), "0"),
        (FORMAT, ("TCP_CSUM", "NO_SUCH"), "0"),
    ],
)
def test_the_filter_names_the_kernels_own_numbers(
    tmp_path: Path, fmt: str, reasons: tuple[str, ...], expected: str
) -> None:
    event = run_watch(tmp_path, fmt, reasons) / "skb/kfree_skb"
    assert (event / "filter").read_text().strip() == expected
    assert (event / "enable").read_text().strip() == "1"


def test_only_names_get_into_the_shell_text() -> None:
    with pytest.raises(DropsError, match="no drop reason"):
        watch_command("a1", ["TCP_CSUM; reboot"])


def test_watches_are_told_apart_by_their_tokens(tmp_path: Path) -> None:
    tracefs = Tracefs(tmp_path)
    for token in ("a1", "b2"):
        tracefs.run(watch_command(token))
    (tmp_path / "instances/labctl-a1/trace").write_text("what a1 saw")
    with pytest.raises(subprocess.CalledProcessError):  # nobody takes over another's
        tracefs.run(watch_command("a1"))
    tracefs.run(unwatch_command("b2"))
    assert tracefs.instances() == ["labctl-a1"]
    assert tracefs.run(read_command("a1")) == "what a1 saw"


def test_instances_that_are_not_ours_are_no_watches() -> None:
    assert watching("labctl\nlabctl-0a1b\nother\nnot-labctl-77\n") == ("0a1b",)


def test_ending_a_watch_that_never_began_is_no_error(tmp_path: Path) -> None:
    Tracefs(tmp_path).run(unwatch_command("a1"))


def test_a_watch_is_ready_once_it_has_begun(tmp_path: Path) -> None:
    drops, look = Drops(), Look("a1", context=Context.GUEST)
    tracefs = Tracefs(tmp_path)
    reader = drops.reader()
    reader.feed(tracefs.run(drops.start(look)[2]).encode())
    assert (reader.ready, reader.why_not) == (True, "")
    reader.feed(TRACE.encode())
    assert reader.evidence() == parse_drops(TRACE)
    assert drops.ask(look)[2] == read_command("a1")
    tracefs.run(drops.stop(look)[2])
    assert tracefs.instances() == []


def test_a_kernel_that_cannot_tell_of_drops_says_why(tmp_path: Path) -> None:
    drops = Drops()
    reader = drops.reader()
    reader.feed(Tracefs(tmp_path, tells=False).run(watch_command("a1")).encode())
    assert not reader.ready
    assert reader.why_not == "cannot see drops: the kernel has no tracepoint skb:kfree_skb"


def test_drops_of_the_lab_itself_are_not_looked_at() -> None:
    assert "the lab's own kernel is the host's" in Drops().can_run(Look("a1"))
