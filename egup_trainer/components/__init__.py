"""Everything that acts on a step of training: one component per idea, and what they share."""
