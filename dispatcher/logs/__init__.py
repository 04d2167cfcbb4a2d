"""What daemon and executor say: the catalogue, and how its lines are written and held back."""
