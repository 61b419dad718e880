"""Parley under faults and load: what is lost, doubled or refused, in how many trials, and in what time."""
