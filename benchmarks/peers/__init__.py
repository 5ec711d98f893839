"""The parts of compare_peers.py: the cases, the contestants, the race between them, and its tables."""
