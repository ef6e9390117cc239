"""The scalars of a topology file: how each is read, what is refused, and its JSON Schema."""

from __future__ import annotations

import os
import re
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, ConfigDict, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from labctl.errors import UsageError, nearest, shown
from labctl.kinds import registry
from labctl.kinds.guests.base import LEAST_MEMORY
from labctl.topology.features import DEVICE_FEATURES, FEATURES
from labctl.topology.ranges import NAMES

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)
"""How every part of a topology file is read."""
MIN_MEMORY = LEAST_MEMORY
MAX_MEMORY = 1 << 20
MIN_MTU = 68
"""Octets (RFC 791: every link must carry a datagram of 68)."""
MIN_IPV6_MTU = 1280
"""Octets (RFC 8200, section 5)."""
MAX_MTU = 65535
MAX_LABELS = 16
MAX_LABEL_KEY = 32
MAX_LABEL = 64
"""Characters of a label's text: it must fit into a drawing."""
MAX_SEGMENT = 15
"""Characters of a segment's name within its network."""
LINK_NAME = 15
"""Octets a Linux link's name may have (IFNAMSIZ with its terminating zero is 16)."""

_MEMORY = re.compile(r"([0-9]{1,9})\s*(M|MB|MiB|G|GB|GiB)?", re.IGNORECASE)
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_LINK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RESERVED_LINKS = {
    "mgmt": "labctl's own management bridge has this name",
    "lo": "Linux's loopback device has this name",
    # /proc/sys/net/ipv4/conf has folders of these names beside those of the devices
    "all": "the kernel uses this name for all devices together",
    "default": "the kernel uses this name for devices to come",
}


def refuse(message: str, hint: str = "") -> NoReturn:
    """End the reading of one value: `message` says what is wrong with it."""
    # Braces would be taken for a template; pydantic fills these two in verbatim.
    raise PydanticCustomError("labctl", "{message}", {"message": message, "hint": hint})


def _text(value: object, what: str, example: str) -> str:
    if isinstance(value, bool | int | float):
        written = shown(value)  # on or off of a boolean, and of an endless number its beginning
        refuse(f"{what} must be text, not {written}", f"put it in quotes: '{written}'")
    if not isinstance(value, str):
        refuse(f"{what} must be text such as {example}, not {_kind(value)}")
    return value


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else shown(value)


