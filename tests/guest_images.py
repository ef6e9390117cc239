"""Guests that lack what labctl's own images have, for tests: micro with something taken away."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import yaml

from labctl import images
from labctl.images.tree import Entry, Tree
from labctl.shipped import folder

PYTHON = ("libexpat1", "libpython3.11-minimal", "python3.11-minimal")
RECIPE = """\
description: micro with the least of Pythons, and without perl, tcpdump and ethtool
extends: micro
packages: [libexpat1, libpython3.11-minimal, python3.11-minimal]
files: [usr/bin/python3.11, usr/lib/python3.11/**]
links: {/usr/bin/python3: python3.11}
text:
  /etc/labctl/early: |
    rm /usr/bin/perl /usr/bin/tcpdump /usr/sbin/ethtool
"""


def lacking(target: Path, *programs: str) -> Path:
    """Write an initramfs of micro that removes some programs as it starts; return the file."""
    return with_early(target, f"rm {' '.join(programs)}\n")


def with_early(target: Path, script: str, more: Tree | None = None) -> Path:
    """Write an initramfs of micro whose init does what `script` says first; return the file."""
    tree = more or Tree()
    tree.add("etc/labctl/early", Entry(0o644, script.encode()))
    added = target.with_suffix(".added")
    tree.write_cpio(added)
    data = images.get("micro").initramfs.read_bytes()
    with target.open("wb") as file:
        file.write(data + bytes(-len(data) % 4) + added.read_bytes())
    added.unlink()
    return target


def write_recipe(
    config: Path, name: str, text: str = RECIPE, packages: Collection[str] = PYTHON
) -> None:
    """Write a recipe that extends micro, with packages locked as labctl's own images have them."""
    place = config / "images" / name
    place.mkdir(parents=True)
    (place / "recipe.yaml").write_text(text)
    locks = [
        yaml.safe_load((folder("images") / one / "lock.yaml").read_text())
        for one in ("micro", "debian")
    ]
    more = [one for one in locks[1]["packages"] if one["name"] in packages]
    locks[0]["packages"] = sorted([*locks[0]["packages"], *more], key=lambda one: one["name"])
    (place / "lock.yaml").write_text(yaml.safe_dump(locks[0], sort_keys=False))


USER, PASSWORD, CONSOLE_PASSWORD = "root", "correct horse", "battery staple"
"""Who logs in to an appliance by SSH and by what, and what its console asks for."""
HASH = (
    "$6$labctl$I5IdKV2siJSOf7UV5YDTnsKA6cLNU9rKPGXwmFrffmdTazvjDo"
    "M0rCW874T6JDNyY1Cfk4WAby7RyoMo.9Ysz."
)
"""Of the password, as crypt(5) has it."""
EARLY = """\
for i in /sys/class/net/e*; do ip link set ${i##*/} up; done
mkdir -p /etc/dropbear /root/.ssh
chmod 700 /root /root/.ssh
dropbear -E -R 2>/run/dropbear.log
while :; do
  printf 'appliance login: '
  read -r user
  stty -echo
  printf 'Password: '
  read -r word
  stty echo
  [ "$user $word" != "admin SECRET" ] || break
  echo 'Login incorrect'
done
export PS1='appliance# '
while :; do setsid cttyhack /usr/bin/busybox sh; done
""".replace("SECRET", CONSOLE_PASSWORD)
"""What an appliance does in place of what micro's init does: it knows nothing of labctl."""
ACCOUNT = f"root:{HASH}:0:0:root:/root:/bin/sh\n"
RECIPE_OF_APPLIANCE = """\
description: a disk that boots without cloud-init, with a login on its console
extends: micro
memory: 128
packages: [grub-pc-bin]
# A BIOS reads slowly under emulation.
exclude:
  - usr/bin/perl
  - usr/bin/tcpdump
  - usr/lib/x86_64-linux-gnu/perl-base/**
  - usr/sbin/ethtool
  - usr/sbin/tc
disk:
  size: 96
  cmdline: console=ttyS0 quiet tsc=reliable no_timer_check mitigations=off random.trust_cpu=on
  exclude: ['*']
"""


def appliance(target: Path) -> Path:
    """Write the initramfs of a guest that labctl does not configure; return the file."""
    tree = Tree()
    tree.add("etc/passwd", Entry(0o644, ACCOUNT.encode()))
    return with_early(target, EARLY, tree)


def write_appliance(config: Path, name: str) -> None:
    """Write the recipe of a disk image that labctl does not configure."""
    written = yaml.safe_load(RECIPE_OF_APPLIANCE)
    written["text"] = {"/etc/passwd": ACCOUNT, "/etc/labctl/early": EARLY}
    write_recipe(config, name, yaml.safe_dump(written, sort_keys=False), ("grub-pc-bin",))
