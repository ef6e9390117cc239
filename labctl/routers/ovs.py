"""Open vSwitch: the program behind the link kinds `ovs-userspace` and `ovs-kernel`.

    python -m labctl.routers.ovs [--tso] [--kernel] LINK LINK

It makes a database in the folder that it works in, starts ovsdb-server(1) and ovs-vswitchd(8) on
it, and has ovs-vsctl(8) make one bridge with the links as its ports, of the datapath type `netdev`,
or with `--kernel` of the kernel's (`system`).
Nothing of the host's own Open vSwitch is used or seen. It writes `carrying` once both ports are in
the bridge; it ends when one of the two ends, and they end with it, however it ends.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from labctl.errors import LabctlError
from labctl.sandbox import process
from labctl.sandbox.deadline import Deadline

BRIDGE = "br0"
"""In the namespace that the program has for itself, so no other link is called so."""
DATABASE, SOCKET = "conf.db", "db.sock"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
SECONDS = 50.0
IDLE_MS = 24 * 3600 * 1000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def folders() -> dict[str, str]:
    """Return the variables that let all of Open vSwitch work in this folder."""
    names = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
    return dict.fromkeys(names, str(Path.cwd()))


def start(*argv: str) -> subprocess.Popen[bytes]:
    """Start a program that ends when this process does; raises `OSError`."""
    environment = {**os.environ, **folders()}
    return subprocess.Popen(
        argv, env=environment, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent
    )  # fmt: skip


def configure(deadline: Deadline, *words: str, wait: bool = True) -> str:
    """Have ovs-vsctl do something, and wait until the switch has done it; return what it said."""
    argv = ["ovs-vsctl", f"--db=unix:{SOCKET}", *([] if wait else ["--no-wait"]), *words]
    return process.run(argv, deadline=deadline, env=folders()).stdout


def begin(links: Sequence[str], *, tso: bool, kernel: bool) -> list[subprocess.Popen[bytes]]:
    """Start the switch and plug the links in; return its processes.

    Raises `LabctlError` where it does not take them, `OSError` where it cannot be started.
    """
    deadline = Deadline(SECONDS, "starting Open vSwitch")
    process.run(["ovsdb-tool", "create", DATABASE, SCHEMA], deadline=deadline)
    quiet = ("--unixctl=none", "-vconsole:warn")
    started = [start("ovsdb-server", f"--remote=punix:{SOCKET}", *quiet, DATABASE)]
    while not Path(SOCKET).exists():
        if started[0].poll() is not None:
            raise LabctlError("ovsdb-server ended")
        deadline.pause(0.01)
    configure(deadline, "init", wait=False)
    # It is read once, when the switch begins (userspace_tso_init()).
    setting = f"other_config:userspace-tso-enable={str(tso).lower()}"
    # A flow that the kernel has forgotten is decided by the switch again, which finishes the sum.
    idle = f"other_config:max-idle={IDLE_MS}"
    configure(deadline, "set", "Open_vSwitch", ".", setting, idle, wait=False)
    started.append(start("ovs-vswitchd", f"unix:{SOCKET}", *quiet))
    datapath = f"datapath_type={'system' if kernel else 'netdev'}"
    add = ["add-br", BRIDGE, "--", "set", "Bridge", BRIDGE, datapath]
    for link in links:
        add += ["--", "add-port", BRIDGE, link]
    configure(deadline, *add)
    for link in links:
        number = configure(deadline, "get", "Interface", link, "ofport").strip()
        if not number.isdigit():
            why = configure(deadline, "get", "Interface", link, "error").strip()
            raise LabctlError(f"Open vSwitch does not take {link}: {why}")
    return started


def main(argv: Sequence[str] | None = None) -> int:
    """Run the switch; it returns only where it cannot begin, or has ended."""
    words = argparse.ArgumentParser(prog="ovs")
    words.add_argument("--tso", action="store_true", help="turn userspace-tso-enable on")
    words.add_argument("--kernel", action="store_true", help="use the kernel's datapath")
    words.add_argument("links", nargs="+", metavar="LINK")
    asked = words.parse_args(argv)
    try:
        begin(asked.links, tso=asked.tso, kernel=asked.kernel)
    except (OSError, LabctlError) as wrong:
        sys.stderr.write(f"cannot switch between {' and '.join(asked.links)}: {wrong}\n")
        return 1
    sys.stdout.write("carrying\n")
    sys.stdout.flush()
    ended, status = os.wait()
    sys.stderr.write(f"a process of Open vSwitch ended: {ended}, status {status}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
