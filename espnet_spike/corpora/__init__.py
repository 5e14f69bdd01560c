"""Data preparation of each corpus, straight from its original layout to Kaldi directories."""
