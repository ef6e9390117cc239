"""Probes against guests that are only scripts: works, refused, hangs, could not be told."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from labctl import topology
from labctl.errors import UsageError
from labctl.experiments import probes
from labctl.experiments.probes import Answer
from labctl.experiments.text_tables import table
from labctl.sandbox.process import Result

MODEL = topology.from_mapping(
    {
        "name": "ends",
        "networks": {
            "lan": {"subnets": ["10.0.1.0/24", "fd00::/64"]},
            "wan": {"subnets": ["10.0.2.0/24"]},
        },
        "nodes": {
            "vm1": {"interfaces": [{"network": "lan", "addresses": ["10.0.1.1/24", "fd00::1/64"]}]},
            "vm2": {
                "interfaces": [
                    {"network": "wan", "addresses": ["10.0.2.2/24"]},
                    {"network": "lan", "addresses": ["10.0.1.2/24", "fd00::2/64"]},
                ]
            },
            "vm3": {"interfaces": [{"network": "wan", "addresses": ["10.0.2.3/24"]}]},
        },
        "routers": {
            "r1": {
                "kind": "namespace",
                "interfaces": [
                    {"network": "wan", "addresses": ["10.0.2.254/24"]},
                    {"network": "lan", "addresses": ["10.0.1.254/24"]},
                ],
            }
        },
    }
)


class Job:
    """A command that takes `polls` looks to end with `status` (None: never)."""

    def __init__(
        self,
        status: int | None,
        output: str = "",
        errors: str = "",
        *,
        polls: int = 0,
        begun: bool = True,
    ) -> None:
        self.status = status
        self.output = output
        self.errors = errors
        self.polls = polls
        self.begun = begun
        self.stopped = False

    def poll(self) -> int | None:
        self.polls -= 1
        return self.status if self.polls < 0 else None

    def stop(self) -> None:
        self.stopped = True


class Node:
    serves_ssh = True

    def __init__(self, name: str, job: Job | None = None, answer: Result | None = None) -> None:
        self.name = name
        self.model = MODEL.nodes.get(name, MODEL.nodes["vm1"])
        self.job = job
        self.answer = answer
        self.counters: Iterator[dict[str, int]] = iter(())
        self.last: dict[str, int] = {}
        self.ran: list[Any] = []

    def start(self, command: str) -> Job:
        self.ran.append(command)
        assert self.job
        return self.job

    def run(self, command: Any, *, check: bool = True) -> Result:
        self.ran.append(command)
        answer = self.answer or Result((), 0, "", "")
        assert answer.ok or not check
        return answer

    def look(self) -> dict[str, int]:
        self.last = next(self.counters, self.last)
        return self.last


class Lab:
    name = "ends"
    topology = MODEL

    def __init__(self, *nodes: Node) -> None:
        self.nodes = nodes

    def node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise UsageError(f"lab {self.name} has no node {name}")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "counters", lambda node: node.look())
    monkeypatch.setattr(probes, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(probes, "SSH_SECONDS", 0.05)


def zero(**grown: int) -> dict[str, int]:
    return {"TcpInCsumErrors": 0, "UdpInCsumErrors": 0, "Udp6InCsumErrors": 0, **grown}


def ssh(job: Job, client: list[dict[str, int]], server: list[dict[str, int]]) -> Answer:
    vm1, vm2 = Node("vm1", job), Node("vm2")
    vm1.counters, vm2.counters = iter([zero(), *client]), iter([zero(), *server])
    lab: Any = Lab(vm1, vm2)
    answer = probes.ssh(lab, "vm1", "vm2")
    assert job.stopped
    assert vm1.ran == ["ssh root@10.0.1.2 hostname"]
    return answer


def test_ssh_works_when_the_right_host_answers() -> None:
    answer = ssh(Job(0, "vm2\n", polls=3), [], [])
    assert answer == Answer(True, "works", {"vm1": {}, "vm2": {}})


def test_ssh_that_reaches_somebody_else_does_not_work() -> None:
    answer = ssh(Job(0, "vm3\n"), [], [])
    assert (answer.works, answer.hangs) == (False, False)
    assert "vm3" in answer.text


def test_ssh_that_is_refused_does_not_work_and_does_not_hang() -> None:
    answer = ssh(Job(255, errors="\nwarning\nConnection refused\n"), [], [])
    assert (answer.works, answer.text, answer.hangs) == (False, "Connection refused", False)


TIMED_OUT = "ssh: connect to host 10.0.1.2 port 22: Connection timed out"


def test_a_client_that_gave_up_waiting_tells_nothing_of_the_network() -> None:
    answer = ssh(Job(255, errors=f"{TIMED_OUT}\n"), [], [])
    assert answer.works is None
    assert "Connection timed out" in answer.text


def test_a_client_that_gave_up_was_hanging_where_a_receiver_counted_why() -> None:
    answer = ssh(Job(255, errors=f"{TIMED_OUT}\n"), [], [zero(TcpInCsumErrors=2)])
    assert (answer.works, answer.hangs) == (False, True)


def test_a_client_that_never_started_tells_nothing_of_the_network() -> None:
    answer = ssh(Job(255, errors="Connection to vm1 lost\n", begun=False), [], [])
    assert answer.works is None
    assert "Connection to vm1 lost" in answer.text


@pytest.mark.parametrize("status", [126, 127])
def test_a_guest_without_an_ssh_client_tells_nothing(status: int) -> None:
    answer = ssh(Job(status, errors="sh: exec: ssh: Permission denied\n"), [], [])
    assert (answer.works, answer.attempts) == (None, ())
    assert "vm1 did not run the client" in answer.text


@pytest.mark.parametrize("blamed", ["vm1", "vm2"])
def test_ssh_hangs_when_a_receiver_counts_two_checksum_errors(blamed: str) -> None:
    grows = [zero(TcpInCsumErrors=1), zero(TcpInCsumErrors=2)]
    still = [zero(), zero()]
    job = Job(None)
    answer = ssh(job, grows if blamed == "vm1" else still, grows if blamed == "vm2" else still)
    assert (answer.works, answer.hangs) == (False, True)
    assert answer.text == f"hangs: {blamed} counted 2 TCP checksum errors"
    assert answer.grown(blamed, "TcpInCsumErrors") == 2
    assert answer.grown("nobody", "TcpInCsumErrors") == 0


def test_one_checksum_error_is_no_proof_and_silence_is_none() -> None:
    answer = ssh(Job(None), [], [zero(TcpInCsumErrors=1)])
    assert answer.works is None
    assert "no answer and no cause" in answer.text


def retried(*jobs: Job, grown: int = 0) -> tuple[Answer, Node]:
    vm1, vm2 = Node("vm1"), Node("vm2")
    waiting = iter(jobs)
    vm1.start = lambda command: next(waiting)  # type: ignore[method-assign]  # noqa: ARG005
    vm1.counters, vm2.counters = iter([zero()]), iter([zero(), zero(TcpInCsumErrors=grown)])
    lab: Any = Lab(vm1, vm2)
    return probes.ssh(lab, "vm1", "vm2"), vm2


CLOSED = "ssh: Connection to root@10.0.1.2:22 exited: Remote closed the connection"


def broken() -> Job:
    return Job(255, errors=f"{CLOSED}\n")


def test_a_connection_that_broke_once_is_tried_again_and_the_repeat_decides() -> None:
    answer, _ = retried(broken(), Job(0, "vm2\n"))
    assert answer.works
    assert len(answer.attempts) == 1
    assert "attempt 2" in answer.text
    assert "Remote closed the connection" in answer.text


def test_connections_that_all_break_for_no_cause_accuse_no_network() -> None:
    answer, _ = retried(*(broken() for _ in range(probes.ATTEMPTS)))
    assert answer.works is None
    assert len(answer.attempts) == probes.ATTEMPTS - 1
    assert "no cause seen" in answer.text


def test_a_connection_that_broke_where_a_receiver_counted_why_does_not_work() -> None:
    answer, _ = retried(broken(), grown=2)
    assert (answer.works, answer.attempts) == (False, ())
    assert "vm2 counted 2 TCP checksum errors" in answer.text


def test_errors_from_before_do_not_count() -> None:
    vm1, vm2 = Node("vm1", Job(0, "vm2\n", polls=2)), Node("vm2")
    vm1.counters = iter([zero()])
    vm2.counters = iter([zero(TcpInCsumErrors=100)])
    lab: Any = Lab(vm1, vm2)
    assert probes.ssh(lab, "vm1", "vm2").works


def test_the_job_is_stopped_even_when_a_guest_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(None)
    vm1, vm2 = Node("vm1", job), Node("vm2")
    looks = iter([zero(), zero()])
    monkeypatch.setattr(probes, "counters", lambda _node: next(looks))
    lab: Any = Lab(vm1, vm2)
    with pytest.raises((StopIteration, RuntimeError)):
        probes.ssh(lab, "vm1", "vm2")
    assert job.stopped


# --- the two ends -------------------------------------------------------------------------------


def sent_to(destination: str, **options: Any) -> str:
    """Return the address that a ping of vm1's goes to."""
    vm1 = Node("vm1", answer=Result((), 0, ALL, ""))
    lab: Any = Lab(vm1, Node("vm2"), Node("vm3"))
    vm1.last = zero()
    assert probes.ping(lab, "vm1", destination, **options).works
    (command,) = vm1.ran
    return str(command).split()[-1]


