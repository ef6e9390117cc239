"""What a stock host has and a bare one lacks: a hugetlbfs, and a /dev/kvm for a group."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from live import LABCTL, SECONDS, SOLO, Place, as_user, needs_users, place

from labctl import images
from labctl.guests import accel

pytestmark = pytest.mark.integration

GROUP = "4242"

HUGE_AS_ROOT = """\
set -eu
exec 3>&1 >&2
mkdir {root}/huge
mount -t hugetlbfs -o mode=755 hugetlbfs {root}/huge
{labctl} up {root}/solo.yaml --accel off
{labctl} exec vm1 -- true
{labctl} down
{labctl} doctor --json
ls -A {root}/huge >&3
"""

HUGE_AS_USER = """\
set -eu
exec 3>&1 >&2
{labctl} up {file} --accel off
{labctl} exec vm1 -- true
{labctl} down
ls -A huge >&3
"""

# The guest is started by the agent that `up` forks ahead, and started again by that of a later
# process, which enters by nsenter(1).
GROUPS = """\
set -eu
exec 3>&1 >&2
of_guests() {{
    for status in /proc/[0-9]*/status; do
        if grep -q '^Name:.qemu-system' $status 2>/dev/null; then grep '^Groups:' $status >&3; fi
    done
}}
{labctl} up {file} --accel off
of_guests
{python} -P -c 'from labctl.lab.lab import Lab
lab = Lab.attach()
lab.restart("vm1", device={{"csum": False}})
lab.close()'
{labctl} exec vm1 -- true
of_guests
{labctl} down
"""

KVM = """\
set -eu
exec 3>&1 >&2
{labctl} up {file} --accel auto
{labctl} down
{python} -P -c 'from labctl.guests import accel
print(repr(str(accel.obstacle() or accel.remembered())))' >&3
"""


@pytest.fixture
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        images.get("micro")  # as root, with root's cache
        where.write("solo.yaml", SOLO).chmod(0o644)
        yield where


def test_as_root_nothing_is_left_in_a_hugetlbfs_of_the_host(here: Place) -> None:
    """In a mount namespace of its own, for other labs of this host would use this one too."""
    done = subprocess.run(
        ["unshare", "--mount", "/bin/sh", "-c", HUGE_AS_ROOT.format(root=here.root, labctl=LABCTL)],
        capture_output=True,
        text=True,
        env=here.env,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_an_ordinary_user_has_labs_beside_a_hugetlbfs_of_root(here: Place) -> None:
    needs_users()
    script = HUGE_AS_USER.format(file=here.root / "solo.yaml", labctl=LABCTL)
    done = as_user(here, script, "--hugetlbfs")
    assert done.status == 0, done.stderr
    assert done.stdout == ""


def test_guests_of_an_ordinary_user_keep_the_groups_of_the_user(here: Place) -> None:
    needs_users()
    script = GROUPS.format(file=here.root / "solo.yaml", labctl=LABCTL, python=sys.executable)
    done = as_user(here, script, "--kvm-group", GROUP, "--in-session")
    assert done.status == 0, done.stderr
    seen = [line for line in done.stdout.splitlines() if GROUP in line.split()]
    assert len(seen) == 2, done.stdout


@pytest.mark.parametrize("how", ["--in-session", "--newgrp"])
def test_a_member_of_the_group_kvm_has_the_kvm_that_root_has(here: Place, how: str) -> None:
    needs_users()
    script = KVM.format(file=here.root / "solo.yaml", labctl=LABCTL, python=sys.executable)
    done = as_user(here, script, "--kvm-group", GROUP, how)
    assert done.status == 0, done.stderr
    # Whether a kernel boots under it is the host's affair; QEMU must be able to try.
    if accel.obstacle():
        assert "does not open" in done.stdout
    else:
        assert "/dev/kvm" not in done.stdout
        assert "QEMU cannot use it" not in done.stdout
