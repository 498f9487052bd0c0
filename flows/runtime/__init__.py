"""What makes the flows safe: processes, locks, approval, provenance, artifacts."""
