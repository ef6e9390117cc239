"""A recorded run made by hand: a packet that loses its flag in a router, and one that keeps it."""

from __future__ import annotations

import ipaddress
import json
import struct
from collections.abc import Sequence
from pathlib import Path

from labctl.capture import pcapng
from labctl.capture.session import HopEvidence, judged
from labctl.kinds.observers.stream import Header, Record, Stream, Trailer
from labctl.packet.virtio import VnetHeader
from labctl.results import ArmResult, Check, Environment, Recorder, Run, Verdict
from labctl.results.model import Offloads
from labctl.results.recorder import TOPOLOGY, capture_name
from labctl.topology import find, load, loads, serialize
from labctl.topology.graph import find_path

BEGIN = 1_700_000_000_000_000_000
HOPS = (
    "vm1:eth0", "vm1-eth0", "r1-eth0", "r1:eth0", "r1:eth1", "r1-eth1", "vm2-eth0", "vm2:eth0",
)  # fmt: skip
FLAG, LOST, VALID = "flag", "lost", "valid"
ENDS = {4: ("10.0.1.1", "10.0.2.2"), 6: ("fd00:1::1", "fd00:2::2")}


def ones_sum(data: bytes) -> int:
    words: tuple[int, ...] = struct.unpack(f">{len(data) // 2}H", data)
    return sum(words) % 0xFFFF


def syn(state: str, version: int = 4, ttl: int = 64) -> bytes:
    """A SYN with a checksum that is finished or not."""
    ends = b"".join(ipaddress.ip_address(end).packed for end in ENDS[version])
    segment = struct.pack(">HHIIBBHHH", 40000, 22, 100, 0, 5 << 4, 2, 1000, 0, 0)
    pseudo = (ones_sum(ends) + 6 + len(segment)) % 0xFFFF
    full = 0xFFFF - (pseudo + ones_sum(segment)) % 0xFFFF
    value = full if state == VALID else pseudo
    segment = segment[:16] + value.to_bytes(2, "big") + segment[18:]
    macs = bytes([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, ttl & 0xFF])
    if version == 6:
        head = struct.pack(">IHBB", 6 << 28, len(segment), 6, ttl) + ends
        return macs + b"\x86\xdd" + head + segment
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 7, 0, ttl, 6, 0) + ends
    head = head[:10] + (0xFFFF - ones_sum(head)).to_bytes(2, "big") + head[12:]
    return macs + b"\x08\0" + head + segment


def seen(
    states: Sequence[str | None], version: int = 4, cut: str = "", path: Sequence[str] = HOPS
) -> list[HopEvidence]:
    """What every hop saw of one SYN; None is a hop that did not see it, `cut` one that died."""
    found = []
    ttl, before = 64, ""
    for number, (name, state) in enumerate(zip(path, states, strict=True)):
        ttl -= ":" in before and ":" in name  # from one interface of a router to the other
        before = name
        records: tuple[Record, ...] = ()
        if state is not None:
            frame = syn(state, version, ttl)
            vnet = VnetHeader(1 if state == FLAG else 0, 0, 0, 0, 0, 0)
            time_ns, pkttype = BEGIN + number * 10_000, 4 if number == 0 else 0
            records = (Record(time_ns, pkttype, 1, 0, len(frame), vnet, frame),)
        header = Header(name, name, 1, 1500, 1 << 18, BEGIN, "6.1", "python")
        ended = BEGIN + 60_000_000_000
        trailer = None if name == cut else Trailer(len(records), 0, len(records), 0, ended)
        stream = Stream(header, records, trailer, "it ends within a block" if name == cut else "")
        found.append(judged(name, stream, stream.note, BEGIN))
    return found


WAYS: dict[str, Sequence[str | None]] = {
    "namespace": [FLAG] * 8,
    "raw": [FLAG] * 4 + [LOST] * 4,
    "raw-vnet": [FLAG] * 8,
    "raw tx-off": [VALID] * 8,
}


XEN: dict[str, dict[str, Sequence[str | None]]] = {
    "xen-bridged.yaml": {"defaults": [FLAG] * 4},
    "xen-router-hop.yaml": {
        "namespace": [FLAG] * 8,
        "raw": [FLAG] * 4 + [LOST] * 4,
        "raw-vnet": [FLAG] * 8,
    },
    "xen-uplink.yaml": {"virtio": [FLAG] * 6, "e1000": [FLAG] * 3 + [VALID] * 3},
    "xen-to-virtio.yaml": {
        "namespace": [FLAG] * 10,
        "raw": [FLAG] * 6 + [LOST] * 4,
        "e1000": [FLAG] * 3 + [VALID] * 7,
    },
}
"""By topology: the ways of a packet from its first to its last guest."""


def arm(name: str, works: bool, description: str = "") -> ArmResult:
    """An arm in which SSH did as it should, by what was expected."""
    word = "works" if works else "hangs"
    observed = word if works else "hangs: vm2 counted 2 TCP checksum errors"
    off = name.startswith("raw tx-off")
    offloads = {"vm1/eth0": {"guest": {"tx-checksumming": not off, "tx-lockless": False}}}
    checks = [Check("ssh", Verdict.PASS, word, observed, ("vm2:eth0: evidence",))]
    return ArmResult.judge(name, description or f"what {name} is", checks, offloads=offloads)


