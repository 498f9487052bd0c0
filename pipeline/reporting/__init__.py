"""Pages, charts and tables that show results to people."""
