"""A program of bpf(2) at tc's hook translates one address; the kernel forwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address
from typing import ClassVar

from labctl.kinds.base import Effect, KernelPart, Remedy, RunningRouter
from labctl.kinds.forwarders.namespace import Namespace


@dataclass(frozen=True)
class TranslationOptions:
    """Which address is hidden behind which."""

    inside: str = field(default="10.0.1.1", metadata={"help": "The IPv4 address that is hidden."})
    outside: str = field(
        default="192.0.2.1",
        metadata={"help": "What it is hidden behind: an address that others route to the router."},
    )

    def __post_init__(self) -> None:
        """Refuse what is no IPv4 address."""
        for text in (self.inside, self.outside):
            try:
                IPv4Address(text)
            except AddressValueError:
                raise ValueError(f"{text} is no IPv4 address") from None


class BpfNat(Namespace):
    """`labctl.routers.translate`, with the sums carried along."""

    name = "bpf-nat"
    summary = "a BPF program translates an address and updates the checksum"
    effect = Effect.KEEPS
    mechanism = (
        "bpf_l4_csum_replace() with BPF_F_PSEUDO_HDR has inet_proto_csum_replace4() carry the new "
        "address into the field, which for CHECKSUM_PARTIAL is the pseudo-header's sum"
    )
    options = TranslationOptions
    requires = (KernelPart("bpf", "tc", "tcx (Linux 6.6)"),)
    remedies: ClassVar[Sequence[Remedy]] = (
        Remedy(Namespace.name, "addresses are no longer translated"),
    )
    words: ClassVar[tuple[str, ...]] = ()

    def start(self, router: RunningRouter) -> None:
        """Let the program run, then let the kernel forward."""
        told = self.told(router)
        router.start_program(
            "labctl.routers.translate", "--inside", told.inside, "--outside", told.outside,
            *self.words,
        )  # fmt: skip
        super().start(router)
