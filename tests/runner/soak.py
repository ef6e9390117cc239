"""How long a runner holds: guests come and go under its KVM until it breaks or the time is over."""

from __future__ import annotations

import itertools
import time

from . import plan, sessions, store
from .image import USER, say
from .machine import RunnerError, TimeoutEndedError

ROUND = """\
labctl up bridged.yaml
labctl ssh vm1 -- ssh vm2 'for i in $(seq 2000); do :; done; dd if=/dev/zero bs=64k count=200' \
  | md5sum | grep -q '^[0-9a-f]'
labctl trace vm1 vm2 --tcp 22 >/dev/null
labctl down
"""
ROUND_SECONDS = 1200.0


def run(suite: str, options: sessions.Options, seconds: float) -> int:
    """Let guests come and go for so long; return 0 when the runner held, 3 when it broke."""
    image = store.get(suite, anew=options.anew)
    folder = options.results / "soak"
    folder.mkdir(parents=True, exist_ok=True)
    begun, rounds = time.monotonic(), 0
    with sessions.booted(
        image, options.processor, options.memory, folder / "console.log"
    ) as machine:
        sessions.prepare(machine)
        say(f"soak: {options.processor}; up after {machine.uptime:.0f} s")
        for rounds in itertools.count():
            if time.monotonic() - begun > seconds:
                break
            user = (USER, "root")[rounds % 2]
            try:
                ended = machine.run(user, plan.ENTER + ROUND, ROUND_SECONDS)
            except TimeoutEndedError as late:
                say(f"soak: round {rounds + 1} {late}")
                return 3
            except RunnerError as error:
                say(f"soak: broke in round {rounds + 1}: {error}")
                return 3
            if ended.status:
                say(f"soak: round {rounds + 1} failed: {ended.output.strip()[-600:]}")
                return 1
            say(f"soak: round {rounds + 1} as {user}: {ended.seconds:.0f} s; "
                f"uptime {machine.uptime / 60:.1f} min")  # fmt: skip
        uptime = machine.uptime
    say(f"soak: {rounds} rounds in {uptime / 60:.1f} minutes of uptime: it held")
    return 0
