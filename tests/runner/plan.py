"""What is run in a runner: which steps, by whom, on which Debian, and for how long at most."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from .image import SUITES, USER

ENTER = """\
set -euo pipefail
cd ~/labctl
. .venv/bin/activate
export LABCTL_ACCEL=require LABCTL_RESULTS=~/results
mkdir -p ~/results
"""
"""Before each step: the checkout and its environment, KVM or an error, records to be fetched."""

DOWN = "trap 'labctl down --all >/dev/null 2>&1 || true' EXIT\n"
"""What a step that breaks off had up is no finding of its own."""

VERBS = f"""\
{DOWN}\
labctl up bridged.yaml
labctl status --json | tee ~/results/status.json
python - <<'CHECK'
import json, os
(lab,) = json.load(open(os.path.expanduser("~/results/status.json")))
assert (lab["state"], lab["accel"]) == ("up", "kvm"), lab
CHECK
labctl ssh vm1 -- ssh vm2 uname -a
labctl exec vm2 -- ethtool -k eth0 | grep checksumming
labctl trace vm1 vm2 --tcp 22
labctl down
test "$(labctl status --json)" = '[]'
"""

FRESH = """\
cd
rm -rf fresh fresh-cache
git clone --quiet labctl fresh
cd fresh
deactivate
export XDG_CACHE_HOME=~/fresh-cache
make demo
cd
rm -rf fresh fresh-cache
"""
"""As a newcomer: nothing is installed or built, the archives are asked. It runs `router-hop`."""

LACKING = f"bash tests/runner/lacking.sh {USER}\n"
"""What the doctor says of a machine that lacks something."""

CONNECT = f"""\
{DOWN}\
# What is not running yet is stopped at the end: libvirtd and virtlogd come when they are asked.
started=$(for unit in libvirtd.service virtlogd.service; do
  systemctl --quiet is-active "$unit" || echo "$unit"
done)
# This machine's firewall drops what crosses a bridge, which is told, and is not a lab's to change.
labctl up bridged.yaml --connect qemu:///system 2>&1 | tee ~/results/up.log
grep -q 'firewall sees what crosses bridges' ~/results/up.log
sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0
virsh --connect qemu:///system list --name | tee ~/results/domains
grep -q vm1 ~/results/domains
labctl status --json | tee ~/results/status.json
grep -q '"accel": "kvm"' ~/results/status.json
labctl ssh vm1 -- ssh vm2 uname -a
labctl down
sysctl -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1
test "$(labctl status --json)" = '[]'
test -z "$(virsh --connect qemu:///system list --all --name)"
test -z "$started" || systemctl stop $started
"""
"""With Debian's own libvirtd, on the machine's own network."""
LIBVIRTD = (
    "/etc/apparmor.d/libvirt/libvirt-*",
    "/var/log/libvirt/qemu/*.log",
    "/var/cache/libvirt/qemu/capabilities",
    "/var/cache/libvirt/qemu/capabilities/*",
    "/run/libvirt/network/nwfilter.leases",
)
"""What it keeps of any guest that it ever ran, of whomever: a profile, a log, what QEMU can do."""

TESTS = (
    "tests/integration/test_agent_prestart.py",
    "tests/integration/test_lab_verbs.py",
    "tests/integration/test_lab_plugin.py",
    "tests/integration/test_live_changes.py",
)
KILLS = ("tests/integration/test_cleanup_killed.py",)
"""A session of their own: dozens of labs come up to be killed."""
ROOT_TESTS = (
    "tests/integration/test_sandbox.py",
    "tests/integration/test_network.py",
    "tests/integration/test_user.py",
)
"""Skipped whole by anybody else: an unknown reason fails a step (.ci/skips.py)."""
KINDS = (
    "tests/integration/test_kind_effects.py", "-k",
    "vlan or vrf or bond or geneve or gretap or wireguard",
)  # fmt: skip
"""What a small kernel has not, and Debian's has."""


@dataclass(frozen=True)
class Step:
    """A script that one user runs; it passes when it exits with 0."""

    name: str
    user: str
    script: str
    seconds: float

    @property
    def folder(self) -> str:
        """The name of its folder of results."""
        return f"{self.user}-{self.name}".replace(" ", "-")


@dataclass(frozen=True)
class Session:
    """Steps in one machine, from its boot to the comparison with what it was before."""

    name: str
    suite: str
    steps: tuple[Step, ...]
    compared: bool = True
    """Whether the machine must be as before; not where the steps themselves change it."""
    ignored: tuple[str, ...] = ()
    """Globs of files that are not compared: they are what some other program keeps."""


def experiment(name: str, user: str) -> Step:
    """Return the step that runs an experiment."""
    return Step(name, user, f"labctl experiment {name}", 2400)


def pytest(user: str, files: Sequence[str], name: str = "tests") -> Step:
    """Return the step that runs tests; which ones failed is in their own records."""
    script = f"""\
status=0
report=~/results/tests.xml
python -m pytest -v -rs --timeout=900 --basetemp="$HOME/pytest" --junitxml=$report \
  {shlex.join(files)} || status=$?
python .ci/skips.py $report || status=1
exit $status
"""
    return Step(name, user, script, 5400)


def command(user: str, words: Sequence[str]) -> Step:
    """Return the step that runs a command of one's own."""
    return Step("command", user, shlex.join(words), 10000)


def doctor(user: str) -> Step:
    """Return the step that asks whether anything is missing."""
    return Step("doctor", user, "labctl doctor", 300)


def quick() -> list[Session]:
    """Return the short form of it all, which CI runs on one Debian."""
    steps = (
        doctor(USER),
        Step("verbs", USER, VERBS, 900),
        experiment("bridged", USER),
        doctor("root"),
        Step("verbs", "root", VERBS, 900),
    )
    return [Session("quick", suite, steps) for suite in SUITES]


def whole() -> list[Session]:
    """Return what a release is tried by. A machine takes minutes to boot: each does much."""
    sessions = []
    for suite in SUITES:
        for user in (USER, "root"):
            steps = (
                doctor(user),
                Step("verbs", user, VERBS, 900),
                experiment("bridged", user),
                Step("fresh clone", user, FRESH, 5400),
            )
            sessions.append(Session(user, suite, steps))
        sessions += [
            Session(
                "tests", suite,
                (pytest(USER, TESTS), pytest("root", TESTS + ROOT_TESTS),
                 pytest("root", KINDS, "kinds")),
            ),
            Session("kills", suite, (pytest(USER, KILLS), pytest("root", KILLS))),
            Session("connect", suite, (Step("connect", "root", CONNECT, 1800),), ignored=LIBVIRTD),
            Session("lacking", suite, (Step("lacking", "root", LACKING, 2400),), compared=False),
        ]  # fmt: skip
    return sessions


PROFILES = {"quick": quick, "whole": whole}
