"""The command line: it parses flags and prints results; the work is done elsewhere."""
