"""Networks: built by name or from a user's file, with weights that execute nothing."""
