"""The root file system of a runner: a stock Debian, with labctl's environment made in it.

Made by mmdebstrap from Debian's packages (as root, or in a user namespace), and kept (`store`).
The checkouts in it are replaced by the one under test when the machine starts; what takes long,
the packages and the Python environments, is there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from labctl.sandbox import owned, paths

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
SUITES = ("bookworm", "trixie")
USER = "lab"
HOMES = {USER: f"/home/{USER}", "root": "/root"}
"""The two who work in a runner; each has a checkout, `labctl`, below their home."""
HOST = "labctl-runner"
DISK_BYTES = 12 << 30
"""A sparse file: what is free in it costs nothing."""
INCLUDE = (
    "ca-certificates", "dbus", "git", "ifupdown", "iproute2", "kmod", "libpam-systemd",
    "linux-image-amd64", "openssh-server", "procps", "systemd-sysv", "udev",
    # What the machine is looked at with.
    "bpftool", "ethtool",
    # Debian's own libvirtd, for --connect.
    "libvirt-clients", "libvirt-daemon-system",
)  # fmt: skip
"""What a stock Debian has and mmdebstrap's `minbase` has not."""
END_SECONDS = 60.0
"""For what is interrupted, to take down what it has mounted."""
KEPT = {"path", "home", "tmpdir", "http_proxy", "https_proxy", "no_proxy"}
"""Variables that mmdebstrap and what it runs see."""
INTERFACES = """\
auto lo
iface lo inet loopback

auto enp0s3
iface enp0s3 inet static
  address 10.0.2.15/24
  gateway 10.0.2.2
iface enp0s3 inet6 static
  address fec0::15/64
  dad-attempts 0
"""
"""QEMU's user network (slirp); `machine` puts the NIC where it gets this name."""


@dataclass(frozen=True)
class Image:
    """What a runner boots from; none of its files is written to again."""

    suite: str
    folder: Path

    @property
    def disk(self) -> Path:
        """The root file system: ext4, raw, sparse."""
        return self.folder / "root.img"

    @property
    def kernel(self) -> Path:
        """Debian's own kernel."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """Its initramfs, as Debian makes it."""
        return self.folder / "initrd"

    @property
    def key(self) -> Path:
        """The private key that opens the accounts of root and of the user."""
        return self.folder / "key"

    @property
    def known_hosts(self) -> Path:
        """The machine's host key, under the name `HOST`."""
        return self.folder / "known_hosts"


def _as_owner() -> list[str]:
    """Return the words before a command that may own files of any uid."""
    return [] if os.geteuid() == 0 else ["unshare", "--user", "--map-auto", "--map-root-user"]


def remove(folder: Path) -> None:
    """Remove a folder of ours in which files of other uids may be left; what others made stays."""
    if not owned.is_made(folder):
        return
    subprocess.run([*_as_owner(), "rm", "-rf", str(folder)], check=True)


def _run(words: list[str], env: dict[str, str]) -> None:
    """Run a program to its end; whoever interrupts us ends it too, and all that it has started.

    It gets the time to take down what it has mounted.
    """
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, env=env, start_new_session=True
    ) as child:
        try:
            status = child.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(END_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            raise
    if status:
        raise subprocess.CalledProcessError(status, words)


def say(line: str) -> None:
    """Tell of progress."""
    print(f"runner: {line}", file=sys.stderr, flush=True)


def build(made: Image, part: Path) -> None:
    """Make the files of an image, with `part` to work in.

    Raises `subprocess.CalledProcessError` when a program fails; its words are on standard error.
    """
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", HOST, "-f", str(made.key)]
    subprocess.run(keygen, check=True)
    bundle = part / "labctl.bundle"
    write_bundle(bundle)
    interfaces = part / "interfaces"
    interfaces.write_text(INTERFACES)
    host, archive = part / "host.pub", part / "root.tar"
    words = ["mmdebstrap", "--variant=minbase", f"--include={','.join(INCLUDE)}"]
    words += ["--dpkgopt=force-unsafe-io"]
    # make's stamps in it hold the id of the machine that it will be; and a machine in use knows
    # its archives, by which images are built.
    words += ["--skip=cleanup/reproducible,cleanup/apt/lists"]
    brought = [HERE / "make.sh", HERE / "provision.sh", bundle, interfaces]
    brought += [made.key.with_suffix(".pub"), *authorities()]
    words += [f"--customize-hook=upload {file} /root/{file.name}" for file in brought]
    words += [f'--customize-hook=chroot "$1" sh /root/make.sh {USER}']
    words += [
        f"--customize-hook=download {name} {to}"
        for name, to in (
            ("/vmlinuz", made.kernel),
            ("/initrd.img", made.initrd),
            ("/etc/ssh/ssh_host_ed25519_key.pub", host),
        )
    ]
    # Debian's own mirrors, security and updates included, unless another is named.
    mirror = os.environ.get("LABCTL_DEBIAN_MIRROR")
    words += [made.suite, str(archive), *([mirror] if mirror else [])]
    # What this host sets for its own programs (pip's options, say) is not for those in there.
    env = {name: value for name, value in os.environ.items() if name.lower() in KEPT}
    _run(words, env)
    made.known_hosts.write_text(f"{HOST} {host.read_text()}")
    _write_disk(archive, made.disk, part / "tree")


def authorities() -> list[Path]:
    """Return the certificate authorities that this host trusts beside Debian's own."""
    return sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))


def _write_disk(archive: Path, disk: Path, tree: Path) -> None:
    """Make an ext4 file system of an archive, owners included; mke2fs reads a folder."""
    disk.touch()
    os.truncate(disk, DISK_BYTES)
    # The kernel fills /dev itself, and none but root may make a device node. mke2fs is in /sbin,
    # where an ordinary user's shell does not look.
    script = (
        'set -eu; PATH=$PATH:/usr/sbin:/sbin; mkdir "$2"; '
        'tar -C "$2" --exclude "./dev/*" -xpf "$1"; '
        'mke2fs -q -t ext4 -F -d "$2" "$3"; rm -r "$2"'
    )
    words = [*_as_owner(), "sh", "-c", script, "sh", str(archive), str(tree), str(disk)]
    subprocess.run(words, check=True)


def write_bundle(file: Path) -> None:
    """Write the working tree, uncommitted changes included, as a git bundle of branch `main`.

    So what is tested is what is there, and it gets into the machine as a clean clone.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT, check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    with owned.temporary(paths.cache() / "runner", ".tree-") as tree:
        for name in sorted(set(os.fsdecode(listed.stdout).split("\0")) - {""}):
            source, target = CHECKOUT / name, tree / name
            if source.is_symlink() or source.exists():  # else it is removed, but not committed yet
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
        git = ["git", "-c", "user.name=runner", "-c", "user.email=runner@localhost"]
        for words in (
            ["init", "--quiet", "--initial-branch=main"],
            ["add", "--all", "--force"],
            ["commit", "--quiet", "--message=The tree under test"],
            ["bundle", "create", "--quiet", str(file), "main"],
        ):
            subprocess.run([*git, *words], cwd=tree, check=True)
