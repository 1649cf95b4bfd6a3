"""What trainings of networks and of agents share."""
