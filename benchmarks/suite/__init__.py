"""What ``bench.py`` measures, section by section, and the timing that the other scripts of this folder share."""