def record(root: Path, *, versions: Sequence[int] = (4, 6), topology: bool = True) -> Path:
    """Record a run with the arms of `WAYS`; return its directory."""
    with Recorder.create("router-hop", root) as recorder:
        arms = []
        for version in versions:
            for way, states in WAYS.items():
                name = f"{way}/ipv{version}"
                arms.append(arm(name, works=LOST not in states))
                pcapng.write(recorder.captures / capture_name(name), seen(states, version))
        if topology:
            data = serialize.to_json(load(find("router-hop.yaml")))
            (recorder.path / TOPOLOGY).write_text(json.dumps(data))
        recorder.finish(classify(recorder, arms))
    return recorder.path


def xen_record(root: Path, name: str) -> Path:
    """Record a run on a topology with a Xen host, with the arms of `XEN`; return its directory."""
    topology = load(find(name))
    guests = [node.name for node in topology.nodes.values() if not node.hypervisor]
    path = find_path(topology, guests[0], guests[-1]).points
    layers = {"guest": {"tx-checksumming": True}, "tap": {"tx-checksumming": True}, "device": {}}
    offloads = {"vm1/eth0": layers, "xen1/eth0": layers}
    with Recorder.create(topology.name, root) as recorder:
        arms = []
        for way, states in XEN[name].items():
            for version in (4, 6):
                label = f"{way}/ipv{version}"
                arms.append(arm(label, works=LOST not in states))
                sights = seen(states, version, path=[hop.name for hop in path])
                pcapng.write(recorder.captures / capture_name(label), sights)
        (recorder.path / TOPOLOGY).write_text(json.dumps(serialize.to_json(topology)))
        recorder.finish(classify(recorder, arms, offloads=offloads))
    return recorder.path


def chain(names: Sequence[str], routers: int, labels: str = "") -> str:
    """A topology of two nodes of these names and routers between them, as YAML."""
    marked = f", labels: {{use: '{labels}'}}" if labels else ""
    text = "networks:\n"
    for number in range(routers + 1):
        text += f"  office-lan-{number + 1:04}: {{subnets: [10.0.{number}.0/24]{marked}}}\n"
    text += "nodes:\n"
    for name, number in zip(names, (0, routers), strict=True):
        address = f"10.0.{number}.{names.index(name) + 1}/24"
        port = f"{{network: office-lan-{number + 1:04}, addresses: [{address}]}}"
        text += f"  {name}: {{interfaces: [{port}]{marked}}}\n"
    text += "routers:\n"
    for number in range(routers):
        ports = ", ".join(
            f"{{network: office-lan-{one + 1:04}, addresses: [10.0.{one}.{200 + number}/24]}}"
            for one in (number, number + 1)
        )
        text += f"  {names[0]}-gw{number + 1}: {{kind: raw, interfaces: [{ports}]{marked}}}\n"
    return text


def chain_record(
    root: Path, names: Sequence[str], routers: int, labels: str = "", arm_name: str = "copies"
) -> Path:
    """Record a failing run on a chain, whose first router loses the metadata."""
    topology = loads(chain(names, routers, labels), "chain")
    path = find_path(topology, *names).points
    lost = next(at for at, hop in enumerate(path) if hop.name.endswith("gw1:eth1"))
    check = Check("ssh", Verdict.FAIL, "works", "hangs", ("evidence",), hop=path[-1].name)
    kinds = dict.fromkeys(topology.routers, "raw-synthesised")
    with Recorder.create("own", root) as recorder:
        arms = []
        for name, at in ((arm_name, lost), (f"{arm_name} not", len(path))):
            checks = [check] if at < len(path) else [Check("ssh", Verdict.PASS, "works", "works")]
            arms.append(ArmResult.judge(name, labels or "as it is", checks, routers=kinds))
            states = [FLAG] * at + [LOST] * (len(path) - at)
            file = recorder.captures / capture_name(name)
            pcapng.write(file, seen(states, path=[hop.name for hop in path]))
        (recorder.path / TOPOLOGY).write_text(json.dumps(serialize.to_json(topology)))
        recorder.finish(classify(recorder, arms))
    return recorder.path


def classify(
    recorder: Recorder,
    arms: Sequence[ArmResult],
    offloads: Offloads | None = None,
    **rest: object,
) -> Run:
    """The run of a recorder's."""
    environment = Environment(
        qemu="7.2",
        guest_kernels={"vm1": "6.1.0", "vm2": "6.1.0"},
        offloads=offloads
        or {"vm1/eth0": {"guest": {"tx-checksumming": True, "tx-lockless": False}}},
    )
    return Run.judge(
        recorder.id,
        recorder.experiment,
        "SSH hangs behind a router that loses the flag.",
        arms,
        environment=environment,
        started=recorder.started,
        timings={"up": 4.5},
        command=f"labctl experiment {recorder.experiment}",
        **rest,  # type: ignore[arg-type]
    )
