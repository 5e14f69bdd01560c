"""Operations, spikes and energy of a running network; its dense twin; sweeps (stage 12).

Here live the ledger, the rules of what costs what, and the price lists.
Cycles of hardware are not: they live in ``simulator``, which is not known here.
"""
