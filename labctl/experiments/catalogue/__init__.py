"""The catalogue: paths that join two machines, each with what is expected and what was measured.

`rows` says what they are, `row` makes an experiment of one, `run` runs them.
"""
