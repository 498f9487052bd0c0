"""What models share across stages: batches, losses, attention, loading, safety."""
