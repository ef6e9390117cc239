"""Every prerequisite of this host: is it there, and what mends it if not."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from labctl import images
from labctl.backends.embedded import Embedded
from labctl.errors import LabctlError, host_error
from labctl.guests import accel, confinement, driver
from labctl.lab import memory
from labctl.network import links
from labctl.sandbox import namespace_permission, owned, paths, scratch
from labctl.topology import from_mapping

MEMORY_MIB = 1024
"""What two guests and their translation caches need."""

TOOLS = {**Embedded.programs, "depmod": "kmod"}
"""Programs labctl runs, and the Debian package of each."""

TINY = {
    "name": "doctor",
    "networks": {"lan": {}},
    "nodes": {"vm1": {"image": "micro", "interfaces": [{"network": "lan"}]}},
}


@dataclass(frozen=True)
class Finding:
    """One prerequisite."""

    name: str
    verdict: Literal["pass", "fail", "skip"]
    """`skip`: could be better, but labctl works without it."""
    observed: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def examine() -> list[Finding]:
    """Examine the host, from what everything rests on to what only makes it faster."""
    return [finding for part in PARTS for finding in _safely(part)]


def _safely(part: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    name = (part.__doc__ or part.__name__).rstrip(".")
    try:
        yield from part()
    except (LabctlError, OSError) as error:
        yield _failed(name if name.isupper() else name.lower(), error)


def _failed(name: str, error: LabctlError | OSError) -> Finding:
    """Return the finding of what failed; raises an error that is not the host's again."""
    told = error if isinstance(error, LabctlError) else host_error(error)
    if told is None:
        raise error
    remedy = "" if told.hint.endswith("labctl doctor") else told.hint
    return Finding(name, "fail", told.message, remedy)


def _tried(name: str, do: Callable[[], str]) -> Finding:
    """Return what doing something shows; whether it fails or not, the next is examined too."""
    try:
        return Finding(name, "pass", do())
    except (LabctlError, OSError) as error:
        return _failed(name, error)


def _tools() -> Iterator[Finding]:
    """Programs."""
    for program, package in TOOLS.items():
        found = shutil.which(
            program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        )
        if found:
            yield Finding(program, "pass", found)
        else:
            yield Finding(program, "fail", "not installed", f"apt-get install {package}")


def _ids() -> Iterator[Finding]:
    """Subordinate ids."""
    if os.geteuid() == 0:
        return
    if lacking := namespace_permission.no_ids():
        without = "labs work, but no program in them can be another user than root"
        yield Finding("subordinate ids", "skip", f"{lacking.message}; {without}", lacking.hint)
    else:
        yield Finding("subordinate ids", "pass", "in /etc/subuid and /etc/subgid")


def _cache() -> Iterator[Finding]:
    """Cache."""
    folder = paths.cache()
    try:
        owned.make_folders(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        # What is built already can be used all the same.
        verdict: Literal["fail", "skip"] = (
            "skip" if any(one.image for one in images.list_images()) else "fail"
        )
        told = host_error(error, folder)
        remedy = told.hint if told else "set XDG_CACHE_HOME to a folder that you may write to"
        yield Finding("cache", verdict, f"{folder}: {error.strerror}", remedy)


def _sandbox() -> Iterator[Finding]:
    """Namespaces."""
    with scratch.sandbox() as sandbox:
        who = "root" if os.geteuid() == 0 else "an ordinary user"
        yield Finding("namespaces", "pass", f"a sandbox can be made as {who}")

        def network() -> str:
            sandbox.call(links.build, from_mapping(TINY))
            return "made in a sandbox by netlink and /dev/net/tun"

        def libvirt() -> str:
            hypervisor = Embedded("").hypervisor(sandbox.directory)
            found = sandbox.call(driver.versions, hypervisor)
            return f"{found['libvirt']}, driving QEMU {found['qemu']}"

        yield _tried("bridge and TAP", network)
        yield _tried("libvirt", libvirt)
        try:
            yield _confinement(sandbox.call(confinement.tried, sandbox.directory / "tried"))
        except (LabctlError, OSError) as error:
            yield _failed("confinement", error)


def _confinement(found: confinement.Confinement) -> Finding:
    """Tell how far a guest that breaks out of QEMU gets."""
    observed = f"QEMU has {', '.join(found.in_effect())}"
    if lacking := found.lacking():
        remedy = "do not run guests that you do not trust on this host"
        return Finding(
            "confinement", "skip", f"QEMU {', '.join(lacking)}; {observed}", remedy
        )  # fmt: skip
    return Finding("confinement", "pass", observed)


def _memory() -> Iterator[Finding]:
    """Memory."""
    free = memory.free()
    verdict: Literal["pass", "fail"] = "pass" if free >= MEMORY_MIB else "fail"
    remedy = "" if verdict == "pass" else f"free some: two guests need {MEMORY_MIB} MiB"
    yield Finding("memory", verdict, f"{free} MiB available, {os.cpu_count()} CPUs", remedy)


def _images() -> Iterator[Finding]:
    """Images."""
    for image in images.list_images():
        if image.problem:
            yield Finding(f"image {image.name}", "fail", image.problem)
        elif image.image:
            yield Finding(f"image {image.name}", "pass", f"built, {image.digest[:12]}")
        else:
            yield Finding(
                f"image {image.name}", "skip", "not built; the first use builds it",
                f"labctl image build {image.name}",
            )  # fmt: skip


def _kvm() -> Iterator[Finding]:
    """KVM."""
    why = accel.obstacle()
    if why:
        yield Finding("KVM", "skip", f"{why.message}; guests run under TCG, slower", why.hint)
        return
    answer = accel.remembered()
    if answer is None:
        yield Finding("KVM", "skip", "/dev/kvm opens; not tried yet", "the first `up` tries it")
    elif answer.works:
        yield Finding("KVM", "pass", "a kernel reached user space under it")
    else:
        yield Finding(
            "KVM", "skip", f"no guest boots under it, so TCG is used: {answer.obstacle}",
            f"use a host where KVM works; {accel.kept()}",
        )  # fmt: skip


PARTS = (_tools, _ids, _cache, _sandbox, _memory, _images, _kvm)
