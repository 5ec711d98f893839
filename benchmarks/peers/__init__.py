"""Parts of compare_peers.py: cases, contestants, the race between them, and its tables."""
