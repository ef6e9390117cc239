"""Offload names turned into the kernel's, and what counts as refused."""

from __future__ import annotations

import pytest

from labctl.errors import HostError, UsageError
from labctl.network import features
from labctl.network.features import Feature, Features, change, expand, restore

TAP: Features = {
    "tx-checksum-ip-generic": Feature(active=True, fixed=False),
    "tx-checksum-ipv4": Feature(active=False, fixed=True),
    "tx-tcp-segmentation": Feature(active=True, fixed=False),
    "tx-tcp6-segmentation": Feature(active=True, fixed=False),
    "rx-checksum": Feature(active=False, fixed=True),
    "tx-generic-segmentation": Feature(active=True, fixed=False),
}


@pytest.mark.parametrize(
    ("wanted", "kernel"),
    [
        ({"tx": False}, {"tx-checksum-ip-generic": False}),
        ({"tx-checksumming": False}, {"tx-checksum-ip-generic": False}),
        ({"tso": False}, {"tx-tcp-segmentation": False, "tx-tcp6-segmentation": False}),
        ({"tx-tcp6-segmentation": True}, {"tx-tcp6-segmentation": True}),
        ({"rx": False}, {}),  # fixed
        ({"lro": False}, {}),  # a name, but not one of this link's
        ({}, {}),
        (
            {"tso": False, "tx-tcp-segmentation": True},
            {"tx-tcp-segmentation": True, "tx-tcp6-segmentation": False},
        ),
    ],
)
def test_names_become_the_kernels(wanted: dict[str, bool], kernel: dict[str, bool]) -> None:
    assert expand(TAP, wanted) == kernel


def test_a_name_that_does_not_exist_is_refused_rather_than_ignored() -> None:
    with pytest.raises(UsageError, match="tx-checksuming"):
        expand(TAP, {"tx-checksuming": False})


class Link:
    """Stands in for the kernel: some features stay as they are whatever is written."""

    def __init__(self, stubborn: set[str]) -> None:
        self.now = dict(TAP)
        self.stubborn = stubborn

    def read(self, _link: str) -> Features:
        return dict(self.now)

    def write(self, _link: str, wanted: dict[str, bool]) -> None:
        for name, value in wanted.items():
            if name not in self.stubborn:
                self.now[name] = Feature(value, fixed=False)


@pytest.fixture
def link(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Link:
    made = Link(getattr(request, "param", set()))
    monkeypatch.setattr(features, "_read", made.read)
    monkeypatch.setattr(features, "_write", made.write)
    return made


def test_what_was_changed_goes_back_exactly(link: Link) -> None:
    before = change("tap", {"tx": False, "tso": False})
    assert before == TAP
    assert not link.now["tx-checksum-ip-generic"].active
    restore("tap", before)
    assert link.now == TAP


@pytest.mark.parametrize("link", [{"tx-checksum-ip-generic"}], indirect=True)
def test_a_silent_no_is_an_error_and_changes_nothing(link: Link) -> None:
    with pytest.raises(HostError, match="tap did not turn off tx-checksum-ip-generic"):
        change("tap", {"tx": False, "tso": False})
    assert link.now == TAP


def test_what_cannot_be_put_back_is_told(link: Link) -> None:
    before = change("tap", {"tso": False})
    link.stubborn = {"tx-tcp-segmentation"}
    with pytest.raises(HostError, match=r"did not take back its earlier tx-tcp-segmentation$"):
        restore("tap", before)


def test_an_unknown_link_is_told() -> None:
    with pytest.raises(HostError, match="features of no-such-link cannot be read"):
        features.read("no-such-link")
