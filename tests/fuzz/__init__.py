"""Fuzzing of what reads others' bytes: `python -m tests.fuzz`, or `make fuzz`."""
