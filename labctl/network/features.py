"""Offload features of the host's links: read, set, put back exactly as they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labctl.errors import HostError, UsageError
from labctl.sandbox.lazy_import import Late
from labctl.sandbox.netns import inside
from labctl.sandbox.remote import remote
from labctl.topology.features import FEATURES, kernel_names

if TYPE_CHECKING:
    from pyroute2 import ethtool
else:
    ethtool = Late("pyroute2.ethtool")


@dataclass(frozen=True)
class Feature:
    """One kernel feature of a link."""

    active: bool
    fixed: bool
    """Whether the device does not let it be changed."""


Features = dict[str, Feature]


def _read(link: str) -> Features:
    with ethtool.Ethtool() as netlink:
        found = netlink.get_features(link).features.values()
        # Bits that this kernel does not use have no name.
        return {one.name: Feature(bool(one.enable), not one.available) for one in found if one.name}


def _write(link: str, wanted: Mapping[str, bool]) -> None:
    with ethtool.Ethtool() as netlink:
        features = netlink.get_features(link)
        for name, value in wanted.items():
            features.features[name].enable = value
        netlink.set_features(link, features)


@remote
def read(link: str, netns: str = "") -> Features:
    """Return every feature of a link by its kernel name (`ethtool -k`).

    Raises `HostError` when there is no such link.
    """
    try:
        return inside(netns, _read, link)
    except OSError as reason:
        raise HostError(f"features of {link} cannot be read: {reason.strerror}") from None


def expand(features: Features, wanted: Mapping[str, bool]) -> dict[str, bool]:
    """Turn ethtool's names into the kernel's, keeping those this link lets be changed.

    Raises `UsageError` for a name that is none of either.
    """
    kernel: dict[str, bool] = {}
    for name, value in wanted.items():
        if name not in FEATURES and name not in features:
            raise UsageError(f"there is no offload feature {name!r}", "ethtool -k lists them")
        for one in kernel_names(FEATURES.get(name, name)):
            if one in features and not features[one].fixed:
                kernel[one] = value
    return kernel


@remote
def change(link: str, wanted: Mapping[str, bool], netns: str = "") -> Features:
    """Set features by ethtool's or the kernel's names; return all of them as they were *before*.

    Give the return value to `restore`. Raises `UsageError` for an unknown name, `HostError` when
    one that can be changed was not turned off: a silent no would make every later verdict wrong.
    """
    before = read(link, netns)
    kernel = expand(before, wanted)
    inside(netns, _write, link, kernel)
    after = read(link, netns)
    refused = sorted(name for name, value in kernel.items() if after[name].active != value)
    # Turning a feature on can wait for another (TSO needs checksumming); turning off never does.
    refused = [name for name in refused if not kernel[name]]
    if refused:
        restore(link, before, netns)
        raise HostError(f"{link} did not turn off {', '.join(refused)}")
    return before


@remote
def restore(link: str, before: Features, netns: str = "") -> None:
    """Put every feature back to what `change` returned, and check that it is so.

    Raises `HostError` naming what could not be put back.
    """
    now = read(link, netns)
    differing = {
        name: feature.active
        for name, feature in before.items()
        if name in now and now[name].active != feature.active and not now[name].fixed
    }
    if differing:
        inside(netns, _write, link, differing)
    now = read(link, netns)
    wrong = sorted(
        name
        for name, feature in before.items()
        if name in now and now[name].active != feature.active
    )
    if wrong:
        raise HostError(f"{link} did not take back its earlier {', '.join(wrong)}")
