"""Scores of a network: measurements of slices, averaged over persons and folds, calibrated and reported."""
