"""The bench: what ai-how takes, beside a floor measured in the same run. `run` starts it; docs/bench.md explains it.

`__main__` chooses the parts and opens a lab, one file per part measures, `measure` holds the clock, `report` the
numbers and how they are shown.
"""
