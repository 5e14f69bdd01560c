"""Command lines, options, YAML, files, provenance, jobs, clusters and stages.

Here lives what knows no word of speech or of networks; the standard library and small packages.
If a function here mentions an encoder, it is in the wrong place.
"""
