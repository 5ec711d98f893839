"""Process and machine: files, directories, signals, hosts, XLA flags, memory and cores."""
