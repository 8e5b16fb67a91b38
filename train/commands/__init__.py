"""One file for each command: its options in, a call down, words out."""
