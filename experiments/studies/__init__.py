"""Studies of the project itself: each folder one, with what it showed."""