@pytest.mark.parametrize(
    ("destination", "options", "address"),
    [
        ("vm2", {}, "10.0.1.2"),  # where the path ends, not its first interface
        ("vm2", {"version": 6}, "fd00::2"),
        ("vm2", {"interface": "eth0"}, "10.0.2.2"),
        ("10.0.2.2", {}, "10.0.2.2"),
        ("10.0.2.2", {"version": 6}, "10.0.2.2"),  # an address has a version of its own
        ("FD00:0::2", {}, "fd00::2"),
        ("vm3", {}, "10.0.2.3"),
        ("r1", {}, "10.0.1.254"),
        ("r1", {"interface": "eth0"}, "10.0.2.254"),
    ],
)
def test_a_destination_is_a_name_or_an_address(
    destination: str, options: dict[str, Any], address: str
) -> None:
    assert sent_to(destination, **options) == address


@pytest.mark.parametrize(
    ("source", "destination", "options", "message"),
    [
        ("vm9", "vm2", {}, "no node vm9"),
        ("vm1", "vm9", {}, "no node or router 'vm9'"),
        ("r1", "vm2", {}, "r1 is a router: probes start at a guest"),
        ("vm1", "vm1", {}, "passes no network"),
        ("vm1", "10.0.1.1", {}, "passes no network"),
        ("vm1", "10.0.1.9", {}, "nobody in lab ends has the address 10.0.1.9"),
        ("vm1", "10.0.1.2", {"interface": "eth0"}, "vm2 has 10.0.1.2 on eth1, not on eth0"),
        ("vm1", "vm3", {"version": 6}, "vm3 has no IPv6 address"),
        ("vm1", "vm2", {"version": 6, "interface": "eth0"}, "vm2's eth0 has no IPv6 address"),
        ("vm1", "vm2", {"interface": "eth9"}, "vm2 has no interface eth9"),
        ("vm1", "vm2", {"version": 5}, "no IP version 5"),
    ],
)
@pytest.mark.parametrize("probe", [probes.ping, probes.ssh, probes.udp])
def test_what_is_asked_for_wrongly_is_told_and_nothing_is_sent(
    probe: Callable[..., Answer],
    source: str,
    destination: str,
    options: dict[str, Any],
    message: str,
) -> None:
    nodes = [Node(name) for name in MODEL.nodes]
    lab: Any = Lab(*nodes)
    with pytest.raises(UsageError, match=message) as told:
        probe(lab, source, destination, **options)
    assert told.value.hint or "no node vm9" in message
    assert not any(node.ran for node in nodes)


