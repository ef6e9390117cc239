"""What ssh(1) asks for a password: SSH_ASKPASS, which has no words of its own.

It prints the line of a file that the environment names. So the password is in no command line and
in no environment, and is read by the user of the lab alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "LABCTL_PASSWORD_FILE"


def program() -> Path:
    """Return the program that runs `main`: it is installed beside Python."""
    return Path(sys.executable).with_name("labctl-askpass")


def environment(password: Path) -> dict[str, str]:
    """Return what lets ssh(1) log in by the password in a file (OpenSSH 8.4 and later)."""
    return {
        "SSH_ASKPASS": str(program()),
        "SSH_ASKPASS_REQUIRE": "force",
        VARIABLE: str(password),
    }


def main() -> int:
    """Print the password; return the exit status."""
    try:
        sys.stdout.write(Path(os.environ[VARIABLE]).read_text() + "\n")
    except (KeyError, OSError):
        return 1
    return 0
