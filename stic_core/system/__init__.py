"""The machine around the program: files, keys, terminal, signals, errors of commands."""
