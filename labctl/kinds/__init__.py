"""Kinds: what a lab can be made of, one class in one file each, found by the word in YAML.

`registry` finds them, in other packages too; see docs/kinds.md.
"""
