"""Error rates with intervals; tables and pages of experiments (stages 11 and 14).

Here live readers of ``result.json``, ``count.json`` and ``hardware.json``, and what shows them.
Neither the counter nor the simulator is imported: their results are read as dictionaries.
"""
