"""Matrices of experiments: cells, how they are run here and on other machines, and their folder."""
