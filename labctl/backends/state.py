"""What is known of a lab from before its first thing is made until its last one is gone."""

from __future__ import annotations

from dataclasses import dataclass, field

from labctl.guests.keys import Key
from labctl.guests.spec import Accel
from labctl.images import Image
from labctl.images.disk_cache import Disk
from labctl.topology.model import Topology


@dataclass(frozen=True)
class State:
    """Everything a later labctl process needs to work with a lab."""

    name: str
    topology: Topology
    accel: Accel
    images: dict[str, Image]
    """The image of each node but those that boot a disk image."""
    client: Key
    """The control key: it lets labctl into every guest, over the management network. No guest has
    its private half."""
    hostkeys: dict[str, Key]
    """The host key of each node."""
    uri: str
    """The libvirt that runs the guests; empty for the one embedded in labctl."""
    started: str
    """ISO 8601, UTC."""
    complete: bool
    """Whether everything came up; a lab that is coming up is not complete yet."""
    clients: dict[str, Key] = field(default_factory=dict)
    """The key of each node, by which it may log in to the others over the network under test."""
    cold: bool = False
    """Whether every guest is to boot, though some could be clones."""
    starts: dict[str, str] = field(default_factory=dict)
    """How each guest was started: `booted` or `cloned`."""
    disks: dict[str, Disk] = field(default_factory=dict)
    """The disk image of each node that boots one, in the cache."""
    changing: bool = False
    """Whether it is becoming one of another topology."""
    off: list[str] = field(default_factory=list)
    """The nodes that were stopped by choice, and not started again."""
    links_down: list[str] = field(default_factory=list)
    """The interfaces whose links were taken down by choice, as `NODE:INTERFACE`."""
