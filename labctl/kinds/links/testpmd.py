"""DPDK's testpmd as a wire, on packet sockets or on TAPs of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from labctl.kinds.base import (
    Effect,
    LinkKind,
    LinkPlan,
    LinkProgram,
    NewLink,
    Option,
    Passing,
    Tool,
)


@dataclass(frozen=True)
class TestpmdOptions:
    """What it is told."""

    __test__ = False  # no class of tests
    driver: Literal["af_packet", "tap"] = field(
        default="af_packet",
        metadata={"help": "The poll-mode driver: net_af_packet on veth pairs, or net_tap."},
    )


class Testpmd(LinkKind[TestpmdOptions]):
    """Two ports that dpdk-testpmd joins (`--forward-mode=io`), without huge pages."""

    __test__ = False
    name = "testpmd"
    summary = "DPDK's testpmd between two ports (af_packet or TAP)"
    effect = Effect.LOSES
    mechanism = (
        "eth_af_packet_rx() copies a frame out of the ring and does not look at "
        "TP_STATUS_CSUMNOTREADY; net_tap opens its TAP without TUN_F_CSUM, so "
        "validate_xmit_skb() has the sum finished (DPDK, drivers/net)"
    )
    options = TestpmdOptions
    joins = True
    requires = (Tool("dpdk-testpmd", "dpdk-dev"),)

    def effect_on(self, passing: Passing) -> Effect:
        """Return what becomes of a packet: a TAP's kernel finishes its sum."""
        return Effect.COMPLETES if passing.options.get("driver") == "tap" else Effect.LOSES

    def takes_unfinished(self, options: Mapping[str, Option]) -> bool:
        """Tell whether its ends are veths; a TAP without virtio header takes nothing unfinished."""
        return options.get("driver") != "tap"

    def plan(self, base: str, options: TestpmdOptions) -> LinkPlan:
        """Return two ports, and the program between them."""
        one, before, after, other = (f"{base}-{end}" for end in ("a", "p", "q", "b"))
        points: tuple[str, ...]
        ends = (one, other)
        if options.driver == "tap":
            inner, points = ends, ends
            settings: dict[str, Option] = {"mode": "tap", "multi_queue": True}
            links = tuple(NewLink(name, "tuntap", settings=settings) for name in ends)
        else:
            inner, points = (before, after), (one, before, after, other)
            links = (NewLink(one, "veth", peer=before), NewLink(after, "veth", peer=other))
        # What bypasses the queueing discipline no observer sees go out (packet_direct_xmit()).
        more = "" if options.driver == "tap" else ",qdisc_bypass=0"
        ports = [
            word
            for number, name in enumerate(inner)
            for word in ("--vdev", f"net_{options.driver}{number},iface={name}{more}")
        ]
        words = (
            "--no-huge", "-m", "128", "--no-pci", "--no-telemetry", "--no-shconf", *ports,
            "--", "--forward-mode=io", "--total-num-mbufs=4096", "--no-mlockall",
            "--stats-period=3600",
        )  # fmt: skip
        program = LinkProgram(
            f"{base}-pmd", "stdbuf", ("-oL", "dpdk-testpmd", *words), ready="nb forwarding ports=2",
            environment={"RUNTIME_DIRECTORY": "."},
        )  # fmt: skip
        return LinkPlan(links, ends=ends, points=points, programs=(program,))
