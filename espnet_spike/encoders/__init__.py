"""What ``encoder:`` in the YAML names, its blocks, its spike options and its monitor.

Here live networks that take padded features and return padded frames, as ESPnet's encoders do.
Nothing here registers, loads or trains a model: that is ``tasks`` and above.
"""