@pytest.mark.parametrize("probe", [probes.ssh, probes.udp])
@pytest.mark.parametrize("port", [0, -1, 65536])
def test_there_is_no_such_port(probe: Callable[..., Answer], port: int) -> None:
    lab: Any = Lab(Node("vm1"), Node("vm2"))
    with pytest.raises(UsageError, match=f"no port {port}"):
        probe(lab, "vm1", "vm2", port=port)


@pytest.mark.parametrize("probe", [probes.ssh, probes.udp])
def test_a_router_has_no_program_to_talk_to(probe: Callable[..., Answer]) -> None:
    lab: Any = Lab(Node("vm1"))
    with pytest.raises(UsageError, match="r1 is a router"):
        probe(lab, "vm1", "r1")


def test_a_ping_that_asks_for_nothing_is_refused() -> None:
    lab: Any = Lab(Node("vm1"), Node("vm2"))
    with pytest.raises(UsageError, match="tell nothing"):
        probes.ping(lab, "vm1", "vm2", count=0)


@pytest.mark.parametrize("ends", [("xen1", "vm1"), ("vm1", "xen1")])
def test_a_xen_host_is_no_end(ends: tuple[str, str]) -> None:
    lab: Any = Lab(Node("vm1"), Node("xen1"))
    lab.topology = topology.load(topology.find_shipped("xen-to-virtio.yaml"))
    with pytest.raises(UsageError, match="xen1"):
        probes.ping(lab, *ends)


