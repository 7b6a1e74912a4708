"""What a run leaves on disk, written as it happens and checked when it is read."""
