"""Random numbers that are a function of (seed, pass, site, example), and the threads that draw them."""
