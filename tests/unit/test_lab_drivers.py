"""NICs that no driver of the image knows are refused before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from labctl.backends.embedded import Embedded
from labctl.errors import UsageError
from labctl.images import Image, modules
from labctl.images.tree import Entry, Tree
from labctl.lab import preflight
from labctl.topology import Topology, from_mapping

EMBEDDED = Embedded("")

FOLDER = "lib/modules/6.1.0-1-amd64"


def image(folder: Path, name: str, *loaded: str, builtin: str | None = "") -> Image:
    """An image with these modules, and a list of what its kernel has built in."""
    tree = Tree()
    tree.add("init", Entry(0o755, b"#!/bin/sh\n"))
    for module in loaded:
        tree.add(f"{FOLDER}/kernel/drivers/net/{module}.ko", Entry(0o644, b"\x7fELF"))
    if builtin is not None:
        tree.add(f"{FOLDER}/modules.builtin", Entry(0o644, builtin.encode()))
    initramfs = folder / f"{name}.cpio"
    tree.write_cpio(initramfs)
    return Image(name, "0" * 64, folder / "kernel", initramfs, "6.1", 96, 1, "")


def lab(model: str, **node: Any) -> Topology:
    plain = {"network": "lan"}
    interfaces = [plain, {"network": "lan", "model": model}]
    return from_mapping(
        {"networks": {"lan": {}}, "nodes": {"vm1": {"interfaces": interfaces, **node}}}
    )


@pytest.fixture
def micro(tmp_path: Path) -> Mapping[str, Image]:
    return {"micro": image(tmp_path, "micro", "virtio_net", "8139too")}


@pytest.mark.parametrize(
    ("model", "driver"),
    [("e1000", "e1000"), ("e1000e", "e1000e"), ("rtl8139", "8139cp"), ("vmxnet3", "vmxnet3")],
)
def test_a_nic_without_driver_is_refused_with_an_image_that_has_it(
    model: str, driver: str, micro: Mapping[str, Image], tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as told:
        preflight.check(lab(model), micro, EMBEDDED)
    expected = f"vm1's eth1 is {model}, but its image micro has no driver for that ({driver})"
    assert told.value.message == expected
    assert told.value.hint == "write image: micro-generic and memory: 160, or model: virtio"
    preflight.check(lab(model), {"micro": image(tmp_path, "other", driver)}, EMBEDDED)


def test_a_driver_that_the_kernel_has_built_in_is_there(tmp_path: Path) -> None:
    builtin = "kernel/drivers/net/ethernet/intel/e1000/e1000.ko\n"
    preflight.check(lab("e1000"), {"micro": image(tmp_path, "one", builtin=builtin)}, EMBEDDED)


def test_virtio_is_never_asked_about(tmp_path: Path) -> None:
    preflight.check(lab("virtio"), {"micro": image(tmp_path, "one", "other")}, EMBEDDED)


def test_where_the_drivers_are_not_known_the_nic_may_be_tried(
    micro: Mapping[str, Image], tmp_path: Path
) -> None:
    preflight.check(lab("e1000"), {"micro": image(tmp_path, "one", "x", builtin=None)}, EMBEDDED)
    odd = image(tmp_path, "odd")
    odd.initramfs.write_bytes(b"\x1f\x8bno archive")
    preflight.check(lab("e1000"), {"micro": odd}, EMBEDDED)
    own = tmp_path / "own"
    own.touch()
    for key in ("kernel", "initramfs"):
        preflight.check(lab("e1000", **{key: own}), micro, EMBEDDED)


def test_modules_are_told_by_the_names_that_the_kernel_uses(tmp_path: Path) -> None:
    made = image(tmp_path, "one", "xen-netfront", builtin="kernel/net/ipv6/ipv6.ko\n")
    assert modules.names(made.initramfs) == {"xen_netfront", "ipv6"}
