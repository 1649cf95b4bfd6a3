"""Where cells are computed: in this process, in others, on a Ray cluster."""
