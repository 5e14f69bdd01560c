"""What ``decoder:`` in the YAML names.

Here live networks that give the next token's probabilities, for whole sequences or step by step.
Nothing here searches, registers or loads: that is ``tasks`` and above.
"""
