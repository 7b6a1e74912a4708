"""What plans cost: quantities, closed forms, budgets, and the projection onto them."""
