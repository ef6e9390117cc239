"""What the doctor tells an ordinary user of a host that lacks something."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from live import LABCTL, Place, Watch, as_user, needs_users, place

pytestmark = pytest.mark.integration

GROUP = "4242"
DOCTOR = f"{LABCTL} doctor --json || test $? = 3"
# In a user namespace of its own the limit is the user's; whoever is not root there meets it.
NO_NAMESPACES = f"""\
unshare --user --map-root-user --map-auto sh -c '
    mkdir run
    chown 65534:65534 run
    echo 0 >/proc/sys/user/max_user_namespaces
    LABCTL_RUNTIME_DIR=$PWD/run
    export LABCTL_RUNTIME_DIR
    exec setpriv --reuid=65534 --regid=65534 --clear-groups {LABCTL} doctor --json' || test $? = 3
test -z "$(ls -A run/labctl)"
"""


@pytest.fixture
def here() -> Iterator[Place]:
    needs_users()
    with place("off") as where:
        yield where


def findings(where: Place, *options: str, script: str = DOCTOR) -> dict[str, dict[str, str]]:
    done = as_user(where, script, *options)
    assert done.status == 0, done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)}
    for one in found.values():
        for text in (one["observed"], one["remedy"]):
            assert "\n" not in text
    return found


def test_a_host_that_lacks_nothing_passes(here: Place) -> None:
    found = findings(here)
    assert [one for one in found.values() if one["verdict"] == "fail"] == []
    assert found["namespaces"]["verdict"] == found["libvirt"]["verdict"] == "pass"
    assert found["subordinate ids"]["verdict"] == found["bridge and TAP"]["verdict"] == "pass"


@pytest.mark.parametrize(
    ("options", "verdict", "name", "observed", "remedy"),
    [
        (["--no-ranges"], "skip", "subordinate ids", "/etc/subuid and /etc/subgid give nobody no",
         "as root, run: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 nobody"),
        (["--without", "newuidmap"], "skip", "subordinate ids", "newuidmap is not installed",
         "as root, run: apt-get install uidmap"),
        (["--tun", "600"], "fail", "bridge and TAP", "/dev/net/tun cannot be used: Permission d",
         "as root, run: chmod 666 /dev/net/tun"),
        (["--no-tun"], "fail", "bridge and TAP", "/dev/net/tun cannot be used: No such file",
         "as root, run: modprobe tun"),
    ],
)  # fmt: skip
def test_what_is_lacking_is_one_finding_with_what_mends_it(
    here: Place, options: list[str], verdict: str, name: str, observed: str, remedy: str
) -> None:
    found = findings(here, *options)
    failed = {one["name"]: one["observed"] for one in found.values() if one["verdict"] == "fail"}
    assert failed.keys() <= {name}, failed
    assert found[name]["verdict"] == verdict
    assert found[name]["observed"].startswith(observed)
    assert found[name]["remedy"].startswith(remedy)


def test_a_limit_of_no_namespaces_is_told_with_its_setting_and_nothing_is_left(
    here: Place,
) -> None:
    with Watch(here) as watch:
        found = findings(here, script=NO_NAMESPACES)
        watch.nothing_left()
    assert "No space left on device" in found["namespaces"]["observed"]
    assert "sysctl -w user.max_user_namespaces=" in found["namespaces"]["remedy"]


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ([], "as root, run: setfacl -m u:nobody:rw /dev/kvm"),
        (["--in-database"], "log in again, or for now run: newgrp "),
    ],
)
def test_a_kvm_of_a_group_is_told_with_the_way_to_it(
    here: Place, options: list[str], remedy: str
) -> None:
    found = findings(here, "--kvm-group", GROUP, *options)["KVM"]
    assert found["verdict"] == "skip"
    assert found["observed"].startswith("/dev/kvm is ")
    assert found["remedy"].startswith(remedy)
