"""What a kind is, and what it may do: the part that others write against (docs/kinds.md).

Standard library only: this is imported by every command, and in a dom0 too.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

Option = bool | int | float | str
"""What an option of a kind may be in a topology."""


class Effect(Enum):
    """What an element does to an unfinished checksum that passes it."""

    KEEPS = "keeps"
    """It goes on unfinished, and the metadata that says so goes with it."""
    LOSES = "loses"
    """It goes on unfinished, and nothing tells of that any more."""
    COMPLETES = "completes"
    """It is finished, so that it is valid from here on."""
    VERIFIES = "verifies"
    """It is taken for finished, and what is not right is dropped."""


@dataclass(frozen=True)
class Passing:
    """A packet that passes an element, as far as what becomes of it may hang on that."""

    protocol: str
    """Of its transport header: `tcp`, `udp`, `icmp`."""
    version: int
    """Of IP: 4 or 6."""
    entry: str = ""
    """The element's own interface by which it comes; empty where it begins there."""
    exit: str = ""
    """That by which it goes; empty where it ends there."""
    gso: bool = False
    """Whether it is a super-frame: longer than the MTU, to be cut later."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """What the topology says to the element's kind; what it leaves open is not in it."""


@dataclass(frozen=True)
class Tool:
    """A program that a kind needs on the machine that runs labs."""

    program: str
    package: str
    """The Debian package that has it."""


@dataclass(frozen=True)
class KernelPart:
    """A part that the kernel of the machine that runs labs must have, found by trying it."""

    sort: Literal["link", "tc action", "qdisc", "nftables", "bpf", "socket", "netlink family"]
    """What sort of part: a type of link (rtnetlink(7)), an action or a queueing discipline of
    tc(8), the expressions of a packet filter, a kind of program of bpf(2), a family of sockets or
    of generic netlink."""
    name: str
    """Its name there: `vxlan`, `csum`, `masq`, `xdp`, `AF_XDP`, `ovs_datapath`."""
    module: str
    """The kernel module that has it, for the hint."""


Requirement = Tool | KernelPart
"""What the machine that runs labs must have."""


@dataclass(frozen=True)
class Remedy:
    """Another kind that keeps checksums right where this one does not."""

    kind: str
    cost: str

    def how(self, router: str, key: str = "kind") -> str:
        """Return the setting that does it for good, by the `key` that a router has it under."""
        return f"{key}: {self.kind} (router {router} in the topology)"


@dataclass(frozen=True)
class NoOptions:
    """Of a kind that has no options."""


class Kind(ABC):
    """Something that a topology can name."""

    what: ClassVar[str]
    """What it is a kind of, such as `forwarder`."""
    name: ClassVar[str]
    """The word in YAML."""
    summary: ClassVar[str]
    """One line without its full stop: for `labctl kinds`, the schema and the docs' table."""
    effect: ClassVar[Effect]
    """What it does to an unfinished checksum; where packets fare differently, the worst of it."""
    options: ClassVar[type[Any]] = NoOptions
    """What `options:` in a topology may say: a frozen dataclass whose fields are `Option`s or a
    `Literal` of some, each with a default where it can be left out. Texts under the fields are
    shown by editors."""
    mechanism: ClassVar[str] = ""
    """One line on why it has that effect: the kernel's function, or the specification's section."""
    requires: ClassVar[Sequence[Requirement]] = ()
    """What must be there; nothing is started where it is not."""

    def effect_on(self, passing: Passing) -> Effect:  # noqa: ARG002
        """Return the effect on one kind of packet: `effect`, unless a kind knows better."""
        return self.effect

    def needs(self, options: Mapping[str, Option]) -> Sequence[Requirement]:  # noqa: ARG002
        """Return what must be there where a topology says this to it: `requires`, or more."""
        return self.requires

    @property
    def explanation(self) -> str:
        """Markdown, from the file of the same name beside the kind's module, or its docstring."""
        file = sys.modules[type(self).__module__].__file__
        page = Path(file).with_suffix(".md") if file else None
        if page and page.is_file():
            return page.read_text(encoding="utf-8")
        own = vars(type(self)).get("__doc__")
        return f"{inspect.cleandoc(own)}\n" if own else ""