def _whole(value: object, what: str, low: int, high: int, unit: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(f"{what} must be a whole number, not {_kind(value)}")
    if not low <= value <= high:
        refuse(f"{what} must be {low} to {high}{unit}, not {shown(value)}")
    return value


def _mtu(value: object) -> int:
    return _whole(value, "mtu", MIN_MTU, MAX_MTU)


def _vcpus(value: object) -> int:
    return _whole(value, "vcpus", 1, 255)


def _memory(value: object) -> int:
    if isinstance(value, str):
        found = _MEMORY.fullmatch(value.strip())
        if not found:
            refuse(f"memory {shown(value)} is not an amount", "write MiB, or such as 256M or 1G")
        gib = (found[2] or "m").lower().startswith("g")
        value = int(found[1]) * (1024 if gib else 1)
    return _whole(value, "memory", MIN_MEMORY, MAX_MEMORY, " MiB")


def _mac(value: object) -> str:
    mac = _text(value, "mac", "52:54:00:00:00:01").lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        hint = "write six pairs of hexadecimal digits, such as 52:54:00:00:00:01"
        refuse(f"{shown(value)} is not a MAC address", hint)
    if int(mac[:2], 16) & 1:
        hint = "the first pair must be even, such as 52"
        refuse(f"{mac} is a multicast address; a NIC needs its own", hint)
    if mac == "00:00:00:00:00:00":
        refuse(f"{mac} belongs to no NIC", "leave mac out: labctl makes one")
    return mac


def _unscoped(text: str) -> str:
    if "%" in text:
        refuse(f"{shown(text)} names an interface", "leave out the % and what follows")
    return text


def _address(value: object) -> IPv4Interface | IPv6Interface:
    if isinstance(value, IPv4Interface | IPv6Interface):
        value = str(value)
    text = _unscoped(_text(value, "an address", "10.0.1.1/24"))
    try:
        address = ip_interface(text)
    except ValueError:
        hint = "write such as 10.0.1.1/24 or fd00:1::1/64"
        refuse(f"{shown(text)} is not an address with its prefix length", hint)
    if "/" not in text:
        example = f"{text}/{24 if address.version == 4 else 64}"
        refuse(f"the address {text} has no prefix length", f"write such as {example}")
    _no_mask(text, str(address))
    _host_address(address.ip, text)
    return address


def _no_mask(text: str, meant: str) -> None:
    """Refuse what `ipaddress` takes behind the slash besides a prefix length."""
    length = text.partition("/")[2]
    if length and not length.isdecimal():
        refuse(f"{shown(text)} has a netmask, not a prefix length", f"write {meant}")


def _host_address(ip: IPv4Address | IPv6Address, text: str) -> None:
    for kind in ("multicast", "unspecified", "loopback"):
        if getattr(ip, f"is_{kind}"):
            refuse(f"{text} is the {kind} kind of address; an interface cannot have it")


def _subnet(value: object) -> IPv4Network | IPv6Network:
    if isinstance(value, IPv4Network | IPv6Network):
        value = str(value)
    text = _unscoped(_text(value, "a subnet", "10.0.1.0/24"))
    network = _network(text)
    if "/" not in text:
        example = network.supernet(new_prefix=24 if network.version == 4 else 64)
        refuse(f"the subnet {text} has no prefix length", f"write such as {example}")
    return network


def _network(text: str) -> IPv4Network | IPv6Network:
    """Return a network; without a prefix length it is that of one address."""
    try:
        loose = ip_network(text, strict=False)
    except ValueError:
        hint = "write such as 10.0.1.0/24 or fd00:1::/64"
        refuse(f"{shown(text)} is not a subnet", hint)
    _no_mask(text, str(loose))
    try:
        return ip_network(text)
    except ValueError:
        refuse(f"the subnet {text} has host bits set", f"did you mean {loose}?")


def _target(value: object) -> str:
    """Return a route's target in canonical text: `default`, or a network."""
    if value == "default":
        return "default"
    if isinstance(value, IPv4Network | IPv6Network):
        value = str(value)
    return str(_network(_unscoped(_text(value, "a route's target", "10.0.2.0/24"))))


def _gateway(value: object) -> IPv4Address | IPv6Address:
    if isinstance(value, IPv4Address | IPv6Address):
        value = str(value)
    text = _unscoped(_text(value, "via", "10.0.1.254"))
    try:
        gateway = ip_address(text)
    except ValueError:
        bare = text.partition("/")[0]
        hint = f"write it without prefix: {bare}" if bare != text else "write such as 10.0.1.254"
        refuse(f"{shown(text)} is not an address", hint)
    _host_address(gateway, text)
    if gateway.is_link_local:
        hint = "name an address of one of the networks' subnets"
        refuse(f"the gateway {text} is link-local and does not tell its interface", hint)
    return gateway


def _switch(value: object) -> bool:
    if value in ("on", "off"):  # as text: quoted, or from YAML 1.2 where they are no booleans
        return value == "on"
    if not isinstance(value, bool):
        refuse(f"an offload is on or off, not {_kind(value)}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        refuse(f"this is true or false, not {_kind(value)}")
    return value


def _feature(name: str) -> str:
    if name not in FEATURES:
        refuse(f"there is no offload feature {shown(name)}", nearest(name, FEATURES))
    return FEATURES[name]


def _device_feature(name: str) -> str:
    if name not in DEVICE_FEATURES:
        hint = nearest(name, DEVICE_FEATURES)
        refuse(f"a virtio device has no feature {shown(name)} to turn off", hint)
    return name


def _host(name: str) -> str:
    if len(name) > 63 or not _HOST.fullmatch(name) or not re.search("[a-z]", name):
        hint = "lower-case letters, digits and hyphens inside, with a letter, at most 63"
        refuse(f"{shown(name)} cannot be a host's name", hint)
    if name == "localhost":
        refuse("'localhost' is every host's name for itself", "take another name")
    return name


def _link(name: str) -> str:
    if not _LINK.fullmatch(name):
        hint = "letters, digits, hyphens and underscores"
        refuse(f"{shown(name)} cannot be a link's name", hint)
    if len(name) > LINK_NAME:
        hint = f"it has {len(name)} characters; Linux holds {LINK_NAME} in a link's name"
        refuse(f"the network's name {shown(name)} is too long for its bridge", hint)
    if name in _RESERVED_LINKS:
        refuse(f"a network cannot be named {name}", _RESERVED_LINKS[name])
    return name


def _word(what: str, example: str, value: object) -> str:
    text = _text(value, f"the {what}'s name", example)
    if len(text) > 63 or not _NAME.fullmatch(text):
        hint = "letters, digits, '_', '-' and '.', beginning with a letter or digit, at most 63"
        refuse(f"{shown(text)} cannot be a {what}'s name", hint)
    return text


def _user_data(value: object) -> str | dict[str, Any]:
    if isinstance(value, dict):
        return value
    if not isinstance(value, str) or not value:
        refuse("user_data must be a mapping, as after #cloud-config, or the path of a file")
    return value


def image_name(value: object) -> str:
    """Return the name of an image; ends the reading of the value for anything else."""
    return _word("image", "micro", value)


def _topology_name(value: object) -> str:
    return _word("topology", "router-hop", value)


def _network_ref(value: object) -> str:
    return _text(value, "the network's name", "lan")


def _node_ref(value: object) -> str:
    return _text(value, "the Xen host's name", "xen1")


def _known_kind(group: registry.Group[Any], value: object, what: str = "kind") -> str:
    if not isinstance(value, str) or not group.is_declared(value):
        word = str(None if isinstance(value, dict | list) else value)
        refuse(f"there is no {what} {_kind(value)}", nearest(word, group.names()))
    try:
        group.get(value)
    except UsageError as wrong:
        refuse(wrong.message, wrong.hint)
    return value


def _forwarder(value: object) -> str:
    return _known_kind(registry.FORWARDERS, value)


def _link_kind(value: object) -> str:
    return _known_kind(registry.LINKS, value)


def _guest_kind(value: object) -> str:
    return _known_kind(registry.GUESTS, value)


def _nic_model(value: object) -> str:
    return _known_kind(registry.NICS, value, "model")


def _segment(name: str) -> str:
    if len(name) > MAX_SEGMENT or not _LINK.fullmatch(name):
        hint = f"letters, digits, hyphens and underscores, at most {MAX_SEGMENT}"
        refuse(f"{shown(name)} cannot be a segment's name", hint)
    return name


def _segment_ref(value: object) -> str:
    return _text(value, "the segment's name", "west")


def _file(value: object) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    text = _text(value, "a path", "./bzImage")
    if not text:
        refuse("a path cannot be empty", "leave the key out to use the image's own file")
    return text


def _label_key(name: str) -> str:
    if len(name) > MAX_LABEL_KEY or not _LABEL_KEY.fullmatch(name):
        hint = f"letters, digits, '_', '-', '.' and '/', at most {MAX_LABEL_KEY}, such as role"
        refuse(f"{shown(name)} cannot be a label's name", hint)
    return name


def _label(value: object) -> str:
    text = _text(value, "a label", "client")
    if not text.isprintable():
        refuse("a label is one line of printable text", "leave out line breaks and tabs")
    if len(text) > MAX_LABEL:
        refuse(f"a label has at most {MAX_LABEL} characters, not {len(text)}")
    return text


def _schema(**keys: Any) -> WithJsonSchema:
    return WithJsonSchema(keys)


_ON_OFF = _schema(enum=[True, False, "on", "off"])

Mtu = Annotated[
    int, PlainValidator(_mtu), _schema(type="integer", minimum=MIN_MTU, maximum=MAX_MTU)
]
Vcpus = Annotated[int, PlainValidator(_vcpus), _schema(type="integer", minimum=1, maximum=255)]
Memory = Annotated[
    int,
    PlainValidator(_memory),
    _schema(
        anyOf=[
            {"type": "integer", "minimum": MIN_MEMORY, "maximum": MAX_MEMORY},
            {"type": "string", "pattern": r"^\s*[0-9]{1,9}\s*([mMgG]([iI]?[bB])?)?\s*$"},
        ]
    ),
]
Mac = Annotated[
    str,
    PlainValidator(_mac),
    _schema(type="string", pattern="^[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}$"),
]
Address = Annotated[
    IPv4Interface | IPv6Interface,
    PlainValidator(_address),
    _schema(type="string", pattern="^[0-9a-fA-F.:]+/[0-9]{1,3}$"),
]
Subnet = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(_subnet),
    _schema(type="string", pattern="^[0-9a-fA-F.:]+/[0-9]{1,3}$"),
]
Target = Annotated[
    str,
    PlainValidator(_target),
    _schema(type="string", pattern="^(default|[0-9a-fA-F.:]+(/[0-9]{1,3})?)$"),
]
UserData = Annotated[
    str | dict[str, Any], PlainValidator(_user_data), _schema(type=["string", "object"])
]
Gateway = Annotated[
    IPv4Address | IPv6Address,
    PlainValidator(_gateway),
    _schema(type="string", pattern="^[0-9a-fA-F.:]+$"),
]
Switch = Annotated[bool, PlainValidator(_switch), _ON_OFF]
Flag = Annotated[bool, PlainValidator(_flag), _schema(type="boolean")]
Feature = Annotated[str, AfterValidator(_feature), _schema(type="string", enum=sorted(FEATURES))]
DeviceFeature = Annotated[
    str, AfterValidator(_device_feature), _schema(type="string", enum=list(DEVICE_FEATURES))
]
HostName = Annotated[
    str, AfterValidator(_host), _schema(type="string", maxLength=63, pattern=f"^{_HOST.pattern}$")
]
NodeName = Annotated[
    str,
    AfterValidator(_host),  # what a range means has taken its place by then
    _schema(type="string", maxLength=63, pattern=f"^({_HOST.pattern}|{NAMES})$"),
]
LinkName = Annotated[
    str,
    AfterValidator(_link),
    _schema(type="string", maxLength=LINK_NAME, pattern=f"^{_LINK.pattern}$"),
]
NetworkRef = Annotated[str, PlainValidator(_network_ref), _schema(type="string")]
SegmentName = Annotated[
    str,
    AfterValidator(_segment),
    _schema(type="string", maxLength=MAX_SEGMENT, pattern=f"^{_LINK.pattern}$"),
]
SegmentRef = Annotated[str, PlainValidator(_segment_ref), _schema(type="string")]
NodeRef = Annotated[str, PlainValidator(_node_ref), _schema(type="string")]
ImageName = Annotated[
    str,
    PlainValidator(image_name),
    _schema(type="string", maxLength=63, pattern=f"^{_NAME.pattern}$"),
]
TopologyName = Annotated[
    str,
    PlainValidator(_topology_name),
    _schema(type="string", maxLength=63, pattern=f"^{_NAME.pattern}$"),
]
Forwarder = Annotated[str, PlainValidator(_forwarder), _schema(type="string")]
LinkKind = Annotated[str, PlainValidator(_link_kind), _schema(type="string")]
GuestKind = Annotated[str, PlainValidator(_guest_kind), _schema(type="string")]
NicModel = Annotated[str, PlainValidator(_nic_model), _schema(type="string")]
File = Annotated[str, PlainValidator(_file), _schema(type="string", minLength=1)]
LabelKey = Annotated[
    str,
    AfterValidator(_label_key),
    _schema(type="string", maxLength=MAX_LABEL_KEY, pattern=f"^{_LABEL_KEY.pattern}$"),
]
Label = Annotated[str, PlainValidator(_label), _schema(type="string", maxLength=MAX_LABEL)]
