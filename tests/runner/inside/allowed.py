"""What may differ between two snapshots, each with the reason; it is shown, not dropped.

Names are globs: `*` stays within one part of a path, `**` does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from .machine import Things, matcher

LOGIN = "a login, by systemd-logind and PAM"
TIMER = "a service that systemd's timers start"
ON_DEMAND = "a service that D-Bus or a socket starts and that ends when idle"
JOURNAL = "systemd's journal"
LOG = "the logs of a live system"
UNITS = "systemd's own state of units"

SERVICES = {
    TIMER: "apt-daily apt-daily-upgrade systemd-tmpfiles-clean fstrim logrotate man-db e2scrub_all"
    " e2scrub_reap e2scrub@* dpkg-db-backup cron atd anacron exim4-base ua-timer motd-news"
    " systemd-tmpfiles-setup unattended-upgrades",
    "polkit starts with the first question of D-Bus and stays": "polkit",
    ON_DEMAND: "systemd-hostnamed systemd-timedated systemd-localed systemd-userdbd packagekit",
    "udev's workers": "systemd-udevd",
    LOGIN: "user-runtime-dir@* user@*",
}
"""Units of the system whose processes and cgroups may come and go."""

FILES = {
    JOURNAL: "/var/log/journal/** /run/log/journal/** /run/systemd/journal/**",
    LOG: "/var/log/{syslog,messages,debug,auth.log,kern.log,daemon.log,user.log,mail.log,cron.log}"
    " /var/log/{syslog,messages,debug,auth.log,kern.log,daemon.log,user.log,mail.log,cron.log}.*"
    " /var/log/{dpkg,alternatives,fontconfig,bootstrap}.log* /var/log/apt/*"
    " /var/log/unattended-upgrades/* /var/log/exim4/*",
    LOGIN: "/var/log/wtmp* /var/log/btmp* /var/log/lastlog /run/utmp /var/lib/wtmpdb/*"
    " /var/lib/lastlog/* /run/systemd/sessions/** /run/systemd/users/** /run/systemd/seats/**"
    " /run/systemd/inhibit/** /run/systemd/transient/session-*.scope* /run/motd.dynamic*"
    " /run/user/* /run/user/*/systemd/** /run/user/*/systemd /run/user/*/bus"
    " /run/user/*/dbus-1/** /run/user/*/dbus-1 /run/user/*/gnupg /run/user/*/gnupg/**"
    " /run/sudo/ts/* /var/lib/sudo/** /var/log/faillog /run/faillock/*",
    UNITS: "/run/systemd/units/** /run/systemd/propagate/** /run/systemd/incoming/**"
    " /run/systemd/unit-root/** /run/systemd/generator*/** /run/systemd/userdb/**"
    " /run/systemd/dynamic-uid/** /run/systemd/ask-password/** /run/systemd/io.systemd.*"
    " /run/systemd/mount-rootfs/** /run/systemd/propagate/.os-release-stage/**"
    " /run/credentials/** /tmp/systemd-private-* /tmp/systemd-private-*/**"
    " /var/tmp/systemd-private-* /var/tmp/systemd-private-*/** /var/lib/systemd/random-seed",
    "udev's notes and names of devices (the devices themselves are compared)": "/run/udev/data/*"
    " /run/udev/tags/** /run/udev/links/** /run/udev/watch/** /run/udev/queue /run/udev/control"
    " /dev/disk/** /dev/block/* /dev/char/*",
    "the network's and the clock's own state": "/run/systemd/netif/** /run/systemd/resolve/**"
    " /run/systemd/timesync/** /var/lib/systemd/timesync/* /var/lib/dhcp/* /run/dhclient*"
    " /var/lib/systemd/network/** /var/lib/chrony/* /var/lib/NetworkManager/*",
    "labctl's folder for running labs, its mark and lock; a lab in it would be told": "/run/labctl"
    " /run/labctl/.lock /run/labctl/.labctl-made /run/user/*/labctl /run/user/*/labctl/.lock"
    " /run/user/*/labctl/.labctl-made",
    TIMER: "/var/lib/systemd/timers/* /var/lib/apt/lists /var/lib/apt/lists/**"
    " /var/lib/apt/periodic/* /var/lib/apt/daily_lock /var/cache/apt/*.bin /var/cache/apt/*.bin.*"
    " /var/lib/dpkg/lock* /var/cache/apt/archives/lock /var/lib/logrotate/* /var/lib/logrotate.*"
    " /var/cache/man/** /var/backups/** /run/cron.reboot /run/crond.pid /run/blkid/**"
    " /var/lib/dpkg/*-old /var/lib/systemd/catalog/database",
}
"""Files that a live system writes by itself."""

MOUNTS = {
    LOGIN: "/run/user/*",
    UNITS: "/run/credentials/* /run/systemd/unit-root/** /run/systemd/mount-rootfs/**",
    "systemd mounts it on the first look": "/proc/sys/fs/binfmt_misc",
}

SYSCTLS = {
    "a counter of the kernel": "fs/inode-nr fs/inode-state fs/dentry-state fs/file-nr fs/aio-nr"
    " fs/quota/* kernel/pty/nr kernel/ns_last_pid net/netfilter/nf_conntrack_count"
    " kernel/random/entropy_avail kernel/keys/*_count",
    "new at every look": "kernel/random/uuid",
    "the kernel lowers it where interrupts are slow": "kernel/perf_event_max_sample_rate",
    "a registration that a module adds": "net/ipv4/tcp_available_congestion_control"
    " net/ipv4/tcp_available_ulp",
}

CGROUPS = {
    LOGIN: "/user.slice /user.slice/user-*.slice /user.slice/user-*.slice/session-*.scope"
    " /user.slice/user-*.slice/user@*.service /user.slice/user-*.slice/user@*.service/init.scope"
    " /user.slice/user-*.slice/user@*.service/{app,session,background}.slice"
    " /user.slice/user-*.slice/user@*.service/app.slice/*.socket"
    " /user.slice/user-*.slice/user@*.service/{app,session}.slice/dbus.service",
}

KERNEL_THREADS = {
    "the kernel makes and ends its workers": "kworker/** kworker/",
    "for units whose memory systemd watches": "psimon",
    "the kernel's audit begins with its first user": "kauditd",
}

BPF = {"systemd's filters, one or more a unit": "prog?*?sd_*"}

MODULES = (
    "kvm kvm_amd kvm_intel irqbypass ccp tun tap vhost vhost_net vhost_iotlb vhost_vsock vsock"
    " vmw_vsock_* veth bridge stp llc vxlan udp_tunnel ip6_udp_tunnel macvlan macvtap ifb dummy"
    " 8021q garp mrp vrf wireguard curve25519* libcurve25519* libchacha* chacha* poly1305*"
    " libpoly1305* libblake2s* geneve gre ip_gre ip_tunnel ipip tunnel4 tunnel6 ip6_tunnel sit"
    " bonding tls ipvlan macsec openvswitch nsh nf_* nft_* nfnetlink* xt_* x_tables ip_tables"
    " ip6_tables iptable_* ip6table_* ip_set* sch_* cls_* act_* em_* libcrc32c crc32c* loop"
    " overlay fuse squashfs isofs vfat fat nls_* ext4 netlink_diag af_packet_diag packet_diag"
    " inet_diag tcp_diag udp_diag unix_diag raw_diag psample nbd virtiofs nsim netconsole mpls_*"
    " gro_cells pps_core ptp"
)
"""Modules that a lab's links, rules, queues, guests and images let the kernel load.

