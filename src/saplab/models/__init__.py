"""Networks: the paper's, a public one, and whatever a user names."""
