"""A trained encoder in int8 weights and int16 activations as a whole, in numpy.

The replay checks kernels one by one, on activations of the float network; here errors run on from
layer to layer, as they do on the core, to the words that come out.
"""