# --- ping ---------------------------------------------------------------------------------------


def ping(
    said: str,
    *,
    errors: str = "",
    here: dict[str, int] | None = None,
    there: dict[str, int] | None = None,
    destination: str = "vm2",
    address: str = "10.0.1.2",
    status: int | None = None,
) -> Answer:
    ok = " 0% packet loss" in said
    vm1 = Node("vm1", answer=Result((), int(not ok) if status is None else status, said, errors))
    vm2 = Node("vm2")
    vm1.counters, vm2.counters = iter([zero(), here or zero()]), iter([zero(), there or zero()])
    lab: Any = Lab(vm1, vm2)
    answer = probes.ping(lab, "vm1", destination)
    assert vm1.ran == [f"ping -c 2 -i 0.2 -W 10 {address}"]
    return answer


ALL = "2 packets transmitted, 2 received, 0% packet loss"
SOME = "2 packets transmitted, 1 packets received, 50% packet loss"
NONE = "2 packets transmitted, 0 received, 100% packet loss"


@pytest.mark.parametrize("said", [ALL, ALL.replace("received", "packets received")])
def test_ping_works_when_every_request_is_answered(said: str) -> None:
    assert ping(said) == Answer(True, "2 of 2 answered", {"vm1": {}, "vm2": {}})


@pytest.mark.parametrize(("said", "count"), [(SOME, 1), (NONE, 0)])
def test_an_answer_that_is_missing_without_a_cause_tells_nothing(said: str, count: int) -> None:
    answer = ping(said, here=zero(TcpInCsumErrors=3))  # of another connection
    assert (answer.works, answer.text) == (None, f"{count} of 2 answered: no cause seen")


@pytest.mark.parametrize("blamed", ["vm1", "vm2"])
@pytest.mark.parametrize("named", ["10.0.1.2", "vm2"])
def test_ping_does_not_work_where_an_end_counts_a_damaged_packet(blamed: str, named: str) -> None:
    grown = zero(IcmpInCsumErrors=1)
    here, there = (grown, None) if blamed == "vm1" else (None, grown)
    answer = ping(SOME, destination=named, here=here, there=there)
    assert answer.works is False
    assert answer.text == f"1 of 2 answered: {blamed} counted 1 IcmpInCsumErrors"
    assert answer.grown(blamed, "IcmpInCsumErrors") == 1


def test_ping_does_not_work_where_an_icmp_error_comes_back() -> None:
    answer = ping(NONE, here=zero(IcmpInDestUnreachs=2))
    assert (answer.works, answer.text) == (
        False,
        "0 of 2 answered: vm1 counted 2 IcmpInDestUnreachs",
    )
    assert ping(NONE, there=zero(IcmpInDestUnreachs=2)).works is None  # of something vm2 sent
    assert ping(NONE, here=zero(Icmp6InDestUnreachs=2)).works is None  # of the other version
    told = ping(f"From 10.0.1.1 icmp_seq=1 Destination Host Unreachable\n{NONE}")
    assert (told.works, "Destination Host Unreachable" in told.text) == (False, True)


