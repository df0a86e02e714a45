"""Delivery: ended traces wait in a bounded buffer, and one worker stores them in batches."""
