"""What a model decided by, what it guarantees, and how far: explanation, verification, area curves, intervals."""
