"""How good a network is: measurements of slices, put together over persons and folds, calibrated and reported."""
