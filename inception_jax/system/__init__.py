"""The process and the machine: files, directories, signals, other hosts, XLA's flags, memory and cores."""
