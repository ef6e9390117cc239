"""Programs about matrices: `simulate` (a simulated clock), `proof` (real labs on real workers)."""
