"""What runs the guests of a lab is chosen by its URI, and answers for all that differs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labctl import backends
from labctl.backends.base import Backend
from labctl.backends.embedded import Embedded
from labctl.backends.state import State
from labctl.backends.system_libvirt import SystemLibvirt
from labctl.backends.xen_remote import XenRemote
from labctl.guests.keys import Key
from labctl.lab import prestart
from labctl.sandbox.client import Agent
from labctl.topology import find, load

XEN = "xen+ssh://root@xen.example/system"
SYSTEM = "qemu:///system"
EVERY = ("", SYSTEM, XEN)


def known(uri: str, topology: str = "xen-bridged") -> State:
    return State(
        name="lab", topology=load(find(topology)), accel="tcg", images={},
        client=Key("a", "b", "c"), hostkeys={}, uri=uri, started="now", complete=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("uri", "backend"),
    [
        ("", Embedded),
        (SYSTEM, SystemLibvirt),
        ("qemu+unix:///system?socket=/run/other", SystemLibvirt),
        ("nonsense", SystemLibvirt),  # libvirt says what is wrong with it
        (XEN, XenRemote),
        ("xen:///system", XenRemote),
    ],
)
def test_a_uri_has_one_backend(uri: str, backend: type[Backend]) -> None:
    assert backends.of(uri) == backend(uri)


def test_to_ask_whether_a_lab_is_of_its_own_imports_nothing_else() -> None:
    code = (
        "import sys; from labctl import backends; backends.is_embedded('')\n"
        "print(*(name for name in sys.modules if name.startswith('labctl.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["labctl.backends"]


def test_an_agent_is_started_ahead_for_a_sandbox_of_the_labs_own_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = object()
    monkeypatch.setattr(Agent, "ahead", lambda _modules: agent)
    assert [prestart.start_agent(uri) for uri in EVERY] == [agent, None, None]


def test_only_a_real_xen_host_is_there_already() -> None:
    topology = load(find("xen-uplink"))
    for uri, machines in (("", ["vm3", "xen1"]), (SYSTEM, ["vm3", "xen1"]), (XEN, ["vm3"])):
        backend = backends.of(uri)
        assert sorted(node.name for node in backend.machines(topology)) == machines
        assert backend.boots(topology.nodes["xen1"]) == (uri != XEN)
        assert backend.boots(topology.nodes["vm1"])


def test_guests_beside_those_of_others_bear_the_name_of_their_lab() -> None:
    names = [backends.of(uri).domain(known(uri), "vm1") for uri in EVERY]
    assert names == ["vm1", "lab-vm1", "lab-vm1"]


def test_what_does_not_end_with_its_sandbox_is_written_down_first() -> None:
    assert [backends.of(uri).ends_with_sandbox for uri in EVERY] == [True, False, False]


def test_of_this_host_a_lab_needs_what_its_backend_does_not_bring() -> None:
    assert {"qemu-system-x86_64", "unshare", "ssh"} < backends.of("").programs.keys()
    assert backends.of(SYSTEM).programs.keys() == backends.of(XEN).programs.keys() == {"ssh"}
    assert [backends.of(uri).makes_taps for uri in EVERY] == [True, True, False]


def test_libvirts_own_files_tell_of_guests_where_those_are_processes_of_this_host() -> None:
    folder = Path("/run/labctl/lab")
    found = [backends.of(uri).libvirt_files(folder) for uri in EVERY]
    assert found == [folder / "embed/run/qemu", Path("/run/libvirt/qemu"), None]


def test_a_xen_host_is_a_guest_of_the_lab_or_that_of_the_uri() -> None:
    folder = Path("/run/labctl/lab")
    own, real = (backends.of(uri).xen_host(known(uri), "xen1", folder) for uri in ("", XEN))
    assert (own.domain, own.real, str(own.folder)) == ("xen1", "", "/run/labctl")
    assert (real.domain, real.uri) == ("", XEN)
    assert real.folder == backends.of(XEN).dom0_folder(known(XEN))
    through = [backends.of(uri).ssh_through(known(uri).topology) for uri in EVERY]
    assert through == ["", "", "xen1"]
