"""The intake: from the bytes of a corpus to clean rows with a split."""
