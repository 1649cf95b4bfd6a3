"""What every floor shares: files, words, precision, memory, and the machine."""
