"""What earlier trainings give a new one: slices that must not be forgotten, and teachers."""
