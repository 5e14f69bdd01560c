"""One-line mistakes in what figures rest on, each of which its tests have to find."""
