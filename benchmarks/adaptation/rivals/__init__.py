"""What adapts to a stream of steps, behind one protocol."""