Not br_netfilter: it changes what bridges do for the whole machine.
"""

FOLLOWING = {
    "file": {
        "/dev/kvm": "kvm",
        "/dev/loop*": "loop",
        "/dev/vhost-net": "vhost_net",
        "/dev/vhost-vsock": "vhost_vsock",
        "/dev/vsock": "vsock",
        "/dev/nbd*": "nbd",
        "/dev/block/7:*": "loop",
    },
    "disk": {"loop*": "loop", "nbd*": "nbd"},
    "link": {"bond0": "bonding", "ifb[01]": "ifb", "dummy0": "dummy"},
    "sysctl": {
        "net/netfilter/nf_conntrack*": "nf_conntrack",
        "net/nf_conntrack_max": "nf_conntrack",
        "net/netfilter/nf_log/*": "nf_log_syslog",
        "net/netfilter/nf_flowtable*": "nf_flow_table",
        "net/netfilter/nf_hooks*": "nf_tables",
        "net/ipv4/conf/{tunl0,gre0,gretap0,erspan0}": "ip_tunnel",
        "net/mpls/*": "mpls_router",
        "net/mpls/conf/*": "mpls_router",
        "net/vrf/*": "vrf",
        "net/netfilter/**": "nfnetlink",
    },
}
"""What the kernel adds together with a module: noted where that module is new."""

SSH = re.compile(r"sshd(-session|-auth)?: |\S*/sshd(-session|-auth)? .*-R")
SSH_PLACE = re.compile(
    r"/system\.slice/ssh\.service|/user\.slice/user-\d+\.slice/session-[^/]+\.scope"
)
"""A login by SSH: the first is at the service, then in a session."""

TROUBLE = re.compile(
    # That KVM does not know a register, and said so to the guest, is no trouble of this machine's.
    r"(?!.*\bUnhandled (?:RD|WR)MSR)^.*(?:"
    r"\bBUG\b|\bWARNING\b|\bOops\b|\bpanic\b|segfault|general protection|hung task"
    r"|blocked for more than|soft lockup|hard lockup|rcu.*\bstall|I/O error|Call Trace"
    r"|Out of memory|oom-kill|invoked oom-killer|oom_reaper|apparmor=.?.?DENIED"
    r"|\bkvm.*(error|fail|unhandled|unexpected)|unregister_netdevice: waiting"
    r"|\btraps: |(EXT4|XFS|BTRFS).*error|UBSAN|KASAN|use-after-free|refcount_t)",
    re.IGNORECASE,
)
"""What a message of the kernel says when something is wrong."""


def _globs(text: str) -> list[str]:
    """Return the globs of a text, with {a,b} spread out."""
    spread = []
    for glob in text.split():
        found = re.fullmatch(r"(.*)\{(.*)\}(.*)", glob)
        spread += [f"{found[1]}{p}{found[3]}" for p in found[2].split(",")] if found else [glob]
    return spread


@cache
def _matcher(text: str) -> Callable[[str], object]:
    return matcher(_globs(text))


def _among(lists: dict[str, str], name: str) -> str:
    return next((reason for reason, globs in lists.items() if _matcher(globs)(name)), "")


def _service(cgroup: str) -> str:
    """Return the reason why a unit may come and go; empty where there is none."""
    found = re.match(r"/system\.slice/(?:system-[^/]+\.slice/)?([^/]+)\.service(/|$)", cgroup)
    return _among(SERVICES, found[1]) if found else ""


def process(value: object) -> str:
    """Return why a process may come or go; empty where it may not."""
    if not isinstance(value, dict):
        return ""
    command, cgroup = str(value.get("command")), str(value.get("cgroup", ""))
    if value.get("asks"):
        return "asks for the snapshot"
    # The listener is no login: a second one would be somebody's own.
    if SSH.match(command) and "[listener]" not in command and SSH_PLACE.match(cgroup):
        return LOGIN
    if re.match(r"\(sd-|\(systemd\)|\S*/systemd-executor ", command):
        return UNITS
    user = r"/user\.slice/user-\d+\.slice/user@\d+\.service/"
    if re.match(user + r"init\.scope", cgroup):
        return LOGIN
    if re.match(user + r"\w+\.slice/dbus\.service", cgroup):
        return LOGIN
    return _service(cgroup)


def _namespace(value: object, processes: Things) -> str:
    """Allow a namespace where each process in it is allowed."""
    holders = value.get("by") if isinstance(value, dict) else None
    reasons = [process(processes.get(holder)) for holder in holders or []]
    return reasons[0] if reasons and all(reasons) else ""


def reason(kind: str, name: str, value: object, other: object, processes: Things) -> str:
    """Return why a difference is allowed; empty where it is not.

    `value` is what is there (or what was, of a thing that is gone), `other` what was before.
    """
    if kind == "process":
        return process(value)
    if kind == "kernel thread":
        return _among(KERNEL_THREADS, str(value.get("command")) if isinstance(value, dict) else "")
    if kind == "namespace":
        return _namespace(value, processes)
    if kind == "cgroup":
        return _among(CGROUPS, name) or _service(name)
    if kind == "neighbour":
        # A fixed one is there for good: whoever sets or removes it changes the machine.
        fixed = [v for v in (value, other) if isinstance(v, dict) and v.get("fixed")]
        return "" if fixed else "the kernel learns and forgets neighbours by traffic"
    lists = {"file": FILES, "mount": MOUNTS, "sysctl": SYSCTLS, "BPF program": BPF}
    return _among(lists.get(kind, {}), name)


def noted(kind: str, name: str, value: object, new_modules: set[str], new_links: set[str]) -> str:
    """Return why a new thing is only noted; empty where it is not."""
    # A disk in use did not just come with its module.
    if kind == "disk" and value != {"size": "0"}:
        return ""
    if kind == "sysctl" and name.rpartition("/")[2] in new_links and "/" in name:
        return "goes with the link, which is new"
    if kind == "offload" and name.rpartition("of ")[2] in new_links:
        return "goes with the link, which is new"
    if kind == "module":
        return "a lab's use loads it" if _matcher(MODULES)(name) else ""
    for glob, module in FOLLOWING.get(kind, {}).items():
        if module in new_modules and _matcher(glob)(name):
            return f"came with the module {module}"
    return ""
