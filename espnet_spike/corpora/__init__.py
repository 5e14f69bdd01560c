"""From a published corpus, or a user's own recordings, to Kaldi data directories (stage 1).

Here live download and layout of each corpus, and manifests of own data.
Features, tokens and networks do not; only ``data`` and what is below it is known here.
"""
