"""Prefect flows that retrain, watch and roll back."""
