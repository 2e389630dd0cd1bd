"""The torture suite: runs that are killed, starved, corrupted and changed, and counts of how many came through."""
