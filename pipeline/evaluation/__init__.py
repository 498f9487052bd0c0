"""What `evaluate` measures of a model, a module a question; each with an `evaluate.Measurement` that works offline."""
