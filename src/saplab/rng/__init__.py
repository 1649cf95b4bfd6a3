"""Random numbers as a function of (seed, pass, site, example), and the threads that draw them."""
