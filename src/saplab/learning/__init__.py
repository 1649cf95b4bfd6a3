"""What training networks and training agents have in common: checkpoint, history, progress and plot."""
