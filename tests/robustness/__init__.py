"""The campaign of faults: what others give us, damaged in every way, goes through our commands.

``python -m tests.robustness --cases 4000 --seed 1`` (or ``make fuzz N=4000 SEED=1``) prints what
came of it. `campaign` draws the cases and judges them, `drivers` are the commands with small
inputs, `tables`, `structured` and `binary` damage the inputs, `known` lists what still goes wrong.
"""
