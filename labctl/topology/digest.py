"""The digest of a topology: whether two runs were of the same one."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from labctl.topology.model import Topology

_LATER_KEYS = ("hypervisor", "host", "kind", "role", "disk", "segments", "segment", "options",
               "user_data", "user_data_file", "forwarder", "forwarder_options", "impairment",
               "files", "exec", "login", "console", "console_only")  # fmt: skip
"""What is in no digest where nothing is said of it."""
_LATER_IN_PLANS = (
    "programs", "redirects", "lower", "netns", "peer_netns", "address", "peer_address", "headroom",
    "patch",
)  # fmt: skip


def digest(topology: Topology) -> str:
    """Return the SHA-256 (hexadecimal) of everything but file paths and labels.

    Of a kernel or initramfs of the user's own only its presence counts: which one ran belongs
    to the run's environment.
    """
    content = dataclasses.asdict(topology)
    del content["source"]
    for name, node in content["nodes"].items():
        disk = topology.nodes[name].disk
        node["disk"] = disk.identity() if disk else None
        node["kernel"] = node["kernel"] is not None
        node["initramfs"] = node["initramfs"] is not None
        node["user_data_file"] = node["user_data_file"] is not None
        if login := node["login"]:  # where a secret lies makes it no other topology
            node["login"] = {"user": login["user"], "by": "key" if login["key"] else "password"}
        for step in node["console"]:
            step["secret"] = step["secret"] is not None
        for file in node["files"]:
            file["source"] = file["source"] is not None
        del node["clone"]  # how it starts makes it no other guest
        del node["tools"]  # nor does what was found in it
    for things in (content["networks"], content["nodes"], content["routers"]):
        for thing in things.values():
            for part in (thing, *thing.get("interfaces", ())):
                del part["labels"]
                if wanted := part.get("impairment"):
                    part["impairment"] = {key: one for key, one in wanted.items() if one}
                # Topologies that say nothing of these keep the digests from before them.
                for key in _LATER_KEYS:
                    if not part.get(key, True):
                        del part[key]
    for network in content["networks"].values():
        for segment in network.get("segments", ()):
            made = segment["plan"]
            for part in (made, *made["links"], *made["programs"]):
                # So do plans that say nothing of what plans could not say then.
                for key in _LATER_IN_PLANS:
                    if not part.get(key, True):
                        del part[key]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
