"""libarchive is found without another program."""

from __future__ import annotations

import subprocess
import sys


def test_libarchive_is_loaded_without_starting_a_program() -> None:
    code = """
import subprocess, os
def no(*_words, **_more):
    raise AssertionError("a program is started")
subprocess.Popen = os.popen = os.system = no
from labctl.images.archives import libarchive
assert libarchive().ffi.version_number() >= 3000000
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
