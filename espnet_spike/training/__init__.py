"""Train, resume and sparsify an experiment; refuse one that did not learn (stages 6 to 9).

Here lives what fills an experiment folder.
Decoding and results live beside and above; they are not known here.
"""