class RunningRouter(Protocol):
    """What a kind has of a router of a running lab: a network namespace with its interfaces.

    What it turns on by `set_kernel_forwarding` and `start_program` ends without the kind's help.
    All of these raise `LabctlError` for what does not work.
    """

    name: str
    """The router's name, which is its network namespace's too."""

    @property
    def options(self) -> Mapping[str, Option]:
        """What its kind was told; `ForwarderKind.told` makes the kind's own object of it."""

    def run(self, argv: Sequence[str]) -> object:
        """Run a program in the namespace and wait for it."""

    def set_kernel_forwarding(self, on: bool) -> None:
        """Let the namespace's kernel forward IPv4 and IPv6, or not; it does not at first."""

    def kernel_forwards(self) -> bool:
        """Tell whether it does."""

    def set_outer_feature(self, feature: str, on: bool) -> None:
        """Turn a feature (ethtool(8)) of the links' ends at the bridges on, or off."""

    def kernel_counters(self) -> dict[str, int]:
        """Return the counters of the namespace's kernel, such as `IpOutNoRoutes`."""

    def start_program(self, program: str | Path, *options: str) -> None:
        """Start Python as `python -m PROGRAM --netns NAME OPTIONS… INTERFACES…`.

        A path is that of a Python file, started without `-m`. The program writes a line with
        `ready` when it forwards, on SIGUSR1 a line of JSON with `counters`, and ends with SIGTERM.
        """

    def program_counters(self) -> dict[str, int]:
        """Return the counters that the program tells."""


class ForwarderKind(Kind):
    """What a router does between its networks."""

    what = "forwarder"
    counters: ClassVar[Mapping[str, str]]
    """The counters that grow where it drops a packet, each with the reason for which it does, as in
    `dropped at … because …`; those that tell most come first."""
    remedies: ClassVar[Sequence[Remedy]] = ()
    """What it offers where a checksum's metadata was lost in it; the best comes first."""
    sees_inside: ClassVar[bool] = True
    """Whether packet sockets in the router's namespace see what it forwards."""
    only_in_guests: ClassVar[bool] = False
    """Whether it is for nodes that are routers alone, not for namespaces of the lab's."""
    in_guests: ClassVar[bool] = False
    """Whether a node that is a router can have it too: it needs nothing of the host's ends of the
    interfaces, and no program but Python with modules of labctl's."""

    def told(self, router: RunningRouter) -> Any:
        """Return what the topology says to this kind, as an object of `options`."""
        return self.options(**router.options)

    @abstractmethod
    def start(self, router: RunningRouter) -> None:
        """Let the router forward; when this returns it does. Nothing forwards before."""

    def stop(self, router: RunningRouter) -> None:
        """Undo what `start` did besides kernel forwarding and a program, which end by themselves.

        It may be called twice, or after a `start` that failed.
        """

    def forwards(self, router: RunningRouter) -> bool:  # noqa: ARG002
        """Tell whether it still forwards; asked only while its program, if it has one, runs."""
        return True

    @abstractmethod
    def count(self, router: RunningRouter) -> dict[str, int]:
        """Return its counters now, those of `counters` among them."""


O = TypeVar("O")  # noqa: E741 - of options


