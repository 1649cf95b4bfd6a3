"""What all rooms share: devices, files, memory, precision, the machine, and a registry of names."""