@pytest.mark.parametrize(
    ("errors", "works"),
    [
        ("ping: sendto: Network is unreachable\n", False),
        ("ping: bad address 'vm9'\n", None),
        ("", None),
    ],
)
def test_ping_that_does_not_start_fails_only_where_there_is_no_way(
    errors: str, works: bool | None
) -> None:
    answer = ping("", errors=errors)
    assert (answer.works, answer.text) == (works, f"ping said: {errors.strip() or 'nothing'}")


@pytest.mark.parametrize("named", ["r1", "10.0.1.254"])
def test_a_router_is_pinged_at_its_near_side_and_counts_nothing_itself(named: str) -> None:
    here = zero(IcmpInTimeExcds=1)
    answer = ping(NONE, destination=named, address="10.0.1.254", here=here)
    assert (answer.works, answer.errors) == (False, {"vm1": {}})


@pytest.mark.parametrize("status", [126, 127])
def test_a_guest_without_ping_tells_nothing(status: int) -> None:
    answer = ping("", errors="sh: ping: Permission denied, host unreachable\n", status=status)
    assert answer.works is None
    assert "vm1 did not run ping" in answer.text


# --- UDP ----------------------------------------------------------------------------------------


def udp(
    job: Job, server: list[dict[str, int]], version: int = 4, sent: Result | None = None
) -> Answer:
    vm1, vm2 = Node("vm1", answer=sent), Node("vm2", job)
    vm1.counters, vm2.counters = iter([zero()]), iter([zero(), *server])
    lab: Any = Lab(vm1, vm2)
    answer = probes.udp(lab, "vm1", "vm2", version=version)
    assert job.stopped
    return answer


def test_udp_works_when_the_datagram_is_read() -> None:
    answer = udp(Job(0, "listening\nreceived labctl-datagram\n"), [])
    assert (answer.works, answer.text) == (True, "received")


@pytest.mark.parametrize(("version", "counter"), [(4, "UdpInCsumErrors"), (6, "Udp6InCsumErrors")])
def test_udp_is_lost_when_the_receiver_counts_it_as_damaged(version: int, counter: str) -> None:
    answer = udp(Job(None, "listening\n"), [zero(**{counter: 1})], version)
    assert (answer.works, answer.text) == (False, f"lost: vm2 counted 1 {counter}")


def test_the_other_versions_counter_does_not_speak_for_this_one() -> None:
    answer = udp(Job(None, "listening\n"), [zero(Udp6InCsumErrors=1)])
    assert answer.works is None


def test_udp_without_a_receiver_cannot_be_told() -> None:
    answer = udp(Job(2, errors="bind: Address in use\n"), [])
    assert answer.works is None
    assert "Address in use" in answer.text


def test_a_receiver_that_gives_up_leaves_it_open() -> None:
    answer = udp(Job(1, "listening\n"), [])
    assert answer == Answer(None, "neither received nor counted as an error")


@pytest.mark.parametrize(
    ("status", "errors", "works"),
    [
        (127, "sh: perl: not found\n", None),
        (126, "sh: perl: Permission denied\n", None),
        (255, "send: Network is unreachable at -e line 7.\n", False),
        (255, "socket: Address family not supported by protocol at -e line 4.\n", None),
        (2, "", None),
    ],
)
def test_a_datagram_that_was_not_sent_fails_only_where_there_is_no_way(
    status: int, errors: str, works: bool | None
) -> None:
    answer = udp(Job(None, "listening\n"), [], sent=Result((), status, "", errors))
    assert answer.works is works
    assert "vm1 did not" in answer.text


@pytest.mark.parametrize("code", [probes._RECEIVER, probes._SENDER])
def test_the_guests_programs_are_whole(code: str) -> None:
    done = subprocess.run(["perl", "-ce", code], capture_output=True, text=True, check=False)
    assert "syntax OK" in done.stderr


# --- the story's table --------------------------------------------------------------------------


def test_a_table_without_columns_is_empty() -> None:
    assert table({}) == []