@dataclass(frozen=True)
class NewLink:
    """A link that a link kind wants, as `ip link add NAME type TYPE` would make it.

    It gets the network's MTU, no IPv6 address of its own, and is set up.
    """

    name: str
    type: str
    """As rtnetlink calls it: `bridge`, `veth`, `vxlan`, `dummy` …"""
    peer: str = ""
    """The other end of a veth pair."""
    master: str = ""
    """The bridge, among the links of the same plan, that it is a port of."""
    peer_master: str = ""
    """The same for the other end."""
    settings: Mapping[str, Option] = field(default_factory=dict)
    """What else pyroute2's `link("add", …)` takes, such as `vxlan_id`; of a TAP `multi_queue`."""
    lower: str = ""
    """The link of the same plan that it is on, as a macvlan is on a veth."""
    netns: str = ""
    """A network namespace of the plan's own that it is in; its name begins as the links' do."""
    peer_netns: str = ""
    """The same for the other end."""
    address: str = ""
    """An address of the link with its prefix length, which only one in a `netns` may have."""
    peer_address: str = ""
    headroom: int = 0
    """By how many octets its MTU is larger than the network's: for what carries encapsulated
    frames."""

    @property
    def names(self) -> tuple[str, ...]:
        """The link's name, and that of its other end."""
        return (self.name, self.peer) if self.peer else (self.name,)


@dataclass(frozen=True)
class Redirect:
    """That whatever comes in by a link goes out by another one, by tc(8): clsact, u32, mirred.

    It is set up once all links of the lab are there, and goes with the link.
    """

    link: str
    to: str
    """Another link of the same plan, or the link itself."""
    completes: bool = False
    """Whether `action csum` comes before it, for IPv4's header, TCP, UDP and ICMP."""


@dataclass(frozen=True)
class LinkProgram:
    """A program without which the links carry nothing, such as a switch in user space.

    It is started when all links of the lab are there and up, before anything uses them, in the
    namespaces of the lab, or a network namespace of the plan, and is killed with the lab. It sees
    programs and libraries, can write to the folder alone that it is started in, which the segment's
    programs share, and has the rights to open packet sockets and TAPs (CAP_NET_RAW, CAP_NET_ADMIN).
    It must not go into the background: when the process that was started has ended, it is dead, and
    whatever the lab shows then is an error.
    """

    name: str
    """What `labctl status` calls it; it begins as the names of the links do."""
    program: str
    """Its name on the PATH; with `is_python` the module that Python is to run (`python -m`)."""
    options: tuple[str, ...] = ()
    ready: str = "ready"
    """What it writes to its standard output, or standard error, once it carries frames."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it gets beside PATH, HOME and a locale."""
    reads: tuple[str, ...] = ()
    """Files and folders beside /usr that it is to see, where it is no module of Python's."""
    is_python: bool = False
    netns: str = ""
    """A network namespace of the plan's own that it runs in; empty for the lab's."""


@dataclass(frozen=True)
class LinkPlan:
    """What one segment is made of: plain data, so that whoever has a record needs no kind."""

    links: tuple[NewLink, ...]
    """In the order in which they are made; they are taken away the other way round."""
    bridge: str = ""
    """The link whose ports interfaces and wires become; empty for a wire."""
    ends: tuple[str, ...] = ()
    """Of a wire: the two links that become ports of the segments before and after it."""
    points: tuple[str, ...] = ()
    """Links where a packet can be seen that crosses from the first end to the other, in order; the
    ports of whatever is plugged in are seen without being named here."""
    programs: tuple[LinkProgram, ...] = ()
    """What must run for frames to pass; each is started when the one before it is ready."""
    redirects: tuple[Redirect, ...] = ()
    patch: Literal["", "mirred", "csum"] = ""
    """Of a segment into which two nodes or wires are plugged, and nothing else: that whatever comes
    in by one goes out by the other, by tc(8)'s mirred, with `csum` before it if wanted. The bridge
    only holds them; no frame comes as far."""

    def places(self) -> dict[str, str]:
        """Return by link its network namespace, empty for the lab's own; a pair's ends together."""
        ends = (((one.name, one.netns), (one.peer, one.peer_netns)) for one in self.links)
        return {name: place for both in ends for name, place in both if name}


