"""Records: what a run found, kept on disk so that it can be read, shown and compared later.

`Recorder` writes a run's directory, `list_runs`, `find` and `load` read it back, `diff` compares
two runs, `tables` turns any of them into plain rows. Nothing here prints.
"""

from labctl.results.difference import Change, CheckChange, Difference, diff
from labctl.results.model import (
    ArmResult,
    Check,
    Environment,
    Offloads,
    Run,
    Verdict,
    combine,
    host_environment,
)
from labctl.results.recorder import Recorder, results_root
from labctl.results.store import RunState, Summary, find, list_runs, load
from labctl.results.tables import Table, difference_tables, list_table, run_tables

__all__ = [
    "ArmResult",
    "Change",
    "Check",
    "CheckChange",
    "Difference",
    "Environment",
    "Offloads",
    "Recorder",
    "Run",
    "RunState",
    "Summary",
    "Table",
    "Verdict",
    "combine",
    "diff",
    "difference_tables",
    "find",
    "host_environment",
    "list_runs",
    "list_table",
    "load",
    "results_root",
    "run_tables",
]
