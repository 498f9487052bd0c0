"""The verdict: whether the candidate replaces the champion."""
