"""The HTTP routes of each task."""
