"""Links, addresses, routes, queues and firewall of the machine's own network namespace."""

from __future__ import annotations

import json
import re

from .machine import Machine, SkippedError, Things, numbered

PASSING = re.compile(
    r".*_timer|.*_life_time|expires|used|age|stats.*|refcnt|handle|bytes|packets|ifindex_peer"
)
"""Fields that change by themselves: timers, life times, counters."""


def _lasting(value: object) -> object:
    """Return a value of JSON without the fields that change by themselves."""
    if isinstance(value, dict):
        return {k: _lasting(v) for k, v in value.items() if not PASSING.fullmatch(k)}
    if isinstance(value, list):
        return [_lasting(item) for item in value]
    return value


def links(machine: Machine) -> Things:
    """Return the links with all their lasting settings (MTU, flags, master, XDP, kind, ...)."""
    return {
        str(link.get("ifname")): _lasting(link) for link in machine.json("ip", "-j", "-d", "link")
    }


def offloads(machine: Machine) -> Things:
    """Return the offload settings of each link (`ethtool -k`)."""
    things: Things = {}
    for link in machine.json("ip", "-j", "-d", "link"):
        name = str(link.get("ifname"))
        try:
            told = machine.run(["ethtool", "-k", name])
        except SkippedError as error:  # it may have gone meanwhile
            things[f"of {name}"] = str(error)
            continue
        for line in told.splitlines()[1:]:
            setting, _, value = line.strip().partition(": ")
            things[f"{setting} of {name}"] = value
    if things and all(setting.startswith("of ") for setting in things):
        raise SkippedError("; ".join(map(str, things.values())))
    return things


def addresses(machine: Machine) -> Things:
    """Return the addresses, apart from how long they are still valid."""
    things: Things = {}
    for link in machine.json("ip", "-j", "address"):
        told = link.get("addr_info")
        for address in told if isinstance(told, list) else []:
            name = f"{address.get('local')}/{address.get('prefixlen')} on {link.get('ifname')}"
            numbered(things, name, _lasting(address))
    return things


def routes(machine: Machine) -> Things:
    """Return the routes of all tables."""
    things: Things = {}
    for family in ("-4", "-6"):
        for route in machine.json("ip", "-j", family, "route", "show", "table", "all"):
            words = (route.get("type"), route.get("dst"), "dev", route.get("dev"))
            table = f" table {route['table']}" if "table" in route else ""
            numbered(things, " ".join(map(str, filter(None, words))) + table, _lasting(route))
    return things


def rules(machine: Machine) -> Things:
    """Return the rules that choose a routing table."""
    things: Things = {}
    for family in ("-4", "-6"):
        for rule in machine.json("ip", "-j", family, "rule"):
            numbered(things, f"{family} {rule.get('priority')}", _lasting(rule))
    return things


def neighbours(machine: Machine) -> Things:
    """Return the neighbours; of those learned by traffic only that they were."""
    things: Things = {}
    for entry in machine.json("ip", "-j", "neighbour", "show", "nud", "all"):
        state = entry.get("state")
        states = state if isinstance(state, list) else [state]
        fixed = "PERMANENT" in states
        value: object = {"address": entry.get("lladdr"), "fixed": True}
        things[f"{entry.get('dst')} on {entry.get('dev')}"] = value if fixed else {"fixed": False}
    return things


def queues(machine: Machine) -> Things:
    """Return the queueing disciplines, where classifiers hang too."""
    things: Things = {}
    for entry in machine.json("tc", "-j", "qdisc", "show"):
        name = f"{entry.get('kind')} on {entry.get('dev')} {entry.get('parent', 'root')}"
        numbered(things, name, _lasting(entry))
    return things


def firewall(machine: Machine) -> Things:
    """Return tables, chains, sets and rules of nftables, and the tables of old iptables."""
    things: Things = {}
    for family in ("ip", "ip6", "arp"):
        for name in (machine.text(f"proc/net/{family}_tables_names") or "").split():
            things[f"iptables-legacy {family} {name}"] = {}
    # The program loads nf_tables: where that is not loaded there is no rule, and it stays so.
    if "nf_tables" not in machine.names("sys/module"):
        return things
    told = json.loads(machine.run(("nft", "-j", "list", "ruleset")) or "{}")
    for item in told.get("nftables", []):
        for kind, value in item.items():
            if kind == "metainfo":
                continue
            words = (kind, value.get("family"), value.get("table"), value.get("chain"))
            name = " ".join(str(word) for word in (*words, value.get("name")) if word)
            numbered(things, name, _lasting(value))
    return things
