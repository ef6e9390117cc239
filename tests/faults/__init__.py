"""Kills at random moments: `make faults`. docs/reliability.md tells what came of them."""
