"""What a cell of the proof does: a real lab of two namespaces on a bridge, and pings across it."""

from __future__ import annotations

from labctl import Arm, Case, Trial, experiment

LAB = {
    "name": "cell",
    "networks": {"lan": {"subnets": ["10.0.1.0/24", "fd00:1::/64"]}},
    "nodes": {
        f"n{number}": {
            "kind": "namespace",
            "interfaces": [
                {"network": "lan", "addresses": [f"10.0.1.{number}/24", f"fd00:1::{number}/64"]}
            ],
        }
        for number in (1, 2)
    },
}
TARGETS = {"ipv4": "10.0.1.2", "ipv6": "fd00:1::2", "nobody": "10.0.1.9"}
"""Nobody has the last, so these cells fail: a verdict must come home as it is, too."""


@experiment(
    "cell",
    topology=LAB,
    hypothesis="Pings of each size are answered over a bridge.",
    variants={"to": TARGETS, "size": ["8", "56", "1000", "1400"]},
)
def cell(trial: Trial, arm: Arm, case: Case) -> None:
    """Ping over a bridge."""
    words = ["ping", "-n", "-c", "1", "-s", case["size"], "-W", "2", case["to"]]
    answered = trial.lab.node("n1").run(words, check=False).ok
    arm.check("ping", "answered", "answered" if answered else "lost", answered)
