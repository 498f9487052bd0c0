"""What changed between two versions of the data."""