class LinkKind(Kind, Generic[O]):
    """A segment of a network: something to plug interfaces into, or a wire between two such."""

    what = "link"
    joins: ClassVar[bool] = False
    """Whether it is a wire: its plan has two ends, and nothing else is plugged into it."""

    def takes_unfinished(self, options: Mapping[str, Option]) -> bool:  # noqa: ARG002
        """Tell whether a wire's ends take unfinished checksums where a topology says this to it.

        A TAP without virtio header does not: the kernel finishes what it sends there, before an
        observer of the TAP sees it (validate_xmit_skb(), then dev_queue_xmit_nit()).
        """
        return True

    @abstractmethod
    def plan(self, base: str, options: O) -> LinkPlan:
        """Return what a segment is made of; it makes nothing.

        `base` is a link name of its own for this segment, of at most `MOST_BASE` characters but for
        the kind `bridge`: every link is called so, or begins so. `options` is what the topology
        says.
        """


MOST_BASE = 11
"""Characters of a segment's name for its links: four are left for the kind to tell them apart."""


class Context(Enum):
    """Whose kernel an observer looks into."""

    LAB = "the lab's own kernel"
    GUEST = "a guest"
    DOM0 = "the dom0 of a Xen host"


@dataclass(frozen=True)
class Look:
    """Where an observer is to look, and for what."""

    hop: str
    """What its evidence is to call this place; no other look there has the name."""
    links: tuple[str, ...] = ()
    """The links to look at; none where it looks into a kernel as a whole."""
    netns: str = ""
    """The named network namespace that the links are in; empty for the kernel's own."""
    snap: int = 0
    """Bytes to keep of each frame, where it keeps frames."""
    context: Context = Context.LAB
    program: str = ""
    """What of several programs is to look, where the guest has not all of them: perl, python3 or
    tcpdump; empty for the observer's usual one."""
    only: tuple[str, ...] = ()
    """What alone it is to tell of, by the observer's own names; empty for everything."""

    @property
    def link(self) -> str:
        """The link, for an observer that looks at one at a time."""
        (link,) = self.links
        return link


E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)


class Reader(Protocol[E_co]):
    """Reads what an observer writes, as it comes."""

    def feed(self, data: bytes) -> None:
        """Take in what came next; raises `LabctlError` for what the observer never writes."""

    @property
    def ready(self) -> bool:
        """Whether it has begun: nothing that comes from now on is missed."""

    @property
    def why_not(self) -> str:
        """Why it cannot run there, as it said itself; empty while it has not said so."""

    def evidence(self) -> E_co:
        """Return what it saw, as far as it came, with what says how far that can be trusted."""


class ObserverKind(Kind, Generic[E]):
    """Something that sees packets pass, or what becomes of them; `E` is its evidence.

    Most are a program that goes on until its standard input ends, and writes what it sees. One that
    is no program but something that a kernel does is started, asked and ended by a command each
    (`ask`, `stop`). A program of other packages that sees frames at a link is a `FrameObserver`
    (`labctl.kinds.observers.frames`), whose evidence all of labctl knows.
    """

    what = "observer"
    effect = Effect.KEEPS
    looks_into: ClassVar[Collection[Context]] = (Context.LAB,)
    """The kernels that it can look into."""

    def can_run(self, look: Look) -> str:
        """Say why it cannot look there, empty where it can: as far as this machine can tell.

        What a guest or a dom0 lacks only `Reader.why_not` tells, once it was started there.
        """
        if look.context in self.looks_into:
            return ""
        into = " or ".join(one.value for one in self.looks_into)
        return f"it looks into {into}, not into {look.context.value}"

    @abstractmethod
    def start(self, look: Look) -> Sequence[str]:
        """Return the words that start it: of a program of this machine, or of a guest or dom0."""

    def ask(self, look: Look) -> Sequence[str]:  # noqa: ARG002
        """Return the words that print what was seen so far; none where `start` writes it."""
        return ()

    def stop(self, look: Look) -> Sequence[str]:  # noqa: ARG002
        """Return the words that end it, if it was started; none where it ends with its input."""
        return ()

    @abstractmethod
    def reader(self) -> Reader[E]:
        """Return what reads the output of `start`, and of `ask`, from its beginning."""
